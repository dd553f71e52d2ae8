"""A lean training loop over arrays in memory, for the demonstration and the studies.

A run is a handful of compiled calls: each scans over many steps, and gathers its batches
by index on the device. Runs that differ by seed or learning rate share one program.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperprompt_jax.model import Batch, Model

Rows = Mapping[str, np.ndarray]
Params = Any


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The recipe by which a network is trained.

  Attributes:
    rate: is the highest learning rate of Adam.
    steps: counts the steps.
    batch_size: counts the rows of a step.
    method_rate: multiplies the rate for the parameters that the method adds.
    tuned: is 'all', or 'method' to leave the backbone as it is.
  """

  rate: float
  steps: int
  batch_size: int
  method_rate: float = 1.0
  tuned: str = 'all'

  def rates(self) -> np.ndarray:
    """The rates of backbone and method, `[steps, 2]`: a linear rise, then a cosine."""
    step = np.arange(1, self.steps + 1)
    warm = max(1, self.steps // 20)
    fall = 0.5 * (1 + np.cos(np.pi * np.clip((step - warm) / (self.steps - warm), 0, 1)))
    rate = self.rate * np.where(step < warm, step / warm, 0.05 + 0.95 * fall)
    backbone = rate if self.tuned == 'all' else 0 * rate
    return np.stack([backbone, rate * self.method_rate], 1).astype(np.float32)


LONGEST = 500  # steps of one call, so that short and long trainings share a program
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def train(
  model: Model,
  params: Params,
  rows: Rows,
  order: np.ndarray,
  rates: np.ndarray,
  look: Callable[[int, Params], None],
  looks: int = 8,
) -> Params:
  """Trains replicas of a network side by side, without dropout.

  One small network leaves a third of a core's time to the start of operations, which
  replicas share.

  Args:
    model: is the network with its method.
    params: are the parameters to start from; their leading axis is that of the replicas.
    rows: are all training rows of each replica.
    order: holds the rows of each step, `[replicas, steps, batch_size]`.
    rates: holds the learning rates of backbone and method, `[replicas, steps, 2]`.
    look: is called with the step and the parameters after every part of the training.
    looks: counts the parts, which are equally long.

  Returns:
    The trained parameters.
  """
  on_device = {name: jnp.asarray(value) for name, value in rows.items()}
  state = (params, jax.vmap(OPTIMIZER.init)(params))
  steps = order.shape[1]
  size = steps // looks
  for start in range(0, size * looks, size):
    for first in range(start, start + size, LONGEST):
      part = slice(first, min(first + LONGEST, start + size))
      batches = jnp.asarray(order[:, part])
      state = _scan(model, state, on_device, batches, rates[:, part])
    look(start + size, state[0])
  return state[0]


@functools.partial(jax.jit, static_argnums=0)
def _scan(model: Model, state: Any, rows: Any, order: Any, rates: Any) -> Any:
  """Takes the steps whose rows and rates are given."""

  def mean_loss(params: Params, batch: Any) -> jax.Array:
    loss, sums = model.loss(params, batch, None)
    return loss / jnp.maximum(sums['tokens'], 1.0)

  def update(state: Any, rows: Any, index: Any, rate: Any) -> Any:
    params, moments = state
    batch = {name: value[index] for name, value in rows.items()}
    updates, moments = OPTIMIZER.update(jax.grad(mean_loss)(params, batch), moments)
    scaled = {
      name: jax.tree.map(lambda x, i=int(name == 'method'): -rate[i] * x, part)
      for name, part in updates.items()
    }
    return optax.apply_updates(params, scaled), moments

  def step(state: Any, inputs: Any) -> tuple[Any, None]:
    return jax.vmap(update)(state, rows, *inputs), None

  steps_first = (jnp.swapaxes(order, 0, 1), jnp.swapaxes(rates, 0, 1))
  return jax.lax.scan(step, state, steps_first)[0]


def epochs(rows: np.ndarray, recipe: Recipe, seed: int) -> np.ndarray:
  """The rows of each step, `[steps, batch_size]`: every epoch is shuffled anew."""
  random = np.random.default_rng(seed)
  wanted = recipe.steps * recipe.batch_size
  count = -(-wanted // len(rows))
  order = np.concatenate([random.permutation(rows) for _ in range(count)])
  return order[:wanted].reshape(recipe.steps, recipe.batch_size)


def right_symbols(model: Model, params: Params, rows: Batch) -> jax.Array:
  """Tells which symbols before the end are right, given those before them.

  Args:
    model: is the network.
    params: are its parameters.
    rows: are rows whose targets all have one length.

  Returns:
    bool, `[rows, length]`.
  """
  logits = model.logits(params, rows)
  return (jnp.argmax(logits, axis=-1) == rows['decoder_target_tokens'])[:, :-1]


@functools.partial(jax.jit, static_argnums=0)
def right_symbols_of_replicas(model: Model, params: Params, rows: Batch) -> jax.Array:
  """Returns `right_symbols` of each replica, which is the leading axis of `params`."""
  return jax.lax.map(lambda replica: right_symbols(model, replica, rows), params)
