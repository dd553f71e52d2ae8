"""An Orbax handler for the position in the training data."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Protocol

import orbax.checkpoint as ocp
import tensorflow as tf
from etils import epath

# tf.data iterators by the number of their shard.
Readers = Mapping[int, Iterator]


class Shards(Protocol):
  """Training data that is read in shards.

  Attributes:
    num_shards: counts the shards over all hosts.
    readers: are those that this host reads.
    own: are those of the readers whose position this host saves; one host saves each shard.
  """

  num_shards: int

  @property
  def readers(self) -> Readers: ...  # noqa: D102

  @property
  def own(self) -> Readers: ...  # noqa: D102


class IteratorHandler(ocp.CheckpointHandler):
  """Writes iterators' whole state, shuffle buffers included, a file for each shard.

  So a resumed run reads the very examples that the unbroken one would have read, at no
  cost that grows with the steps done, and on as many hosts as there are then. Saving is
  synchronous: training moves the iterators on as soon as `save` returns.
  """

  def save(self, directory: epath.Path, args: 'IteratorSave') -> None:
    """Writes the states under `directory`."""
    for shard, reader in args.readers.items():
      tf.train.Checkpoint(iterator=reader).write(_prefix(directory, shard))

  def restore(self, directory: epath.Path, args: 'IteratorRestore') -> Readers:
    """Moves `args.readers` to the saved positions, and returns them."""
    for shard, reader in args.readers.items():
      checkpoint = tf.train.Checkpoint(iterator=reader)
      checkpoint.read(_prefix(directory, shard)).assert_consumed()
    return args.readers


def _prefix(directory: epath.Path, shard: int) -> str:
  return str(directory / f'shard_{shard}')


@ocp.args.register_with_handler(IteratorHandler, for_save=True)
@dataclasses.dataclass
class IteratorSave(ocp.args.CheckpointArgs):
  """What to save: the iterators whose position no other host saves."""

  readers: Readers


@ocp.args.register_with_handler(IteratorHandler, for_restore=True)
@dataclasses.dataclass
class IteratorRestore(ocp.args.CheckpointArgs):
  """What to restore into: fresh iterators of the same data."""

  readers: Readers
