"""Methods of one size: each is given the widths at which it adds as many parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.nn.config import Config

# The largest difference from a budget, and one that ends the search.
TOLERANCE, CLOSE = 0.02, 0.01


@functools.lru_cache(maxsize=1024)
def added_parameters(method: Method, config: Config, num_tasks: int) -> int:
  """Counts the parameters that a method adds to a network, with no memory taken."""
  embedding = jax.ShapeDtypeStruct((config.vocab_size, config.emb_dim), jnp.float32)
  init = lambda rng, table: method.init(rng, config, num_tasks, table)
  variables: Any = jax.eval_shape(init, jax.random.key(0), embedding)
  return sum(leaf.size for leaf in jax.tree.leaves(variables.get('params', {})))


def within_budget(
  method: Method, config: Config, num_tasks: int, extra_parameters: int
) -> Method:
  """Gives a method the widths at which it adds a number of parameters, to 2 %.

  Args:
    method: is a method of any widths. Its `budgeted` attributes are set anew; the others,
      such as the prompt length of HyperPrompt, stay.
    config: is the network's configuration.
    num_tasks: is t.
    extra_parameters: is the number of parameters that the method may add.

  Returns:
    The method with other widths. One that adds nothing stays as it is.

  Raises:
    UserError: if no widths come within 2 %.
  """
  if not method.budgeted:
    return method
  first, *second = method.budgeted
  nearest = lambda option: abs(_added(option, config, num_tasks) - extra_parameters)
  best: Method | None = None
  for option in _widths_around(method, *second):
    fitted = _fit(option, first, config, num_tasks, extra_parameters)
    if best is None or nearest(fitted) < nearest(best):
      best = fitted
    if nearest(best) <= CLOSE * extra_parameters:
      break
  assert best is not None
  if nearest(best) > TOLERANCE * extra_parameters:
    added = _added(best, config, num_tasks)
    raise UserError(
      f'EXTRA_PARAMETERS={extra_parameters} cannot be met to 2 % by '
      f'{type(method).__name__}: with {_widths(best)} it adds {added}. Choose another '
      f'number for all methods, such as MATCHED_PARAMETERS of the size'
    )
  return best


def _widths_around(method: Method, name: str | None = None) -> list[Method]:
  """The method itself, and with other values of an attribute, the nearest first."""
  if name is None:
    return [method]
  width = getattr(method, name)
  values = sorted(range(max(1, width // 2), 2 * width + 1), key=lambda x: abs(x - width))
  return [_with_width(method, name, value) for value in values]


def _fit(
  method: Method, name: str, config: Config, num_tasks: int, extra_parameters: int
) -> Method:
  """Sets an attribute, in which the number of parameters is affine."""
  one, two = (_added(_with_width(method, name, n), config, num_tasks) for n in (1, 2))
  value = 1 + round((extra_parameters - one) / (two - one))
  return _with_width(method, name, max(1, value))


def _with_width(method: Method, name: str, value: int) -> Method:
  changes: Any = {name: value}
  return method.clone(**changes)


def _added(method: Method, config: Config, num_tasks: int) -> int:
  return added_parameters(method, config, num_tasks)


def _widths(method: Method) -> str:
  return ', '.join(f'{name}={getattr(method, name)}' for name in method.budgeted)
