"""The process that serves: its socket, signals, compilation and newer checkpoints."""

import dataclasses
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hyperprompt_jax.errors import UserError, reason_of
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.runtime import interrupts, terminal
from hyperprompt_jax.serving import requests
from hyperprompt_jax.serving.app import Service

# A connection whose request has not begun, or whose header is not complete, is closed.
_HEADER_SECONDS = 15
_KEEP_ALIVE_SECONDS = 30
_MOST_CONNECTIONS = 512

# Returns a newer checkpoint than the one that is served, or None.
Newer = Callable[[Predictor], Predictor | None]


@dataclasses.dataclass(frozen=True)
class Options:
  """The settings of the process.

  Attributes:
    compiled: are the kinds of requests whose programs are compiled at the start.
    follow: is the time between two looks for a newer checkpoint, in seconds; 0 looks at
      SIGHUP alone.
    grace: is the longest time for the answers that are left at the end, in seconds.
  """

  compiled: Sequence[str] = (requests.PREDICT,)
  follow: float = 0
  grace: float = 30


class Protocol(H11Protocol):
  """Uvicorn's HTTP/1.1, which also closes connections that never send a whole header."""

  _header_timer: Any = None

  def connection_made(self, transport: Any) -> None:
    """Starts the time for the first header."""
    super().connection_made(transport)
    self._watch()

  def data_received(self, data: bytes) -> None:
    """Starts the time for a header that is not complete, or ends it."""
    super().data_received(data)
    self._watch()

  def connection_lost(self, exc: Exception | None) -> None:
    """Ends the time."""
    self._stop_watching()
    super().connection_lost(exc)

  def _watch(self) -> None:
    if self.conn.their_state is not h11.IDLE:
      self._stop_watching()
    elif self._header_timer is None:
      self._header_timer = self.loop.call_later(_HEADER_SECONDS, self._end)

  def _stop_watching(self) -> None:
    if self._header_timer is not None:
      self._header_timer.cancel()
      self._header_timer = None

  def _end(self) -> None:
    self._header_timer = None
    # A request may have come and gone meanwhile, and the next one be on its way.
    if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
      self.transport.close()


class _Server(uvicorn.Server):
  """Uvicorn's server, which is not ready from the first signal on."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Ends in an orderly way at the first signal, and at once at the second."""
    del sig, frame
    self._service.is_ready = False
    self.force_exit = self.should_exit
    self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket of an address, at which nobody is heard yet.

  Raises:
    UserError: if it is no address of this machine, or it is taken.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened = socket.socket(family, kind, protocol)
    try:
      opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      opened.bind(address)
    except OSError:
      opened.close()
      raise
  except OSError as error:
    reason = error.strerror or str(error)
    raise UserError(f'--host={host} --port={port} cannot be opened: {reason}') from error
  return opened


def run(
  service: Service, listener: socket.socket, options: Options, newer: Newer | None = None
) -> None:
  """Serves until SIGTERM or Ctrl-C, and then answers what was accepted.

  Args:
    service: has the model and the application.
    listener: is the result of `listen`.
    options: are the settings.
    newer: finds a newer checkpoint; None if there cannot be one.

  Raises:
    Exception: if a program could not be compiled.
  """
  config = uvicorn.Config(
    service.app,
    # Under uvloop, on a busy machine, connections waited for a minute in a flood of others;
    # under this loop, on a less busy one, they did not.
    loop='asyncio',
    http=Protocol,
    ws='none',
    lifespan='off',
    log_config=None,
    access_log=False,
    proxy_headers=False,
    server_header=False,
    limit_concurrency=_MOST_CONNECTIONS,
    timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    timeout_graceful_shutdown=max(1, round(options.grace)),
  )
  server = _Server(config, service)
  keeper = _Keeper(service, options, newer, server)
  with interrupts.handling(_handlers(keeper, server)):
    listener.listen(_MOST_CONNECTIONS)
    address, port, *_ = listener.getsockname()
    address = f'[{address}]' if ':' in address else address
    predictor = service.predictor
    terminal.say(
      f'step {predictor.step}, {len(predictor.tasks)} tasks, at http://{address}:{port}'
    )
    keeper.start()
    server.run(sockets=[listener])
    keeper.stop()
  # Answers of requests whose clients have gone may still be computed.
  all_answered = service.close(0 if server.force_exit else options.grace)
  terminal.say(
    f'ended: {service.metrics.total("requests_total"):.0f} requests, '
    f'{service.metrics.total("questions_total"):.0f} questions answered'
    + ('' if all_answered else '; some were given up')
  )
  if keeper.error is not None:
    raise keeper.error


class _Keeper(threading.Thread):
  """Compiles the programs, and then looks for newer checkpoints.

  Args:
    service: is the service, which gets them.
    options: are the settings of the process.
    newer: finds a newer checkpoint; None if there cannot be one.
    server: is ended if a program cannot be compiled.
  """

  def __init__(
    self, service: Service, options: Options, newer: Newer | None, server: uvicorn.Server
  ):
    super().__init__(name='keeper', daemon=True)
    self.error: Exception | None = None
    self._service = service
    self._options = options
    self._newer = newer
    self._server = server
    self._wake = threading.Event()
    self._ended = False

  def look(self) -> None:
    """Looks for a newer checkpoint now."""
    self._wake.set()

  def stop(self) -> None:
    """Ends the thread, after the program that it compiles."""
    self._ended = True
    self._wake.set()
    self.join()

  def run(self) -> None:
    """Compiles, and then waits for newer checkpoints."""
    try:
      self._compile(self._service.predictor)
    except Exception as error:
      self.error = error
      self._server.should_exit = True
      return
    self._service.is_ready = not self._server.should_exit
    while not self._ended:
      self._wake.wait(self._options.follow or None)
      self._wake.clear()
      if self._newer and not self._ended:
        self._update(self._newer)

  def _update(self, newer: Newer) -> None:
    """Serves a newer checkpoint, if there is one; else all stays as it is."""
    old = self._service.predictor
    try:
      predictor = newer(old)
      if predictor is None:
        return
      if not predictor.engine.adopt(old.engine):
        self._compile(predictor)
    except Exception as error:
      terminal.say(f'step {old.step} is kept: {reason_of(error)}')
      return
    if not self._ended:
      self._service.switch(predictor)
      terminal.say(f'step {predictor.step} answers from now on')

  def _compile(self, predictor: Predictor) -> None:
    kinds = self._options.compiled
    if not kinds or predictor.engine.compiled is None:
      return
    sizes = list(compiled_sizes(predictor))
    with terminal.phase(f'compiling {len(sizes)} sizes of batches'):
      for rows, length in sizes:
        if self._ended or self._server.should_exit:
          return
        requests.warm_up(predictor, kinds, rows, length)


def compiled_sizes(predictor: Predictor) -> Iterator[tuple[int, int]]:
  """Yields rows and length of the batches for which programs are compiled."""
  most = predictor.batch_size
  rows = {min(2**n, most) for n in range(most.bit_length() + 1)}
  for length in requests.lengths(predictor):
    for number in sorted(rows):
      if number >= predictor.engine.least_rows:
        yield number, length


def _handlers(keeper: _Keeper, server: _Server) -> dict[int, Any]:
  """Returns handlers: SIGHUP looks for a newer checkpoint, the others end the server."""
  # Uvicorn sets the handler of the last two as well, but a signal may come before it does.
  return {
    signal.SIGHUP: lambda *_: keeper.look(),
    **dict.fromkeys((signal.SIGTERM, signal.SIGINT), server.handle_exit),
  }
