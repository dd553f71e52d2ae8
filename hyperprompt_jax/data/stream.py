"""Training batches from SeqIO's own pipelines, for tasks that cannot be materialised."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from hyperprompt_jax.data import features
from hyperprompt_jax.data.indexed import BatchSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_tasks.preprocessors import PARALLEL_CALLS


class StreamedBatches(Iterator[dict[str, np.ndarray]]):
  """Shuffled, endless batches of a mixture's train split, read in shards.

  The data are dealt out to `num_shards` shards, each an endless stream of its own that
  gives the same rows of every batch. A host reads the shards that its devices' rows come
  from. So the batches depend on the number of shards, and not on that of hosts: a run may
  go on with more hosts or fewer, without reading an example twice or leaving one out.

  The position is the whole state of TensorFlow's iterators, shuffle buffers included.

  Args:
    name: names the task or mixture.
    settings: decide the batches.
    partitioner: gives the rows of this host.
    num_shards: is the number of shards of the data; see `default_num_shards`.
    use_cached: says whether SeqIO's cache is read in place of the sources.
    tasks: describes the tasks, for the checkpoints; see `identity.described`.

  Attributes:
    num_shards: is the number of shards.
    number: is None, as batches are not counted.
    own: holds the readers whose position this host saves, and no other host does.

  Raises:
    UserError: if a batch, or a task's examples, cannot be dealt out so.
  """

  number = None

  def __init__(
    self,
    name: str,
    settings: BatchSettings,
    partitioner: Partitioner,
    *,
    num_shards: int,
    use_cached: bool,
    tasks: Mapping[str, Any],
  ):
    batch_size = settings.batch_size
    check_shards(batch_size, num_shards)
    _check_examples(name, num_shards)
    self.num_shards = num_shards
    self._tasks = tasks
    self._batch_size = batch_size
    self._rows = batch_size // num_shards
    converter = features.ConditionedEncDecFeatureConverter(
      settings.pack, settings.max_segments
    )

    def read(shard: int) -> Iterator:
      examples = seqio.get_mixture_or_task(name).get_dataset(
        dict(settings.lengths),
        split='train',
        shuffle=True,
        num_epochs=None,
        shard_info=seqio.ShardInfo(shard, num_shards),
        use_cached=use_cached,
        # The same for all shards: sources may shuffle before rows are dealt out.
        seed=settings.seed,
      )
      batches = converter.batches(
        examples, settings.lengths, self._rows, drop_remainder=True
      )
      # The buffers of a prefetch after batching would be saved with every checkpoint.
      return iter(batches.with_options(_options()))

    shards = {
      host: {row // self._rows for part in ranges for row in part}
      for host, ranges in partitioner.rows_of_hosts(batch_size).items()
    }
    here = jax.process_index()
    self.readers = {shard: read(shard) for shard in sorted(shards[here])}
    self.own = {
      shard: reader
      for shard, reader in self.readers.items()
      if here == min(host for host, parts in shards.items() if shard in parts)
    }

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch.

    Returns:
      The features of `ConditionedEncDecFeatureConverter`, int32, `[b, ...]`; zeros in the
      rows that other hosts read.
    """
    batch: dict[str, np.ndarray] = {}
    for shard, reader in self.readers.items():
      start = shard * self._rows
      for name, part in next(reader).items():
        x = np.asarray(part)
        shape = (self._batch_size, *x.shape[1:])
        feature = batch.setdefault(name, np.zeros(shape, x.dtype))
        feature[start : start + self._rows] = x
    return batch

  def record(self) -> dict[str, Any]:
    """Returns JSON by name that a resumed run must share with its start."""
    return {'READING': 'as a stream', 'TASKS': dict(self._tasks)}

  def save(self, directory: epath.Path) -> None:
    """Writes the state of this host's own iterators, a file for each shard."""
    save_states(self.own, directory)

  def restore(self, directory: epath.Path) -> None:
    """Moves all iterators to their saved positions."""
    restore_states(self.readers, directory)

  def close(self) -> None:
    """Does nothing: TensorFlow frees iterators by itself."""


def save_states(readers: Mapping[int, Iterator], directory: epath.Path) -> None:
  """Writes the states of tf.data iterators under a folder, by the number of their shard."""
  for shard, reader in readers.items():
    tf.train.Checkpoint(iterator=reader).write(_prefix(directory, shard))


def restore_states(readers: Mapping[int, Iterator], directory: epath.Path) -> None:
  """Moves tf.data iterators to the states that `save_states` has written."""
  for shard, reader in readers.items():
    checkpoint = tf.train.Checkpoint(iterator=reader)
    checkpoint.read(_prefix(directory, shard)).assert_consumed()


def _prefix(directory: epath.Path, shard: int) -> str:
  return str(directory / f'shard_{shard}')


def _options() -> tf.data.Options:
  """Returns options for a pipeline of many small steps.

  Waking the next step's thread for each example costs more than the steps themselves, so
  steps are fused, and each works on several examples at once.
  """
  options = tf.data.Options()
  options.experimental_optimization.map_fusion = True
  # What SeqIO's own steps may work on at once, and so a part of every checkpoint.
  options.autotune.cpu_budget = PARALLEL_CALLS
  options.threading.max_intra_op_parallelism = 1
  return options


def default_num_shards(partitioner: Partitioner, batch_size: int) -> int:
  """Returns the default number of shards: one for each group of hosts of equal rows."""
  groups = len({*partitioner.rows_of_hosts(batch_size).values()})
  return math.gcd(batch_size, groups)


def check_shards(batch_size: int, num_shards: int) -> None:
  """Raises a UserError if a batch cannot be divided among this number of shards."""
  if num_shards < 1 or batch_size % num_shards:
    raise UserError(
      f'NUM_DATA_SHARDS={num_shards} does not divide BATCH_SIZE={batch_size}: choose a '
      'divisor'
    )


def _check_examples(name: str, num_shards: int) -> None:
  if num_shards == 1:
    return
  for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
    examples = task.num_input_examples('train') if 'train' in task.splits else None
    if examples is not None and examples < num_shards:
      raise UserError(
        f'{task.name} has {examples} training examples, too few for {num_shards} shards '
        'of the data: set NUM_DATA_SHARDS to fewer'
      )
