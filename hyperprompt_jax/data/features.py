"""The feature converter, which makes the model's features and task ids of examples."""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from hyperprompt_jax.errors import UserError, listed

TASK_IDS = 'task_ids'
# The shortest length that `cut_padding` cuts to.
_SHORTEST = 64


class ConditionedEncDecFeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's encoder-decoder features, and the tasks of each row.

  The converter adds `task_ids`, int32 `[S]`, to the features of
  `seqio.EncDecFeatureConverter`: the conditioned task of each segment of the row, as an
  index into the mixture's task list. A row that is not packed has one segment. A packed row
  has room for `max_segments` segments of any tasks. Position i belongs to task
  `task_ids[segment_ids[i] - 1]`, and task ids without a segment are 0.

  Args:
    pack: tells whether rows hold several examples.
    max_segments: is the most examples of a packed row; each has its own prompts.
    **kwargs: are the other arguments of `seqio.EncDecFeatureConverter`.

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

    The batches hold the rows that `__call__` returns. If rows are not packed, a whole batch
    of examples is padded and converted at once, which takes 0.6 times as long.

    Args:
      ds: has examples of SeqIO tasks, with the features `inputs`, `targets` and `task_ids`.
      task_feature_lengths: are the lengths that `__call__` takes.
      batch_size: is the number of rows of a batch.
      drop_remainder: tells whether to drop a last batch that has fewer rows.

    Returns:
      The model's features, int32, `[B, length]`.
    """
    if self.pack:
      return self(ds, task_feature_lengths).batch(batch_size, drop_remainder)
    lengths = {TASK_IDS: self._segments, **task_feature_lengths}

    def convert(examples: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      # SeqIO converts vectors. It takes the first axis of a matrix for that of tokens.
      columns = {
        name: tf.transpose(_padded(examples[name], length))
        for name, length in lengths.items()
      }
      converted = self._convert_example(columns)
      return {name: tf.transpose(x) for name, x in converted.items()}

    # A checkpoint of the iterator holds the batches in flight, so only two are.
    return ds.ragged_batch(batch_size, drop_remainder).map(convert, num_parallel_calls=2)

  def _pack_or_pad(
    self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    if not self.pack:
      return super()._pack_or_pad(ds, packed_lengths)
    # SeqIO packs the task ids of a row's examples as it packs tokens. It takes 0 for
    # padding, so that ids are shifted by 1 meanwhile.
    shift = lambda by: lambda x: {**x, TASK_IDS: tf.maximum(x[TASK_IDS] + by, 0)}
    return super()._pack_or_pad(ds.map(shift(1)), packed_lengths).map(shift(-1))

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {**super()._convert_example(features), TASK_IDS: features[TASK_IDS]}

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    """Returns the lengths of the model's features from those of the task's."""
    return {
      **super().get_model_feature_lengths(task_feature_lengths),
      TASK_IDS: task_feature_lengths[TASK_IDS],
    }


def _padded(rows: tf.Tensor | tf.RaggedTensor, length: int) -> tf.Tensor:
  """Returns rows of any lengths, cut or padded with zeros to `[B, length]`."""
  if isinstance(rows, tf.Tensor):
    rows = tf.RaggedTensor.from_tensor(rows)
  return rows.to_tensor(shape=(None, length))


def fill_rows(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
  """Returns a batch that rows of padding extend to `[rows, ...]`."""
  missing = rows - len(next(iter(batch.values())))
  return {
    name: np.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:])))
    for name, x in batch.items()
  }


def cut_padding(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts a batch's inputs to the smallest power of two that holds all of them.

  Short inputs then cost less than the longest, and a program is compiled at most once for
  each power of two.

  Args:
    batch: holds features `[B, ...]`, with `encoder_input_tokens` `[B, K]` among them.

  Returns:
    The batch, in which features named `encoder_…` have at most K positions.
  """
  used = np.flatnonzero(batch['encoder_input_tokens'].any(axis=0))
  longest = int(used[-1]) if used.size else 0
  length = max(_SHORTEST, 1 << longest.bit_length())
  return {
    name: x[:, :length] if name.startswith('encoder_') else x for name, x in batch.items()
  }


def check_task_ids(batch: Mapping[str, np.ndarray], task_list: Sequence[str]) -> None:
  """Checks that the task ids of a batch or an example index the task list.

  The network does not check them.

  Raises:
    UserError: if a task id is out of range; the message names it.
  """
  task_ids = batch[TASK_IDS]
  wrong = task_ids[(task_ids < 0) | (task_ids >= len(task_list))]
  if wrong.size:
    raise UserError(
      f'the data has the task id {wrong[0]}, but the task list has '
      f'{len(task_list)} tasks ({listed(task_list)}): ids go from 0 to '
      f'{len(task_list) - 1}'
    )
