"""SIGTERM and Ctrl-C, which end a run in an orderly way."""

import itertools
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from hyperprompt_jax.errors import Interrupted

# All runs of this process share the counter: hosts agree on the number of a future check.
_checks = itertools.count()


@contextmanager
def handling(handlers: Mapping[int, Any]) -> Iterator[None]:
  """Handles signals in its block, and restores the handlers that there were.

  Args:
    handlers: holds the handler of each signal, as `signal.signal` takes it.
  """
  previous = {number: signal.signal(number, new) for number, new in handlers.items()}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


class Interrupts:
  """Remembers the first SIGTERM or SIGINT until the training loop can safely end.

  Several hosts must all end at the same batch, even if only one receives the signal. On
  several hosts, JAX's preemption service therefore handles SIGTERM, and chooses the batch.
  """

  def __init__(self):
    self._received: int | None = None
    self._agrees = jax.process_count() > 1

  @contextmanager
  def handled(self) -> Iterator[None]:
    """Handles signals in its block: the first is remembered, a second ends the process."""
    handlers: dict[int, Any]
    if self._agrees:
      handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    else:
      handlers = {signal.SIGTERM: self._remember, signal.SIGINT: self._remember}
    with handling(handlers):
      yield

  def _remember(self, number: int, frame) -> None:
    if self._received is not None:
      raise KeyboardInterrupt
    self._received = number

  def check(self) -> None:
    """Raises `Interrupted` after a signal. All hosts must call it equally often."""
    if self._agrees and multihost_utils.reached_preemption_sync_point(next(_checks)):
      raise Interrupted(signal.SIGTERM)
    if self._received is not None:
      raise Interrupted(self._received)
