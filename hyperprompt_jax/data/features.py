"""From SeqIO examples to the model's features, task ids included, packed or not."""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from hyperprompt_jax.errors import UserError

TASK_IDS = 'task_ids'
# The shortest length that `cut_padding` cuts to.
_SHORTEST = 64


class ConditionedEncDecFeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's encoder-decoder features and the tasks of each row.

  To the features of `seqio.EncDecFeatureConverter` it adds `task_ids`, int32
  `[segments]`: the index, in the mixture's task list, of the conditioned task of each
  segment of the row. A row that is not packed has one segment. A packed row has room for
  `max_segments`, of whatever tasks; position i belongs to task
  `task_ids[segment_ids[i] - 1]`, and task ids without a segment are 0.

  Args:
    pack: whether rows hold several examples.
    max_segments: the most examples of a packed row; each has its prompts in the row.
    **kwargs: as for `seqio.EncDecFeatureConverter`.

  Raises:
    UserError: if `max_segments` is less than 1.
  """

  TASK_FEATURES: Mapping = {
    **seqio.EncDecFeatureConverter.TASK_FEATURES,
    TASK_IDS: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }
  MODEL_FEATURES: Mapping = {
    **seqio.EncDecFeatureConverter.MODEL_FEATURES,
    TASK_IDS: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }

  def __init__(self, pack: bool = False, max_segments: int = 8, **kwargs):
    if max_segments < 1:
      raise UserError(f'max_segments must be a positive integer, not {max_segments}')
    super().__init__(pack=pack, **kwargs)
    self._segments = max_segments if pack else 1

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Converts a dataset; the length of `task_ids` need not be given."""
    return super().__call__(ds, {TASK_IDS: self._segments, **task_feature_lengths})

  def batches(
    self,
    ds: tf.data.Dataset,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    *,
    drop_remainder: bool = False,
  ) -> tf.data.Dataset:
    """Converts a dataset and batches it.

    Batches of what `__call__` gives; where rows are not packed, examples are padded and
    converted many at a time: reading then takes six tenths of the time.

    Args:
      ds: examples of SeqIO tasks, `inputs`, `targets` and `task_ids` among their features.
      task_feature_lengths: as for `__call__`.
      batch_size: rows of a batch.
      drop_remainder: whether a last batch of fewer rows is left out.

    Returns:
      The model's features, int32, `[batch_size, length]`.
    """
    if self.pack:
      return self(ds, task_feature_lengths).batch(batch_size, drop_remainder)
    lengths = {TASK_IDS: self._segments, **task_feature_lengths}

    def convert(examples: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      # SeqIO converts vectors; of more axes, it takes the first for that of tokens.
      columns = {
        name: tf.transpose(_padded(examples[name], length))
        for name, length in lengths.items()
      }
      converted = self._convert_example(columns)
      return {name: tf.transpose(x) for name, x in converted.items()}

    # Whole batches, which a checkpoint of the iterator holds: no more than two.
    return ds.ragged_batch(batch_size, drop_remainder).map(convert, num_parallel_calls=2)

  def _pack_or_pad(
    self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    if not self.pack:
      return super()._pack_or_pad(ds, packed_lengths)
    # SeqIO packs task ids as it packs tokens, each example's as one more of its row. To
    # its packing 0 is padding, and not a task.
    shift = lambda by: lambda x: {**x, TASK_IDS: tf.maximum(x[TASK_IDS] + by, 0)}
    return super()._pack_or_pad(ds.map(shift(1)), packed_lengths).map(shift(-1))

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {**super()._convert_example(features), TASK_IDS: features[TASK_IDS]}

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    """The lengths of the model's features from those of the task's."""
    return {
      **super().get_model_feature_lengths(task_feature_lengths),
      TASK_IDS: task_feature_lengths[TASK_IDS],
    }


def _padded(rows: tf.Tensor | tf.RaggedTensor, length: int) -> tf.Tensor:
  """Rows of any lengths, cut or padded with zeros to `[b, length]`."""
  if isinstance(rows, tf.Tensor):
    rows = tf.RaggedTensor.from_tensor(rows)
  return rows.to_tensor(shape=(None, length))


def fill_rows(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
  """A batch `[b, ...]` with rows of padding up to `rows`."""
  missing = rows - len(next(iter(batch.values())))
  return {
    name: np.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:])))
    for name, x in batch.items()
  }


def cut_padding(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A batch whose inputs are cut to a power of two that all of them fit.

  Short inputs then do not cost what the longest do, and a program is compiled for a few
  lengths: at most once for each power of two.

  Args:
    batch: features `[b, ...]`, `encoder_input_tokens` `[b, k]` among them.

  Returns:
    The same, `encoder_…` `[b, n]` with n at most k.
  """
  used = np.flatnonzero(batch['encoder_input_tokens'].any(axis=0))
  longest = int(used[-1]) if used.size else 0
  length = max(_SHORTEST, 1 << longest.bit_length())
  return {
    name: x[:, :length] if name.startswith('encoder_') else x for name, x in batch.items()
  }


def check_task_ids(batch: Mapping[str, np.ndarray], task_list: Sequence[str]) -> None:
  """Checks that task ids, of a batch or an example, index the task list.

  The network does not check them.

  Raises:
    UserError: naming one that does not.
  """
  task_ids = batch[TASK_IDS]
  wrong = task_ids[(task_ids < 0) | (task_ids >= len(task_list))]
  if wrong.size:
    raise UserError(
      f'the data has the task id {wrong[0]}, but the task list has '
      f'{len(task_list)} tasks ({", ".join(task_list)}): ids go from 0 to '
      f'{len(task_list) - 1}'
    )
