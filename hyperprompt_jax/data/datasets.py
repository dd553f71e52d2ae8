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

  With `use_cached`, that there is a cache of its tasks, too.

  Raises:
    UserError: if not.
  """
  hyperprompt_tasks.task_list(name)  # its errors name what is near
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

  The data are dealt out to `num_shards` shards, each an endless stream of its own that
  gives the same rows of every batch. A host reads the shards that its devices' rows come
  from. So the batches depend on the number of shards, and not on that of hosts: a run may
  go on with more hosts or fewer, without reading an example twice or leaving one out.

  Args:
    name: task or mixture.
    lengths: of `inputs` and `targets`; longer ones are cut.
    partitioner: says which rows are this host's.
    batch_size: rows over all hosts.
    num_shards: shards of the data; see `default_num_shards`.
    seed: of the shuffling and of the mixing.
    use_cached: whether to read SeqIO's cache in place of the sources.
    pack: whether rows hold several examples.
    max_segments: the most examples of a packed row.

  Attributes:
    num_shards: as given.
    own: of the readers, those whose position this host saves: no other does.

  Raises:
    UserError: if a batch, or a task's examples, cannot be dealt out so.
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
        # Of all shards: sources may shuffle before they are dealt out.
        seed=seed,
      )
      batches = converter.batches(examples, lengths, self._rows, drop_remainder=True)
      # The buffers of a prefetch after batching would be saved with every checkpoint.
      return iter(batches.with_options(_options()))

    shards = {
      host: {row // self._rows for of in ranges for row in of}
      for host, ranges in partitioner.rows_of_hosts(batch_size).items()
    }
    here = jax.process_index()
    self.readers = {shard: read(shard) for shard in sorted(shards[here])}
    self.own = {
      shard: reader
      for shard, reader in self.readers.items()
      if here == min(host for host, of in shards.items() if shard in of)
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
  # What SeqIO's own steps may work on at once, and so a part of every checkpoint.
  options.autotune.cpu_budget = PARALLEL_CALLS
  options.threading.max_intra_op_parallelism = 1
  return options


def default_num_shards(partitioner: Partitioner, batch_size: int) -> int:
  """As many shards as there are groups of hosts with rows of their own, if they divide."""
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
  """The first batches of each validation split of a mixture, in their order.

  Args:
    name: task or mixture.
    lengths: of `inputs` and `targets`; longer ones are cut.
    batch_size: rows of a batch; the last one may have fewer.
    num_batches: how many batches there are at most.
    use_cached: whether to read SeqIO's cache in place of the sources.

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
  """Puts rows of about the same length together, the longest first.

  Args:
    lengths: of all rows.
    batch_size: rows of a batch; the last one may have fewer.

  Yields:
    Indices of a batch's rows.
  """
  order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
  for start in range(0, len(order), batch_size):
    yield order[start : start + batch_size]
