"""SIGTERM and Ctrl-C, turned into an orderly end."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

# Of all runs of this process: hosts agree on the number of a check that is still to come.
_checks = itertools.count()


class Interrupted(BaseException):
  """Raised between two batches after a signal asked the process to end.

  Attributes:
    exit_status: 128 plus the signal's number, as shells report it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_status = 128 + number


class Interrupts:
  """Remembers the first SIGTERM or SIGINT, for the loop to act on where it is safe.

  Of several hosts all must end at the same batch, whichever of them the signal comes to:
  JAX's preemption service takes SIGTERM there, and agrees with the other hosts on when.
  """

  def __init__(self):
    self._received: int | None = None
    self._agrees = jax.process_count() > 1

  @contextmanager
  def handled(self) -> Iterator[None]:
    """While active, a first signal is remembered and a second ends the process."""
    if self._agrees:
      handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    else:
      handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._remember)
    previous = {number: signal.signal(number, of) for number, of in handlers.items()}
    try:
      yield
    finally:
      for number, handler in previous.items():
        signal.signal(number, handler)

  def _remember(self, number: int, frame) -> None:
    if self._received is not None:
      raise KeyboardInterrupt
    self._received = number

  def check(self) -> None:
    """Raises `Interrupted` if a signal has come; all hosts call it equally often."""
    if self._agrees and multihost_utils.reached_preemption_sync_point(next(_checks)):
      raise Interrupted(signal.SIGTERM)
    if self._received is not None:
      raise Interrupted(self._received)
