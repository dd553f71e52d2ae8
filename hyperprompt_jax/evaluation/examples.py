"""Examples of SeqIO tasks as a model answers them: texts, and questions in tokens."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hyperprompt_jax.data import features, splits
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.inference.batches import Question
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.training.settings import DataSettings

Example = Mapping[str, Any]


def datasets(
  tasks: Sequence[seqio.Task], split: str, data: DataSettings
) -> dict[str, tf.data.Dataset]:
  """Returns the examples of a split of each task, in their order and uncut.

  Args:
    tasks: have the split.
    split: names it.
    data: names the cache of examples; SeqIO's own caches are not read.
  """
  access = dataclasses.replace(Access.from_settings(data), use_cached=False)
  return splits.datasets(tasks, split, access, None)


def has_target(example: Example) -> bool:
  """Whether an example has a target."""
  return 'targets_pretokenized' in example


def text(example: Example, feature: str) -> str:
  """Returns the text of `inputs` or `targets`."""
  return example[f'{feature}_pretokenized'].decode('utf-8')


def question(predictor: Predictor, example: Example, place: int) -> Question:
  """Returns the question that an example asks; `place` is its place in the call."""
  task_id = int(example[features.TASK_IDS][0])
  return predictor.question_of(task_id, example['inputs'].tolist(), place)
