"""Batches of a SeqIO mixture, for training and for the loss on validation splits."""

from collections.abc import Mapping

import jax
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax import features
from hyperprompt_jax.errors import UserError

Lengths = Mapping[str, int]


def check_lengths(lengths: Lengths) -> None:
  """Checks TASK_FEATURE_LENGTHS.

  Raises:
    UserError: unless it gives positive lengths of inputs and targets, and those alone.
  """
  if (
    not isinstance(lengths, Mapping)
    or set(lengths) != {'inputs', 'targets'}
    or not all(isinstance(n, int) and n > 0 for n in lengths.values())
  ):
    raise UserError(
      f"TASK_FEATURE_LENGTHS must be like {{'inputs': 512, 'targets': 64}}, not {lengths!r}"
    )


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
      'with seqio_cache_tasks, or set USE_CACHED_TASKS=False'
    )


def training_dataset(
  name: str,
  lengths: Lengths,
  *,
  batch_size: int,
  seed: int,
  use_cached: bool,
  pack: bool = False,
  max_segments: int = 8,
) -> tf.data.Dataset:
  """Shuffled, endless batches of a mixture's train split.

  Args:
    name: task or mixture.
    lengths: of `inputs` and `targets`; longer ones are cut.
    batch_size: rows over all processes; this one's share is what is returned.
    seed: of the shuffling and of the mixing.
    use_cached: whether to read SeqIO's cache in place of the sources.
    pack: whether rows hold several examples.
    max_segments: the most examples of a packed row.

  Returns:
    Batches of the features of `ConditionedEncDecFeatureConverter`, int32, `[b, ...]`. The
    same arguments give the same batches, and an iterator's state can be saved.
  """
  dataset = seqio.get_dataset(
    name,
    task_feature_lengths=dict(lengths),
    dataset_split='train',
    shuffle=True,
    num_epochs=None,
    feature_converter=features.ConditionedEncDecFeatureConverter(pack, max_segments),
    shard_info=seqio.ShardInfo(jax.process_index(), jax.process_count()),
    use_cached=use_cached,
    seed=seed,
  )
  # The buffers of a prefetch after batching would be saved with every checkpoint.
  return dataset.batch(batch_size // jax.process_count(), drop_remainder=True)


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
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  return {
    task.name: seqio.get_dataset(
      task.name,
      task_feature_lengths=dict(lengths),
      dataset_split='validation',
      shuffle=False,
      feature_converter=features.ConditionedEncDecFeatureConverter(),
      use_cached=use_cached,
    )
    .batch(batch_size)
    .take(num_batches)
    for task in tasks
    if 'validation' in task.splits
  }
