"""The places of the tokens of draws, and copying them into the rows of a batch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.order import Drawn

TOKEN_FEATURES = ('inputs', 'targets')


@dataclasses.dataclass(frozen=True)
class Located(Drawn):
  """The examples that a range of draws is, and where their tokens are.

  Attributes:
    task_ids: holds the conditioned task of each draw, int32 `[n]`.
    spans: says for each token feature where the tokens of a draw are among those of its
      task, as `Examples.spans` gives it, int64 `[3, n]`.
  """

  task_ids: np.ndarray
  spans: Mapping[str, np.ndarray]

  def __getitem__(self, part: slice | np.ndarray) -> 'Located':
    return Located(
      self.task[part],
      self.epoch[part],
      self.example[part],
      self.task_ids[part],
      {feature: spans[:, part] for feature, spans in self.spans.items()},
    )


def locate(
  drawn: Drawn, examples: Sequence[Examples], lengths: Mapping[str, int]
) -> Located:
  """Finds the tokens of draws.

  Args:
    drawn: holds the draws.
    examples: holds those of each task.
    lengths: gives the length that each token feature is cut to.
  """
  task_ids = np.empty(len(drawn), np.int32)
  spans = {feature: np.empty((3, len(drawn)), np.int64) for feature in TOKEN_FEATURES}
  for task, chosen in _by_task(drawn):
    rows = drawn.example[chosen]
    task_ids[chosen] = examples[task].task_ids(rows)
    for feature, places in spans.items():
      places[:, chosen] = examples[task].spans(feature, rows, lengths[feature])
  return Located(drawn.task, drawn.epoch, drawn.example, task_ids, spans)


def joined(parts: Sequence[Located]) -> Located:
  """The draws of adjacent ranges as one."""
  if len(parts) == 1:
    return parts[0]
  return Located(
    np.concatenate([part.task for part in parts]),
    np.concatenate([part.epoch for part in parts]),
    np.concatenate([part.example for part in parts]),
    np.concatenate([part.task_ids for part in parts]),
    {
      feature: np.concatenate([part.spans[feature] for part in parts], 1)
      for feature in parts[0].spans
    },
  )


def copy_tokens(
  sources: Sequence[np.ndarray], spans: np.ndarray, target: np.ndarray, to: np.ndarray
) -> None:
  """Copies the tokens of draws.

  A copy of one slice after another takes a fraction of the time that indices of all tokens
  would take, which have eight bytes for each token of two.

  Args:
    sources: holds for each draw the tokens of its task.
    spans: are the places of the draws' tokens in their sources, int64 `[3, n]`.
    target: is copied to, int32, flat.
    to: is the place of each draw's first token in `target`, int64 `[n]`.
  """
  begin, length, last = spans
  for source, at, number, place in zip(
    sources, begin.tolist(), length.tolist(), to.tolist(), strict=True
  ):
    target[place : place + number] = source[at : at + number]
  for draw in np.flatnonzero((last != begin + length - 1) & (length > 0)).tolist():
    target[to[draw] + length[draw] - 1] = sources[draw][last[draw]]


def mark_segments(
  segment: np.ndarray, length: np.ndarray, to: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the segments of packed rows and the positions in them.

  Args:
    segment: is the number of each draw's segment in its row, from 0, int64 `[n]`.
    length: is the number of tokens of each draw, int64 `[n]`.
    to: is the place of its first token in the flat batch, int64 `[n]`.
    shape: is that of the batch.

  Returns:
    Segments from 1 and positions from 0, int32, zeros where there is no token.
  """
  segments, positions = (np.zeros(shape[0] * shape[1], np.int32) for _ in range(2))
  counted = np.arange(shape[1], dtype=np.int32)
  for number, tokens, place in zip(
    (segment + 1).tolist(), length.tolist(), to.tolist(), strict=True
  ):
    segments[place : place + tokens] = number
    positions[place : place + tokens] = counted[:tokens]
  return segments.reshape(shape), positions.reshape(shape)


def _by_task(drawn: Drawn) -> Iterator[tuple[int, np.ndarray]]:
  """Each task that is drawn, and which draws are of it."""
  by_task = np.argsort(drawn.task, kind='stable')
  borders = np.flatnonzero(np.diff(drawn.task[by_task])) + 1
  for chosen in np.split(by_task, borders):
    yield int(drawn.task[chosen[0]]), chosen
