"""INITIAL_CHECKPOINT_PATH: the checkpoint of a run's start, and its fresh parameters."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyperprompt_jax.checkpoints.differences import by_path, check_same_parameters
from hyperprompt_jax.checkpoints.lazy import LazyArray, arranged, load
from hyperprompt_jax.checkpoints.source import METHOD, VOCABULARY_AXES, Source, open_source
from hyperprompt_jax.errors import UserError, shown
from hyperprompt_jax.model import Model
from hyperprompt_jax.training.settings import LAST_TASK, NONE, TASK, InitialCheckpoint


def open_initial(initial: InitialCheckpoint, model: Model) -> 'Initial | None':
  """Opens the checkpoint that a network starts from, and checks that it fits.

  Args:
    initial: is the checkpoint, and the parameters that start fresh.
    model: is the network.

  Raises:
    UserError: as `open_for` does; or if the last task alone is to be fresh, and the
      checkpoint is not one of the others.
  """
  if initial.path is None:
    return None
  source = open_source(initial.path)
  _check_network(source, model)
  if initial.fresh != LAST_TASK:
    return open_for(initial, model.param_shapes(), source=source)
  others = dataclasses.replace(model, task_list=model.task_list[:-1])
  return open_for(initial, others.param_shapes(), others.task_list, source)


def _check_network(source: Source, model: Model) -> None:
  """Checks that a checkpoint is of a run's network, by its settings.

  The parameters are compared later. Where a setting differs, most of them would.

  Raises:
    UserError: if a setting other than the rows of the vocabulary differs.
  """
  try:
    differences = source.differences(model.config)
  except UserError:  # it is damaged, of which the table of parameters tells more
    return
  if set(differences) - {'vocab_size'}:
    listed = ', '.join(
      f'{name} is {shown(there)} there and {shown(here)} here'
      for name, (there, here) in differences.items()
    )
    raise UserError(
      f'{source.path} is of another network than config.Config: {listed}; leave out the '
      'gin file of the size, as the checkpoint gives its own'
    )


def open_for(
  initial: InitialCheckpoint,
  like: Any,
  task_list: tuple[str, ...] | None = None,
  source: Source | None = None,
) -> 'Initial | None':
  """Opens the checkpoint, and compares it with parameters, both ways.

  Args:
    initial: is the checkpoint, and the parameters that start fresh.
    like: holds the parameters, as arrays or shapes.
    task_list: is the task list that the checkpoint must have; None for any.
    source: is the checkpoint, if it is open already.

  Raises:
    UserError: if it cannot be read, or differs from the network in anything but what starts
      fresh: with a table.
  """
  if initial.path is None:
    return None
  source = source or open_source(initial.path)
  if task_list is not None and source.task_list != task_list:
    raise UserError(
      f'{initial.path} is of the task list {", ".join(source.task_list) or "(none)"}; '
      f"FRESH_PARAMETERS='{LAST_TASK}' takes that of this run without its last, "
      f'{", ".join(task_list) or "(none)"}: list the old tasks first, in their order'
    )
  if initial.fresh == TASK and source.method_paths:
    raise UserError(
      f'{initial.path} holds parameters of a method ({source.method_paths[0]}, …), and '
      f"FRESH_PARAMETERS='{TASK}' would lose them: set '{NONE}' to load "
      'them, or leave them out with hyperprompt convert --drop_method'
    )
  wanted = {
    path: leaf
    for path, leaf in by_path(like).items()
    if initial.fresh != TASK or not path.startswith(METHOD)
  }
  unchanged = source
  if initial.resize_vocabulary:
    embedding, axis = next(iter(VOCABULARY_AXES.items()))
    source = source.with_vocabulary(wanted[embedding].shape[axis])
  arrays = arranged(source.arrays, wanted)
  check_same_parameters(initial.path, wanted, arrays, _remedy(initial, source, wanted))
  return Initial(
    source,
    arrays,
    wanted,
    is_resized=source is not unchanged,
    lacks_task=initial.fresh == LAST_TASK,
  )


def _remedy(initial: InitialCheckpoint, source: Source, wanted: Mapping[str, Any]) -> str:
  """The remedy for a difference."""
  if initial.fresh != TASK and not source.method_paths:
    return (
      "it holds no parameters of a method: set FRESH_PARAMETERS='task' to start them anew"
    )
  for path, axis in VOCABULARY_AXES.items():
    array = source.arrays.get(path)
    if array and len(array.shape) == 2 and path in wanted:
      saved_rows, rows = array.shape[axis], wanted[path].shape[axis]
      if saved_rows != rows:
        return (
          f'it has {saved_rows} rows of the vocabulary and config.Config.vocab_size is '
          f'{rows}: RESIZE_VOCABULARY=True pads or cuts them, and without a gin file of a '
          'size the checkpoint gives its own'
        )
  return 'give config.Config the sizes and options that it has (convert shows them)'


@dataclasses.dataclass(frozen=True)
class Initial:
  """A checkpoint that fits the network.

  Attributes:
    source: is the checkpoint.
    arrays: are its parameters, by their paths in the network.
    wanted: gives the shapes of these parameters in the network, by path.
    is_resized: tells whether the vocabulary's rows were changed.
    lacks_task: tells whether the network has one task more.
  """

  source: Source
  arrays: Mapping[str, LazyArray]
  wanted: Mapping[str, Any]
  is_resized: bool
  lacks_task: bool

  @property
  def step(self) -> int:
    """The number of steps that the checkpoint was trained."""
    return self.source.step

  @property
  def reference(self) -> str | None:
    """The path at which the same parameters can be read again, or None."""
    if self.is_resized:
      return None
    path = self.source.path
    return path if path.startswith('gs://') else os.path.abspath(path)

  def load(self, like: Any) -> dict[str, Any]:
    """Reads the parameters onto the devices of `like`; it may have one more task.

    Raises:
      UserError: if they cannot be read, or one is not finite.
    """
    wanted = {
      path: jax.ShapeDtypeStruct(
        self.wanted[path].shape, leaf.dtype, sharding=leaf.sharding
      )
      for path, leaf in by_path(like).items()
      if path in self.arrays
    }
    loaded = load(self.arrays, wanted, f'reading {self.source.path}')
    for path, finite in by_path(jax.device_get(_are_finite(loaded))).items():
      if not finite:
        raise UserError(f'{self.source.path} is of no use: {path} is not finite there')
    return loaded


@jax.jit
def _are_finite(params: Any) -> Any:
  """Tells for each array whether all its values are finite."""
  return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), params)
