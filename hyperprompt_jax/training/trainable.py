"""Which parameters training changes, and which stay as they are.

What stays has no gradient and no optimizer state, and is written once (`checkpoints.base`),
not to every checkpoint.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util

from hyperprompt_jax.errors import UserError

Params = Mapping[str, Any]
Path = tuple[str, ...]

ALL = 'all'
TASK = 'task'
TASK_AND_LAYER_NORMS = 'task_and_layer_norms'
LAST_TASK = 'last_task'
CHOICES = (ALL, TASK, TASK_AND_LAYER_NORMS, LAST_TASK)


@dataclasses.dataclass(frozen=True)
class Tuned:
  """The parameters that training changes.

  Attributes:
    choice: 'all'; 'task', what the method of conditioning adds; 'task_and_layer_norms',
      the scales of the backbone's layer norms besides; or 'last_task', what the last task
      of the task list has for its own.
    task_axes: of each parameter with an axis of tasks, which one that is.
  """

  choice: str
  task_axes: Mapping[Path, int]

  def split(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts a tree like the network's parameters into what is tuned and what is frozen."""
    return split_by(params, self._is_tuned)

  def moving(self, tuned: Params) -> dict[str, Any]:
    """What changes of the tuned parameters: all, or of each the row of the last task."""
    if self.choice != LAST_TASK:
      return dict(tuned)
    return self._by_path(
      lambda axis, x: jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis), tuned
    )

  def moved(self, tuned: Params, moving: Params) -> dict[str, Any]:
    """The tuned parameters with what has changed in its place; the rest to the bit."""
    if self.choice != LAST_TASK:
      return dict(moving)
    return self._by_path(
      lambda axis, x, row: jax.lax.dynamic_update_slice_in_dim(
        x, row, x.shape[axis] - 1, axis
      ),
      tuned,
      moving,
    )

  def _by_path(self, function: Callable[..., Any], *trees: Params) -> dict[str, Any]:
    first, *others = (traverse_util.flatten_dict(tree) for tree in trees)
    return traverse_util.unflatten_dict(
      {
        path: function(self.task_axes[path], leaf, *(other[path] for other in others))
        for path, leaf in first.items()
      }
    )

  def _is_tuned(self, path: Path) -> bool:
    if self.choice == LAST_TASK:
      return path in self.task_axes
    return (
      self.choice == ALL
      or path[0] == 'method'
      or (self.choice == TASK_AND_LAYER_NORMS and path[-1] == 'scale')
    )


def choose(axes: Params, choice: str) -> Tuned:
  """What a choice tunes.

  Args:
    axes: logical axes of the network's parameters (`Model.param_axes`).
    choice: see `Tuned`.

  Raises:
    UserError: if there is no such choice, or it leaves nothing to train.
  """
  if choice not in CHOICES:
    raise UserError(
      f'TUNED_PARAMETERS must be {", ".join(map(repr, CHOICES))}, not {choice!r}'
    )
  task_axes = {
    path: tuple(names).index('tasks')
    for path, names in traverse_util.flatten_dict(axes).items()
    if 'tasks' in tuple(names)
  }
  found = Tuned(choice, task_axes)
  if not found.split(axes)[0]:
    raise UserError(
      f'TUNED_PARAMETERS={choice!r} leaves nothing to train, as the method has no '
      f'parameters: set TUNED_PARAMETERS={ALL!r}, or use another method'
    )
  return found


def split_by(
  params: Params, predicate: Callable[[Path], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parts a nested mapping into leaves whose paths fulfil the predicate, and others."""
  parts: tuple[dict[Path, Any], dict[Path, Any]] = {}, {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    parts[not predicate(path)][path] = leaf
  return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def merge(*parts: Params) -> dict[str, Any]:
  """The inverse of `Tuned.split` and `split_by`."""
  flat: dict[Path, Any] = {}
  for part in parts:
    flat |= traverse_util.flatten_dict(part)
  return traverse_util.unflatten_dict(flat)
