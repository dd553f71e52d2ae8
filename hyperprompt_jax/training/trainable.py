"""The parameters that training changes, and those that it leaves as they are.

Frozen parameters have no gradient and no optimizer state, and are written once
(`checkpoints.frozen`), not to every checkpoint.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods.by_segment import TASKS
from hyperprompt_jax.training.settings import (
  ALL,
  LAST_TASK,
  TASK_AND_LAYER_NORMS,
  OptimisationSettings,
)

Params = Mapping[str, Any]
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TrainableParameters:
  """The parameters that training changes; `resolve` makes it of a choice.

  Attributes:
    choice: is one of the choices of `OptimisationSettings.trainable`.
    task_axes: gives the number of the axis of tasks, for each parameter that has one.
  """

  choice: str = ALL
  task_axes: Mapping[Path, int] = dataclasses.field(default_factory=dict)

  def split(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree like the network's parameters into trainable and frozen leaves."""
    return split_by(params, self._is_trainable)

  def active_part(self, trainable: Params) -> dict[str, Any]:
    """The part of the trainable parameters that a step updates.

    It is all of them; under 'last_task', the row of the last task of each.
    """
    if self.choice != LAST_TASK:
      return dict(trainable)
    return self._by_path(
      lambda axis, x: jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis), trainable
    )

  def with_active_part(self, trainable: Params, active: Params) -> dict[str, Any]:
    """The trainable parameters with another active part; the rest keeps its bits."""
    if self.choice != LAST_TASK:
      return dict(active)
    return self._by_path(
      lambda axis, x, row: jax.lax.dynamic_update_slice_in_dim(
        x, row, x.shape[axis] - 1, axis
      ),
      trainable,
      active,
    )

  def active_tasks(self, by_task: jax.Array) -> jax.Array:
    """The entries of `[t]` for the tasks whose rows the active part has."""
    return by_task[-1:] if self.choice == LAST_TASK else by_task

  def _by_path(self, function: Callable[..., Any], *trees: Params) -> dict[str, Any]:
    first, *others = (traverse_util.flatten_dict(tree) for tree in trees)
    return traverse_util.unflatten_dict(
      {
        path: function(self.task_axes[path], leaf, *(other[path] for other in others))
        for path, leaf in first.items()
      }
    )

  def _is_trainable(self, path: Path) -> bool:
    if self.choice == LAST_TASK:
      return path in self.task_axes
    return (
      self.choice == ALL
      or path[0] == 'method'
      or (self.choice == TASK_AND_LAYER_NORMS and path[-1] == 'scale')
    )


def task_axes(axes: Params) -> dict[Path, int]:
  """Returns the number of the axis of tasks, by path, for parameters that have one."""
  return {
    path: tuple(names).index(TASKS)
    for path, names in traverse_util.flatten_dict(axes).items()
    if TASKS in tuple(names)
  }


# The default of functions that train: every parameter.
EVERY_PARAMETER = TrainableParameters()


def resolve(axes: Params, choice: str) -> TrainableParameters:
  """The parameters of a network that a choice trains.

  Args:
    axes: are the logical axes of the network's parameters (`Model.param_axes`).
    choice: is one of the choices of `OptimisationSettings.trainable`.

  Raises:
    UserError: if there is no such choice, or it leaves nothing to train.
  """
  OptimisationSettings.check('trainable', choice)
  trainable = TrainableParameters(choice, task_axes(axes))
  if not trainable.split(axes)[0]:
    raise UserError(
      f'TUNED_PARAMETERS={choice!r} leaves nothing to train, as the method has no '
      f'parameters: set TUNED_PARAMETERS={ALL!r}, or use another method'
    )
  return trainable


def split_by(
  params: Params, predicate: Callable[[Path], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a nested mapping into the leaves whose paths fulfil a predicate, and others."""
  parts: tuple[dict[Path, Any], dict[Path, Any]] = {}, {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    parts[not predicate(path)][path] = leaf
  return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def merge(*parts: Params) -> dict[str, Any]:
  """The inverse of `TrainableParameters.split` and `split_by`."""
  flat: dict[Path, Any] = {}
  for part in parts:
    flat |= traverse_util.flatten_dict(part)
  return traverse_util.unflatten_dict(flat)
