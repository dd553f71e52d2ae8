"""An Orbax handler for the position in the training data."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import orbax.checkpoint as ocp
from etils import epath


class TrainingData(Protocol):
  """Endless training batches that write their position into a checkpoint.

  Attributes:
    num_shards: is the number of shards over all hosts that the position depends on.
    number: is the number of batches that have been read; None if they are not counted.
  """

  @property
  def num_shards(self) -> int: ...  # noqa: D102

  @property
  def number(self) -> int | None: ...  # noqa: D102

  def record(self) -> Mapping[str, Any]:
    """Returns JSON by name that a resumed run must share with its start."""

  def save(self, directory: epath.Path) -> None:
    """Writes this host's part of the position under a folder."""

  def restore(self, directory: epath.Path) -> None:
    """Moves to the position that was saved under a folder."""


class IteratorHandler(ocp.CheckpointHandler):
  """Lets the training data write and read their own position.

  So a resumed run reads the very examples that the unbroken one would have read, at no
  cost that grows with the steps done, and on as many hosts as there are then. Saving is
  synchronous: training moves on as soon as `save` returns.
  """

  def save(self, directory: epath.Path, args: 'IteratorSave') -> None:
    """Writes the position under `directory`."""
    args.data.save(directory)

  def restore(self, directory: epath.Path, args: 'IteratorRestore') -> TrainingData:
    """Moves `args.data` to the saved position, and returns them."""
    args.data.restore(directory)
    return args.data


@ocp.args.register_with_handler(IteratorHandler, for_save=True)
@dataclasses.dataclass
class IteratorSave(ocp.args.CheckpointArgs):
  """The training data whose position is saved."""

  data: TrainingData


@ocp.args.register_with_handler(IteratorHandler, for_restore=True)
@dataclasses.dataclass
class IteratorRestore(ocp.args.CheckpointArgs):
  """The training data to restore into, from their start."""

  data: TrainingData
