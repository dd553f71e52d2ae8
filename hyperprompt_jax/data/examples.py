"""A task's materialised examples, read by index and cut to the lengths of a run."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hyperprompt_jax.data.cache import Entry
from hyperprompt_jax.data.columns import Columns, spans

# How a feature is cut to a length: after so many tokens, or so that its EOS stays.
CUT, CUT_BEFORE_EOS = 'cut', 'cut_before_eos'


@dataclasses.dataclass(frozen=True)
class Examples:
  """The examples of a task's split.

  Attributes:
    name: is the name of the SeqIO task.
    columns: holds the features of all examples.
    rules: gives the rule by which each token feature is cut.
    entry: is the entry of the cache that they were opened from.
  """

  name: str
  columns: Columns
  rules: Mapping[str, str]
  entry: Entry

  @classmethod
  def open(cls, entry: Entry) -> 'Examples':
    """Opens an entry of the cache.

    Raises:
      UserError: if it is damaged.
    """
    return cls(entry.info.task, entry.columns(), entry.info.rules, entry)

  def __len__(self) -> int:
    return len(self.columns)

  def lengths(self, feature: str, rows: np.ndarray, limit: int) -> np.ndarray:
    """Returns the number of tokens of some rows once they are cut, int64 `[n]`."""
    return np.minimum(self.columns.lengths(feature, rows), limit)

  def spans(self, feature: str, rows: np.ndarray, limit: int) -> np.ndarray:
    """Returns the places of the tokens of rows, cut as the task's own pipeline does.

    Args:
      feature: is `inputs` or `targets`.
      rows: holds the numbers of the rows, int64 `[n]`.
      limit: is the length to cut to.

    Returns:
      Three numbers for each row, int64 `[3, n]`: the place of its first token among
      `columns.flat`, the number of its tokens, and the place of its last token. A cut row
      may still end with its EOS, so that the last place need not follow the others.
    """
    start, length = self.columns.span(feature, rows)
    cut = np.minimum(length, limit)
    kept_eos = self.rules.get(feature) == CUT_BEFORE_EOS
    return np.stack([start, cut, start + (length if kept_eos else cut) - 1])

  def tokens(
    self, feature: str, rows: np.ndarray, limit: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of some rows, which `spans` locates.

    Returns:
      The tokens one after another, int32, and how many each row has, int64 `[n]`.
    """
    start, length, last = self.spans(feature, rows, limit)
    column = self.columns.flat(feature)
    flat = column[spans(start, length)].astype(np.int32)
    some = length > 0
    flat[np.cumsum(length)[some] - 1] = column[last[some]]
    return flat, length

  def task_ids(self, rows: np.ndarray) -> np.ndarray:
    """The conditioned task of some rows, int32 `[n]`."""
    return self.columns.vectors('task_ids', rows)[0].astype(np.int32)


def missing_features(examples: Sequence[Examples]) -> list[str]:
  """Names the features that training needs and a task lacks, as `TASK: FEATURE`."""
  needed = ('inputs', 'targets', 'task_ids')
  return [
    f'{task.name}: {feature}'
    for task in examples
    for feature in needed
    if feature not in task.columns.features
  ]
