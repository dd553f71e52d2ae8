"""An Orbax handler for the position of a tf.data iterator."""

import dataclasses
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp
import tensorflow as tf
from etils import epath


class IteratorHandler(ocp.CheckpointHandler):
  """Writes an iterator's whole state, shuffle buffers included, one file a process.

  So a resumed run reads the very examples that the unbroken one would have read, at no
  cost that grows with the steps done. Saving is synchronous: training moves the iterator
  on as soon as `save` returns.
  """

  def save(self, directory: epath.Path, args: 'IteratorSave') -> None:
    """Writes the iterator's state under `directory`."""
    tf.train.Checkpoint(iterator=args.iterator).write(self._prefix(directory))

  def restore(self, directory: epath.Path, args: 'IteratorRestore') -> Iterator:
    """Moves `args.iterator` to the saved position, and returns it."""
    checkpoint = tf.train.Checkpoint(iterator=args.iterator)
    checkpoint.read(self._prefix(directory)).assert_consumed()
    return args.iterator

  @staticmethod
  def _prefix(directory: epath.Path) -> str:
    return str(directory / f'process_{jax.process_index()}')


@ocp.args.register_with_handler(IteratorHandler, for_save=True)
@dataclasses.dataclass
class IteratorSave(ocp.args.CheckpointArgs):
  """What to save: an iterator of a `tf.data.Dataset`."""

  iterator: Iterator


@ocp.args.register_with_handler(IteratorHandler, for_restore=True)
@dataclasses.dataclass
class IteratorRestore(ocp.args.CheckpointArgs):
  """What to restore into: a fresh iterator of the same dataset."""

  iterator: Iterator
