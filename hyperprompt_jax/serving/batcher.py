"""Dynamic batching: requests that wait together are computed together.

A batcher knows nothing of HTTP or of models. It keeps a bounded queue of jobs, and one
thread computes them in batches: jobs of one group and of similar lengths, the oldest first.
A batch that is slow, since a program must be compiled for it, is computed in a second
thread, one at a time, and the others go on meanwhile.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

# The lengths of a batch differ from that of its oldest job by at most this factor.
_SIMILAR = 2


class QueueFullError(Exception):
  """Raised for jobs that the queue has no room for."""


class ClosedError(Exception):
  """Raised for jobs that come after the batcher was closed."""


class ExpiredError(Exception):
  """The result of a job that was still waiting at its deadline."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits of batches and of the queue.

  Attributes:
    batch_size: is the most jobs of a batch.
    wait_seconds: is the time for which the oldest job waits for others.
    queue_size: is the most jobs that wait.
  """

  batch_size: int = 16
  wait_seconds: float = 0.005
  queue_size: int = 256


@dataclasses.dataclass(frozen=True)
class Job:
  """One thing to compute.

  Attributes:
    group: holds what the jobs of a batch have in common.
    length: is its padded length; jobs of similar lengths share batches.
    value: is passed to the function that computes a batch.
  """

  group: Hashable
  length: int
  value: Any


@dataclasses.dataclass(eq=False)
class _Waiting:
  """A job in the queue."""

  job: Job
  deadline: float
  arrived: float
  future: Future


class Batcher:
  """Computes jobs in batches, in a thread of its own.

  Args:
    compute: takes a group and the values of a batch, and returns a result for each value.
    limits: limit batches and queue.
    observe: is told the number of jobs and the seconds of each batch.
    is_slow: tells of a group and the values of a batch whether it takes long to compute
      once, and is quick from then on.
  """

  def __init__(
    self,
    compute: Callable[[Any, Sequence[Any]], Sequence[Any]],
    limits: Limits,
    observe: Callable[[int, float], None] = lambda jobs, seconds: None,
    is_slow: Callable[[Any, Sequence[Any]], bool] = lambda group, values: False,
  ):
    self.limits = limits
    self._compute = compute
    self._observe = observe
    self._is_slow = is_slow
    self._slow: threading.Thread | None = None
    self._queue: collections.deque[_Waiting] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._run, name='batcher', daemon=True)
    self._thread.start()

  def __len__(self) -> int:
    """The number of jobs that wait."""
    return len(self._queue)

  def submit(self, jobs: Sequence[Job], seconds: float) -> list[Future]:
    """Puts jobs into the queue, all or none of them.

    Args:
      jobs: are the jobs.
      seconds: is the time after which a job that still waits is given up.

    Returns:
      A future for each job. Cancelling it takes a job that waits out of the queue.

    Raises:
      QueueFullError: if the queue has no room for all of them.
      ClosedError: if the batcher was closed.
    """
    now = time.monotonic()
    waiting = [_Waiting(job, now + seconds, now, Future()) for job in jobs]
    with self._changed:
      if self._closed:
        raise ClosedError
      if len(self._queue) + len(waiting) > self.limits.queue_size:
        self._drop()
      if len(self._queue) + len(waiting) > self.limits.queue_size:
        raise QueueFullError
      self._queue.extend(waiting)
      self._changed.notify()
    return [one.future for one in waiting]

  def close(self, seconds: float | None = None) -> bool:
    """Refuses further jobs, and waits until those in the queue are computed.

    Args:
      seconds: is the longest time to wait; None waits as long as it takes.

    Returns:
      Whether all jobs were computed.
    """
    with self._changed:
      self._closed = True
      self._changed.notify()
    self._thread.join(seconds)
    return not self._thread.is_alive()

  def _run(self) -> None:
    while batch := self._next():
      self._finish(batch)

  def _run_slow(self, batch: list[_Waiting]) -> None:
    self._finish(batch)
    with self._changed:
      self._slow = None
      self._changed.notify()

  def _finish(self, batch: list[_Waiting]) -> None:
    """Computes a batch."""
    started = time.monotonic()
    try:
      results = self._compute(batch[0].job.group, [one.job.value for one in batch])
      for one, result in zip(batch, results, strict=True):
        one.future.set_result(result)
    except Exception as error:
      for one in batch:
        if not one.future.done():
          one.future.set_exception(error)
    self._observe(len(batch), time.monotonic() - started)

  def _next(self) -> list[_Waiting]:
    """Waits for a quick batch and takes it out of the queue; empty after the last one."""
    with self._changed:
      while True:
        self._drop()
        batch, is_slow = self._choose()
        if not batch:
          if self._closed and not self._queue and self._slow is None:
            return []
          self._changed.wait()
          continue
        left = batch[0].arrived + self.limits.wait_seconds - time.monotonic()
        if left > 0 and len(batch) < self.limits.batch_size and not self._closed:
          self._changed.wait(left)
          continue
        taken = {id(one) for one in batch}
        kept = [one for one in self._queue if id(one) not in taken]
        self._queue = collections.deque(kept)
        running = [one for one in batch if one.future.set_running_or_notify_cancel()]
        if running and not is_slow:
          return running
        if running:
          # The end of the process does not wait for this thread.
          self._slow = threading.Thread(
            target=self._run_slow, args=(running,), name='slow batch', daemon=True
          )
          self._slow.start()

  def _drop(self) -> None:
    """Takes cancelled and expired jobs out of the queue."""
    now = time.monotonic()
    kept: collections.deque[_Waiting] = collections.deque()
    for one in self._queue:
      if one.future.cancelled():
        continue
      if one.deadline > now:
        kept.append(one)
      elif one.future.set_running_or_notify_cancel():
        one.future.set_exception(ExpiredError())
    self._queue = kept

  def _choose(self) -> tuple[list[_Waiting], bool]:
    """Returns the next batch, or none, and whether it is slow.

    The oldest job comes first, unless its batch is slow while another slow one is computed.
    """
    waiting = list(self._queue)
    while waiting:
      batch = self._batch(waiting)
      if not self._is_slow_batch(batch):
        return batch, False
      if self._slow is None:
        return batch, True
      # A smaller batch of the same jobs may be quick.
      for number in (1 << n for n in reversed(range(len(batch).bit_length()))):
        if not self._is_slow_batch(batch[:number]):
          return batch[:number], False
      passed = {id(one) for one in batch}
      waiting = [one for one in waiting if id(one) not in passed]
    return [], False

  def _is_slow_batch(self, batch: Sequence[_Waiting]) -> bool:
    return self._is_slow(batch[0].job.group, [one.job.value for one in batch])

  def _batch(self, waiting: Sequence[_Waiting]) -> list[_Waiting]:
    """Returns the jobs that are computed with the oldest one, those of its length first."""
    oldest = waiting[0].job
    longest, shortest = oldest.length * _SIMILAR, oldest.length // _SIMILAR
    fitting = [
      one
      for one in waiting
      if one.job.group == oldest.group and shortest <= one.job.length <= longest
    ]
    fitting.sort(key=lambda one: abs(one.job.length - oldest.length))
    return fitting[: self.limits.batch_size]
