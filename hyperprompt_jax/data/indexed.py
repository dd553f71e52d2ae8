"""Training batches read by index: any batch is a function of where it begins.

No part of this loads TensorFlow or JAX. The stream of draws (`order.Draws`) is the same for
every number of hosts and devices, and each host fills the rows that are its own. The
position in the data is the number of the next draw.
"""

import contextlib
import dataclasses
import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from hyperprompt_jax.data import packing
from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.located import (
  TOKEN_FEATURES,
  Located,
  copy_tokens,
  joined,
  locate,
  mark_segments,
)
from hyperprompt_jax.data.order import Draws
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import files

FILE = 'position.json'
_BLOCK = 4096  # draws that are computed at once
_AHEAD = 2  # batches that are ready before they are asked for


@dataclasses.dataclass(frozen=True)
class BatchSettings:
  """Settings that decide the batches, besides the examples and rates.

  Attributes:
    lengths: gives the lengths of `inputs` and `targets`, to which longer ones are cut.
    batch_size: is the number of rows over all hosts.
    seed: decides the mixing and the orders.
    pack: says whether rows hold several examples.
    max_segments: is the largest number of examples in a packed row.
  """

  lengths: Mapping[str, int]
  batch_size: int
  seed: int
  pack: bool = False
  max_segments: int = 8

  def __post_init__(self):
    if self.max_segments < 1:
      raise UserError(f'max_segments must be a positive integer, not {self.max_segments}')


@dataclasses.dataclass(frozen=True)
class Placed:
  """The draws of a batch and the rows that they are in.

  Attributes:
    start: is the number of the first draw.
    drawn: holds the draws, and where their tokens are.
    row: says in which row of the batch each draw is, int64 `[n]`.
  """

  start: int
  drawn: Located
  row: np.ndarray

  @property
  def end(self) -> int:
    """The number of the draw that the next batch begins with."""
    return self.start + len(self.drawn)


class Batches:
  """The batches of a mixture, each a function of the draw that it begins with.

  Args:
    examples: holds those of each task.
    rates: gives the rate of each task in the mixture, positive.
    settings: holds the rest that decides the batches.
  """

  def __init__(
    self, examples: Sequence[Examples], rates: Sequence[float], settings: BatchSettings
  ):
    self.examples = list(examples)
    self.settings = settings
    names = [task.name for task in examples]
    self._draws = Draws(names, [len(task) for task in examples], rates, settings.seed)
    self._blocks: dict[int, Located] = {}
    self._tokens = {
      feature: [task.columns.flat(feature) for task in examples]
      for feature in TOKEN_FEATURES
    }

  def at(self, start: int) -> Placed:
    """The batch that begins with a draw."""
    settings = self.settings
    if not settings.pack:
      drawn = self._located(start, settings.batch_size)
      return Placed(start, drawn, np.arange(settings.batch_size))
    drawn = self._located(start, settings.batch_size * settings.max_segments)
    room = np.array([settings.lengths['inputs'], settings.lengths['targets']])
    row = packing.place(
      np.stack([drawn.spans[feature][1] for feature in TOKEN_FEATURES], 1),
      room,
      settings.batch_size,
      settings.max_segments,
    )
    return Placed(start, drawn[: len(row)], row)

  def start_of(self, number: int, known: tuple[int, int] = (0, 0)) -> int:
    """The draw that a batch begins with.

    Args:
      number: is the number of the batch, from 0.
      known: is the number of a batch before it and the draw that it begins with; with
        packed rows, the batches between the two are placed.
    """
    if not self.settings.pack:
      return number * self.settings.batch_size
    first, start = known
    for _ in range(number - first):
      start = self.at(start).end
    return start

  def features(self, placed: Placed, own: np.ndarray | None = None) -> dict[str, Any]:
    """The model's features of a batch (`features.ConditionedEncDecFeatureConverter`).

    Args:
      placed: holds the draws of the batch and their places.
      own: marks the rows that are filled, bool `[rows]`; None fills all. The others stay
        zeros.

    Returns:
      The features, int32, `[rows, length]`.
    """
    settings = self.settings
    drawn, row = placed.drawn, placed.row
    if own is not None and not own.all():
      kept = np.flatnonzero(own[row])
      drawn, row = drawn[kept], row[kept]
    segment = _rank(row)
    rows = settings.batch_size
    task_ids = np.zeros((rows, settings.max_segments if settings.pack else 1), np.int32)
    task_ids[row, segment] = drawn.task_ids
    batch: dict[str, Any] = {}
    tokens: dict[str, np.ndarray] = {}
    tasks = drawn.task.tolist()
    for feature, part in zip(TOKEN_FEATURES, ('encoder', 'decoder'), strict=True):
      spans, width = drawn.spans[feature], settings.lengths[feature]
      to = row * width + _before_in_row(spans[1], row)
      flat = np.zeros(rows * width, np.int32)
      copy_tokens([self._tokens[feature][task] for task in tasks], spans, flat, to)
      tokens[feature] = flat.reshape(rows, width)
      if settings.pack:
        batch[f'{part}_segment_ids'], batch[f'{part}_positions'] = mark_segments(
          segment, spans[1], to, (rows, width)
        )
    targets = tokens['targets']
    shifted = np.zeros_like(targets)
    shifted[:, 1:] = targets[:, :-1]
    if settings.pack:
      shifted[batch['decoder_positions'] == 0] = 0
    batch |= {
      'encoder_input_tokens': tokens['inputs'],
      'decoder_target_tokens': targets,
      'decoder_input_tokens': shifted,
      'decoder_loss_weights': (targets != 0).astype(np.int32),
      'task_ids': task_ids,
    }
    return batch

  def _located(self, start: int, count: int) -> Located:
    """Draws, computed in blocks, of which the last few are kept."""
    numbers = range(start // _BLOCK, (start + count - 1) // _BLOCK + 1)
    self._blocks = {n: self._blocks.get(n) or self._block(n) for n in numbers}
    skipped = start - numbers[0] * _BLOCK
    return joined(list(self._blocks.values()))[skipped : skipped + count]

  def _block(self, number: int) -> Located:
    drawn = self._draws.at(number * _BLOCK, _BLOCK)
    return locate(drawn, self.examples, self.settings.lengths)


def _rank(row: np.ndarray) -> np.ndarray:
  """Returns the number of draws before each one in its row, int64 `[n]`."""
  return _before_in_row(np.ones_like(row), row)


def _before_in_row(length: np.ndarray, row: np.ndarray) -> np.ndarray:
  """The sum of the lengths before each draw in its row, int64 `[n]`."""
  by_row = np.argsort(row, kind='stable')
  ends = np.cumsum(length[by_row])
  before = ends - length[by_row]
  starts = np.flatnonzero(np.diff(row[by_row], prepend=-1))
  of_row = np.repeat(before[starts], np.diff(starts, append=len(row)))
  result = np.empty_like(before)
  result[by_row] = before - of_row
  return result


class IndexedBatches(Iterator[dict[str, np.ndarray]]):
  """Endless batches from the first on, the next ones made by a thread meanwhile.

  Args:
    batches: makes the batches.
    own: marks the rows that this host fills, bool `[rows]`.
    tasks: describes the tasks, for the checkpoints; see `identity.described`.
    saves: says whether this host saves the position.

  Attributes:
    number: is the number of batches that have been read.
  """

  num_shards = 1  # the position depends on none

  def __init__(
    self,
    batches: Batches,
    own: np.ndarray,
    *,
    tasks: Mapping[str, Any] | None = None,
    saves: bool,
  ):
    self.batches = batches
    self._tasks = dict(tasks or {})
    self._own = own
    self._saves = saves
    self.number = 0  # of the next batch
    self._start = 0  # the draw that it begins with
    self._reader: _Reader | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch; zeros in the rows that other hosts read."""
    if self._reader is None:
      self._reader = _Reader(self.batches, self._own, self._start)
    batch, self._start = self._reader.take()
    self.number += 1
    return batch

  def record(self) -> dict[str, Any]:
    """Returns JSON by name that a resumed run must share with its start."""
    return {'READING': 'by index', 'TASKS': self._tasks}

  def save(self, directory: epath.Path) -> None:
    """Writes the position under a folder, if this host is to."""
    if self._saves:
      files.write_whole(directory / FILE, json.dumps(_position(self.number, self._start)))

  def restore(self, directory: epath.Path) -> None:
    """Moves to a position that was saved.

    Raises:
      OSError, ValueError: if there is none, or it is damaged.
    """
    position = json.loads((directory / FILE).read_text())
    number, start = position['batches'], position['draws']
    if type(number) is not int or position != _position(number, start):
      raise ValueError(f'{FILE} does not hold the position that it had')
    self.close()
    self.number, self._start = number, start

  def close(self) -> None:
    """Ends the thread."""
    if self._reader:
      self._reader.close()
    self._reader = None


def _position(number: int, start: int) -> dict[str, Any]:
  """The JSON of a position, with a digest of it."""
  digest = hashlib.sha256(f'{number} {start}'.encode()).hexdigest()[:16]
  return {'batches': number, 'draws': start, 'digest': digest}


class _Reader:
  """The thread that makes batches, and hands on whatever it raises."""

  def __init__(self, batches: Batches, own: np.ndarray, start: int):
    self._ready: queue.Queue[Any] = queue.Queue(_AHEAD)
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._run, args=(batches, own, start), name='batches', daemon=True
    )
    self._thread.start()

  def take(self) -> tuple[dict[str, np.ndarray], int]:
    """The next batch, and the draw that the one after it begins with."""
    made = self._ready.get()
    if isinstance(made, BaseException):
      raise made
    return made

  def close(self) -> None:
    self._ended.set()
    while self._thread.is_alive():
      with contextlib.suppress(queue.Empty):
        self._ready.get_nowait()
      self._thread.join(0.01)

  def _run(self, batches: Batches, own: np.ndarray, start: int) -> None:
    try:
      while not self._ended.is_set():
        placed = batches.at(start)
        start = placed.end
        self._ready.put((batches.features(placed, own), start))
    except BaseException as error:
      self._ready.put(error)
