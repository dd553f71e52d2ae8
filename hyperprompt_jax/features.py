"""From SeqIO examples to the model's features, task ids included."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from hyperprompt_jax.errors import UserError

TASK_IDS = 'task_ids'


class ConditionedEncDecFeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's encoder-decoder features and the tasks of each row.

  To the features of `seqio.EncDecFeatureConverter` it adds `task_ids`, int32
  `[segments]`: the index, in the mixture's task list, of the conditioned task of each
  segment of the row. Encoder and decoder select their prompts by it. Rows are not packed
  yet, so there is one segment.

  Args:
    pack: must be False.
    **kwargs: as for `seqio.EncDecFeatureConverter`.

  Raises:
    UserError: if `pack` is asked for.
  """

  TASK_FEATURES: Mapping = {
    **seqio.EncDecFeatureConverter.TASK_FEATURES,
    TASK_IDS: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }
  MODEL_FEATURES: Mapping = {
    **seqio.EncDecFeatureConverter.MODEL_FEATURES,
    TASK_IDS: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }

  def __init__(self, pack: bool = False, **kwargs):
    if pack:
      raise UserError(
        'pack=True: packing rows of several tasks is not supported yet; set pack=False'
      )
    super().__init__(pack=pack, **kwargs)

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Converts a dataset; the length of `task_ids`, one segment, need not be given."""
    return super().__call__(ds, {TASK_IDS: 1, **task_feature_lengths})

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
