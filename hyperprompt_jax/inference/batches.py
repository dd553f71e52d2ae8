"""Batches of questions: as many rows as there are questions, in sizes of powers of two.

A program is compiled for each size, so there are few sizes. No size is more than twice the
number of questions, so that a single question is cheap.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from hyperprompt_jax.inference.answers import LONGEST_ANSWER, MOST_LABELS

T = TypeVar('T')
# The shortest length of a batch.
SHORTEST = 16
# Questions are sorted by length within a window of this many batches.
_WINDOW = 8


@dataclasses.dataclass(frozen=True)
class Question:
  """An input in tokens.

  Attributes:
    task_id: is the task's place in the task list.
    tokens: are the input's tokens, EOS included, cut to the model's length.
    place: is the input's place in the call, from 0.
    truncated: says whether the input was cut.
    unknown: counts the pieces that the vocabulary does not have.
  """

  task_id: int
  tokens: Sequence[int]
  place: int = 0
  truncated: bool = False
  unknown: int = 0


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """Labels to rank.

  Attributes:
    texts: are the labels.
    tokens: are the tokens of each label, EOS included.
  """

  texts: tuple[str, ...]
  tokens: tuple[Sequence[int], ...]

  @property
  def size(self) -> tuple[int, int]:
    """The padded number of labels, and the padded number of tokens of the longest."""
    longest = max(map(len, self.tokens))
    return size(len(self.tokens), MOST_LABELS), size(longest, LONGEST_ANSWER)


def size(number: int, most: int, least: int = 1) -> int:
  """Returns the smallest power of two that holds a number, at least `least`.

  Args:
    number: is the number of rows or tokens.
    most: is the largest size, which need not be a power of two.
    least: is the smallest size.
  """
  return min(max(least, 1 << (number - 1).bit_length()), max(most, number))


def windows(items: Iterable[T], batch_size: int) -> Iterator[list[T]]:
  """Yields the items in their order, enough at a time to sort them by length."""
  iterator = iter(items)
  while window := list(itertools.islice(iterator, _WINDOW * batch_size)):
    yield window


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
  """Yields the rows of batches of similar lengths, the longest first.

  Args:
    lengths: are the lengths of all rows.
    batch_size: is the number of rows of a batch; the last batch may have fewer.
  """
  order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
  for start in range(0, len(order), batch_size):
    yield order[start : start + batch_size]


def padded(rows: Sequence[Sequence[int]], num_rows: int, length: int) -> np.ndarray:
  """Returns tokens as int32 `[num_rows, length]`, with 0 where there are none."""
  tokens = np.zeros((num_rows, length), np.int32)
  for number, row in enumerate(rows):
    tokens[number, : len(row)] = row
  return tokens


def shifted(targets: np.ndarray) -> np.ndarray:
  """Returns the decoder's inputs for targets, `[B, Q]`: 0, and all tokens but the last."""
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def shape_of(
  questions: Sequence[Question], longest: int, least_rows: int = 1
) -> tuple[int, int]:
  """Returns the rows and the length of the batch that `inputs_of` makes."""
  rows = max(least_rows, 1 << (len(questions) - 1).bit_length())
  return rows, size(max(len(q.tokens) for q in questions), longest, SHORTEST)


def inputs_of(
  questions: Sequence[Question], longest: int, least_rows: int = 1
) -> dict[str, np.ndarray]:
  """Returns the features of questions that the encoder takes.

  Args:
    questions: are the questions of a batch.
    longest: is the model's length of inputs.
    least_rows: is the number of rows that the devices need at least.
  """
  rows, length = shape_of(questions, longest, least_rows)
  task_ids = np.zeros((rows, 1), np.int32)
  task_ids[: len(questions), 0] = [q.task_id for q in questions]
  return {
    'encoder_input_tokens': padded([q.tokens for q in questions], rows, length),
    'task_ids': task_ids,
  }
