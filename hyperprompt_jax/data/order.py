"""Computes the example of each draw of a mixture from the number of the draw.

A draw is one example of the stream that batches are cut from. Nothing here has a state: the
tasks, epochs and rows of any range of draws follow from the seed, the rates and the number
of examples of each task.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np

# The finaliser of SplitMix64 (Steele, Lea and Flood 2014) and its increment.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# A permutation of so many rows or fewer is sorted and kept: exact, and 8 kB.
SORTED_ROWS = 4096
_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class Drawn:
  """The examples of a range of draws.

  Attributes:
    task: holds the index of each draw's task, int64 `[n]`.
    epoch: counts the times that the task has been read whole before, int64 `[n]`.
    example: holds the row among the examples of that task, int64 `[n]`.
  """

  task: np.ndarray
  epoch: np.ndarray
  example: np.ndarray

  def __len__(self) -> int:
    return len(self.task)

  def __getitem__(self, part: slice) -> 'Drawn':
    return Drawn(self.task[part], self.epoch[part], self.example[part])


class Draws:
  """The draws of a mixture of tasks.

  The draws of task i come at the times `(j + u[i, j]) / p[i]`, where j counts them, p is
  the task's share of the rates, and u is uniform in [0, 1) by a hash of seed, task and j.
  All draws in the order of their times are the stream. So each task has its share at any
  time, up to a draw or so, the order within that is random, and the draws of any time are
  known without those before.

  The draws of a task go through its examples epoch by epoch, each in an order of its own,
  which depends on the seed and the task's name and on no other task.

  Args:
    names: are the names of the tasks.
    sizes: are the numbers of examples of the tasks, 1 or more.
    rates: gives the rate of each task in the mixture, positive.
    seed: decides the draws and the orders.
  """

  def __init__(
    self, names: Sequence[str], sizes: Sequence[int], rates: Sequence[float], seed: int
  ):
    self._sizes = np.asarray(sizes, np.int64)
    self._shares = np.asarray(rates, np.float64) / math.fsum(rates)
    self._time_keys = np.array([_key(seed, name, 'times') for name in names], np.uint64)
    self._order_keys = np.array([_key(seed, name, 'order') for name in names], np.uint64)

  def at(self, start: int, count: int) -> Drawn:
    """The draws from number `start` on, `count` of them."""
    tasks = len(self._shares)
    # At the time t a task has had its share of t draws, or one more or less.
    before = self._drawn(max(0, start - tasks))
    after = self._drawn(start + count + tasks)
    number = after - before
    task = np.repeat(np.arange(tasks), number)
    ends = np.cumsum(number)
    place = np.arange(len(task)) + np.repeat(before - ends + number, number)
    in_order = np.lexsort((task, self._times(task, place)))
    skipped = start - int(before.sum())
    chosen = in_order[skipped : skipped + count]
    task, place = task[chosen], place[chosen]
    epoch, row = np.divmod(place, self._sizes[task])
    key = mixed(self._order_keys[task] + epoch.astype(np.uint64) * _GOLDEN)
    return Drawn(task, epoch, permuted(row, self._sizes[task], key))

  def _drawn(self, time: int) -> np.ndarray:
    """Returns the number of draws of each task before a time, int64 `[tasks]`."""
    tasks = np.arange(len(self._shares))
    # The draws before these three have come, and none after them has.
    last = np.floor(time * self._shares).astype(np.int64)
    count = np.maximum(last - 1, 0)
    for place in (last - 1, last, last + 1):
      count += (place >= 0) & (self._times(tasks, place) < time)
    return count

  def _times(self, task: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns the times at which draws of tasks come, float64 `[n]`."""
    bits = mixed(self._time_keys[task] + place.astype(np.uint64) * _GOLDEN)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (place + uniform) / self._shares[task]


def permuted(row: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
  """Returns the positions of rows after permutations.

  A permutation of few rows sorts them by a hash of each. A permutation of many rows is a
  Feistel network on pairs (Black and Rogaway 2002), whose memory and time do not grow with
  the number of rows.

  Args:
    row: holds rows below `size`, int64 `[n]`.
    size: is the number of rows of each permutation, int64 `[n]`.
    key: decides each permutation, uint64 `[n]`.

  Returns:
    The rows, int64 `[n]`.
  """
  result = np.empty_like(row)
  large = size > SORTED_ROWS
  if large.any():
    result[large] = _feistel(row[large], size[large], key[large])
  small = np.flatnonzero(~large)
  if small.size:
    by_key = small[np.argsort(key[small], kind='stable')]
    borders = np.flatnonzero(np.diff(key[by_key])) + 1
    for group in np.split(by_key, borders):
      order = _sorting(int(key[group[0]]), int(size[group[0]]))
      result[group] = order[row[group]]
  return result


@functools.lru_cache(maxsize=4096)
def _sorting(key: int, size: int) -> np.ndarray:
  hashes = mixed(np.uint64(key) ^ mixed(np.arange(1, size + 1, dtype=np.uint64) * _GOLDEN))
  return np.argsort(hashes, kind='stable').astype(np.uint16)


def _feistel(row: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
  # There are a few more pairs than rows: a result that is no row is permuted again.
  width = np.ceil(np.sqrt(size)).astype(np.int64)
  height = (-(-size // width)).astype(np.uint64)
  width = width.astype(np.uint64)
  result, left = row.astype(np.uint64), np.arange(len(row))
  while left.size:
    result[left] = _rounds(result[left], width[left], height[left], key[left])
    left = left[result[left] >= size[left].astype(np.uint64)]
  return result.astype(np.int64)


def _rounds(
  x: np.ndarray, width: np.ndarray, height: np.ndarray, key: np.ndarray
) -> np.ndarray:
  """Adds a hash of each half to the other, in turn."""
  high, low = np.divmod(x, width)
  for number in range(_ROUNDS):
    salt = mixed(key ^ mixed(np.full(1, number, np.uint64)))
    if number % 2:
      high = (high + mixed(salt ^ mixed(low * _GOLDEN)) % height) % height
    else:
      low = (low + mixed(salt ^ mixed(high * _GOLDEN)) % width) % width
  return high * width + low


def mixed(x: np.ndarray) -> np.ndarray:
  """A hash of each integer, uint64."""
  with np.errstate(over='ignore'):
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def _key(seed: int, name: str, purpose: str) -> int:
  text = f'{purpose} {seed} {name}'.encode()
  return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), 'little')
