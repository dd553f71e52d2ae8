"""Rows of a split in its order, as batches of the model's features.

They are made by NumPy: building TensorFlow's pipelines for them takes longer than reading
the rows of a small task.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from hyperprompt_jax.data.columns import spans
from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.features import TASK_IDS
from hyperprompt_jax.data.located import TOKEN_FEATURES

Lengths = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one task, cut to the lengths of a run.

  Attributes:
    tokens: holds for each token feature the tokens of all rows, one row after another,
      int32, and the number of tokens of each row, int64 `[n]`.
    task_ids: holds the conditioned task of each row, int32 `[n]`.
    lengths: gives the length to which each token feature is padded.
  """

  tokens: Mapping[str, tuple[np.ndarray, np.ndarray]]
  task_ids: np.ndarray
  lengths: Lengths

  @classmethod
  def of_examples(cls, examples: Examples, lengths: Lengths, limit: int | None) -> 'Rows':
    """Returns the first rows of materialised examples, all of them if `limit` is None."""
    rows = np.arange(len(examples))[:limit]
    tokens = {
      feature: examples.tokens(feature, rows, lengths[feature])
      for feature in TOKEN_FEATURES
    }
    return cls(tokens, examples.task_ids(rows), lengths)

  @classmethod
  def of_stream(cls, examples: Iterable[Mapping[str, Any]], lengths: Lengths) -> 'Rows':
    """Returns rows that are read one after another, as SeqIO gives them."""
    rows = list(examples)
    tokens = {}
    for feature in TOKEN_FEATURES:
      parts = [np.asarray(row[feature])[: lengths[feature]] for row in rows]
      tokens[feature] = (
        np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32),
        np.array([len(part) for part in parts], np.int64),
      )
    return cls(tokens, np.array([row[TASK_IDS][0] for row in rows], np.int32), lengths)

  def __len__(self) -> int:
    return len(self.task_ids)

  @functools.cached_property
  def _starts(self) -> Mapping[str, np.ndarray]:
    """The place of the first token of each row, by feature, int64 `[n]`."""
    return {
      feature: np.cumsum(length) - length for feature, (_, length) in self.tokens.items()
    }

  def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features of all rows in their order, `size` rows at a time."""
    rows = np.arange(len(self))
    for start in range(0, len(self), size):
      yield self.batch(rows[start : start + size])

  def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the features of some rows (`features.ConditionedEncDecFeatureConverter`).

    Args:
      rows: holds the numbers of the rows, int64 `[B]`.

    Returns:
      The features, int32, `[B, length]`.
    """
    inputs, targets = (self._padded(feature, rows) for feature in TOKEN_FEATURES)
    shifted = np.zeros_like(targets)
    shifted[:, 1:] = targets[:, :-1]
    return {
      'encoder_input_tokens': inputs,
      'decoder_target_tokens': targets,
      'decoder_input_tokens': shifted,
      'decoder_loss_weights': (targets != 0).astype(np.int32),
      TASK_IDS: self.task_ids[rows][:, None],
    }

  def _padded(self, feature: str, rows: np.ndarray) -> np.ndarray:
    """Returns the tokens of some rows, with zeros up to the length."""
    flat, length = self.tokens[feature]
    padded = np.zeros((len(rows), self.lengths[feature]), np.int32)
    used = np.arange(padded.shape[1]) < length[rows][:, None]
    padded[used] = flat[spans(self._starts[feature][rows], length[rows])]
    return padded
