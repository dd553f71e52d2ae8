"""Batches of a SeqIO mixture, for training and for the loss on validation splits."""

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax.data import features
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_tasks.preprocessors import PARALLEL_CALLS

Lengths = Mapping[str, int]


def check_mixture(name: str, split: str, *, use_cached: bool = False) -> None:
  """Checks that a task or mixture is registered with a task list, and has a split.

  With `use_cached`, all of its tasks must have a cache, too.

  Raises:
    UserError: if one of these conditions is not met.
  """
  hyperprompt_tasks.task_list(name)  # its errors suggest similar names
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  if not any(split in task.splits for task in tasks):
    splits = sorted({split for task in tasks for split in task.splits})
    raise UserError(f'{name} has no split {split}; it has {", ".join(splits)}')
  if use_cached and (missing := [task.name for task in tasks if not task.cache_dir]):
    raise UserError(
      f'USE_CACHED_TASKS=True, but there is no cache of {", ".join(missing)}: make one '
      'with seqio_cache_tasks and name its folder by --seqio_additional_cache_dirs, or set '
      'USE_CACHED_TASKS=False'
    )


class TrainingBatches(Iterator[dict[str, np.ndarray]]):
  """Shuffled, endless batches of a mixture's train split, read in parts.

  The data are divided into `num_shards` shards. Each shard is an endless stream of its own,
  which provides the same rows of every batch. A host reads the shards that provide its
  devices' rows. The batches therefore depend on the number of shards, not on the number of
  hosts: a run can resume with more or fewer hosts, and repeats or omits no example.

  Args:
    name: names a task or mixture.
    lengths: are the lengths to which `inputs` and `targets` are cut.
    partitioner: maps rows to hosts.
    batch_size: is the number of rows over all hosts.
    num_shards: is the number of shards of the data; see `default_num_shards`.
    seed: seeds the shuffling and the mixing.
    use_cached: tells whether to read SeqIO's cache in place of the sources.
    pack: tells whether rows hold several examples.
    max_segments: is the most examples of a packed row.

  Attributes:
    num_shards: is the number of shards of the data.
    readers: are the iterators of the shards that this host reads, by shard.
    own: are the readers whose position this host saves; no other host saves them.

  Raises:
    UserError: if a batch, or a task's examples, cannot be divided into the shards.
  """

  def __init__(
    self,
    name: str,
    lengths: Lengths,
    partitioner: Partitioner,
    *,
    batch_size: int,
    num_shards: int,
    seed: int,
    use_cached: bool,
    pack: bool = False,
    max_segments: int = 8,
  ):
    _check_shards(name, batch_size, num_shards)
    self.num_shards = num_shards
    self._batch_size = batch_size
    self._rows = batch_size // num_shards
    converter = features.ConditionedEncDecFeatureConverter(pack, max_segments)

    def read(shard: int) -> Iterator:
      examples = seqio.get_mixture_or_task(name).get_dataset(
        dict(lengths),
        split='train',
        shuffle=True,
        num_epochs=None,
        shard_info=seqio.ShardInfo(shard, num_shards),
        use_cached=use_cached,
        # All shards share the seed: a source may shuffle before it is divided.
        seed=seed,
      )
      batches = converter.batches(examples, lengths, self._rows, drop_remainder=True)
      # The buffers of a prefetch after batching would be saved with every checkpoint.
      return iter(batches.with_options(_options()))

    shards = {
      host: {row // self._rows for rows in ranges for row in rows}
      for host, ranges in partitioner.rows_of_hosts(batch_size).items()
    }
    here = jax.process_index()
    self.readers = {shard: read(shard) for shard in sorted(shards[here])}
    self.own = {
      shard: reader
      for shard, reader in self.readers.items()
      if here == min(host for host, read_there in shards.items() if shard in read_there)
    }

  def __next__(self) -> dict[str, np.ndarray]:
    """Returns the next batch.

    It holds the features of `ConditionedEncDecFeatureConverter`, int32, `[B, ...]`. Rows
    that other hosts read are zeros.
    """
    batch: dict[str, np.ndarray] = {}
    for shard, reader in self.readers.items():
      start = shard * self._rows
      for name, part in next(reader).items():
        x = np.asarray(part)
        whole = batch.setdefault(name, np.zeros((self._batch_size, *x.shape[1:]), x.dtype))
        whole[start : start + self._rows] = x
    return batch


def _options() -> tf.data.Options:
  """Returns options for a pipeline of many small steps.

  Waking the next step's thread for each example costs more than the steps themselves, so
  steps are fused, and each works on several examples at once.
  """
  options = tf.data.Options()
  options.experimental_optimization.map_fusion = True
  # This limits the examples that SeqIO's steps hold at once, which every checkpoint saves.
  options.autotune.cpu_budget = PARALLEL_CALLS
  options.threading.max_intra_op_parallelism = 1
  return options


def default_num_shards(partitioner: Partitioner, batch_size: int) -> int:
  """Returns the number of groups of hosts with rows of their own, if it divides the batch.

  Otherwise it returns the greatest common divisor of the two numbers.
  """
  groups = len({*partitioner.rows_of_hosts(batch_size).values()})
  return math.gcd(batch_size, groups)


def _check_shards(name: str, batch_size: int, num_shards: int) -> None:
  if num_shards < 1 or batch_size % num_shards:
    raise UserError(
      f'NUM_DATA_SHARDS={num_shards} does not divide BATCH_SIZE={batch_size}: choose a '
      'divisor'
    )
  if num_shards == 1:
    return
  for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
    examples = task.num_input_examples('train') if 'train' in task.splits else None
    if examples is not None and examples < num_shards:
      raise UserError(
        f'{task.name} has {examples} training examples, too few for {num_shards} shards '
        'of the data: set NUM_DATA_SHARDS to fewer'
      )


def validation_datasets(
  name: str,
  lengths: Lengths,
  *,
  batch_size: int,
  num_batches: int,
  use_cached: bool,
) -> dict[str, tf.data.Dataset]:
  """Returns the first batches of each validation split of a mixture, in their order.

  Args:
    name: names a task or mixture.
    lengths: are the lengths to which `inputs` and `targets` are cut.
    batch_size: is the number of rows of a batch; the last batch may have fewer.
    num_batches: is the most batches of a split.
    use_cached: tells whether to read SeqIO's cache in place of the sources.

  Returns:
    Batches by the name of the SeqIO task.
  """
  converter = features.ConditionedEncDecFeatureConverter()
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  return {
    task.name: converter.batches(
      task.get_dataset(
        dict(lengths), split='validation', shuffle=False, use_cached=use_cached
      ),
      lengths,
      batch_size,
    ).take(num_batches)
    for task in tasks
    if 'validation' in task.splits
  }


def rows_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
  """Batches rows of similar lengths, the longest first.

  Args:
    lengths: are the lengths of all rows.
    batch_size: is the number of rows of a batch; the last batch may have fewer.

  Yields:
    The indices of a batch's rows.
  """
  order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
  for start in range(0, len(order), batch_size):
    yield order[start : start + batch_size]
