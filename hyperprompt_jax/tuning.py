"""Which parameters training changes, and which stay as they are.

What stays has no gradient and no optimizer state, and is written once (`checkpoints.base`),
not to every checkpoint.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import traverse_util

from hyperprompt_jax.errors import UserError

Params = Mapping[str, Any]
Path = tuple[str, ...]

ALL = 'all'
TASK = 'task'
TASK_AND_LAYER_NORMS = 'task_and_layer_norms'
CHOICES = (ALL, TASK, TASK_AND_LAYER_NORMS)


def split(params: Params, tuned: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parts a tree like the network's parameters.

  Args:
    params: nested mapping.
    tuned: 'all'; 'task', what the method of conditioning adds; or 'task_and_layer_norms',
      the scales of the backbone's layer norms besides.

  Returns:
    The tuned and the frozen part.
  """
  return split_by(params, lambda path: _is_tuned(path, tuned))


def split_by(
  params: Params, predicate: Callable[[Path], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parts a nested mapping into leaves whose paths fulfil the predicate, and others."""
  parts: tuple[dict[Path, Any], dict[Path, Any]] = {}, {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    parts[not predicate(path)][path] = leaf
  return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def merge(*parts: Params) -> dict[str, Any]:
  """The inverse of `split` and `split_by`."""
  flat: dict[Path, Any] = {}
  for part in parts:
    flat |= traverse_util.flatten_dict(part)
  return traverse_util.unflatten_dict(flat)


def check(params: Params, tuned: str) -> None:
  """Checks a choice for a network.

  Raises:
    UserError: if there is no such choice, or it leaves nothing to train.
  """
  if tuned not in CHOICES:
    raise UserError(
      f'TUNED_PARAMETERS must be {", ".join(map(repr, CHOICES))}, not {tuned!r}'
    )
  if not split(params, tuned)[0]:
    raise UserError(
      f'TUNED_PARAMETERS={tuned!r} leaves nothing to train, as the method has no '
      f'parameters: set TUNED_PARAMETERS={ALL!r}, or use another method'
    )


def _is_tuned(path: Path, tuned: str) -> bool:
  return (
    tuned == ALL
    or path[0] == 'method'
    or (tuned == TASK_AND_LAYER_NORMS and path[-1] == 'scale')
  )
