"""SIGTERM and Ctrl-C, turned into an orderly end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
  """Raised between two batches after a signal asked the process to end.

  Attributes:
    exit_status: 128 plus the signal's number, as shells report it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_status = 128 + number


class Interrupts:
  """Remembers the first SIGTERM or SIGINT, for the loop to act on where it is safe."""

  def __init__(self):
    self._received: int | None = None

  @contextmanager
  def handled(self) -> Iterator[None]:
    """While active, a first signal is remembered and a second ends the process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, self._remember) for number in numbers}
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
    """Raises `Interrupted` if a signal has come."""
    if self._received is not None:
      raise Interrupted(self._received)
