"""A server in a process of its own, and a client for it, for `benchmarks.serving`."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

_TICKS = os.sysconf('SC_CLK_TCK')
_PAGE = os.sysconf('SC_PAGE_SIZE')


class Server:
  """A server process.

  Args:
    words: are the words that start it.
    log: is the file that gets its standard error.
    environment: is added to the environment.
  """

  def __init__(self, words: Sequence[str], log: pathlib.Path, environment: dict[str, str]):
    self._log = log
    with log.open('w') as file:
      self.process = subprocess.Popen(words, stderr=file, env={**os.environ, **environment})
    self.port = 0

  async def wait(self) -> None:
    """Waits until it listens and is ready."""
    while not (match := re.search(r'at http://[\d.]+:(\d+)', self.log())):
      if self.process.poll() is not None:
        raise RuntimeError(self.log())
      await asyncio.sleep(0.1)
    self.port = int(match[1])
    client = Client(self.port)
    while (await client.ask('/readyz'))[0] != 200:
      await asyncio.sleep(0.5)
    client.close()

  def log(self) -> str:
    """Returns its standard error."""
    return self._log.read_text()

  def cpu_seconds(self) -> float:
    """Returns the user and system seconds that it has used."""
    fields = self._read('stat').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

  def megabytes(self) -> float:
    """Returns the memory that it holds."""
    return int(self._read('statm').split()[1]) * _PAGE / 2**20

  def _read(self, name: str) -> str:
    return pathlib.Path(f'/proc/{self.process.pid}/{name}').read_text()

  def terminate(self) -> None:
    """Sends SIGTERM."""
    self.process.send_signal(signal.SIGTERM)

  async def ended(self) -> int:
    """Waits for its end, and returns its status."""
    return await asyncio.to_thread(self.process.wait, 120)


def command(folder: pathlib.Path, *flags: str) -> list[str]:
  """Returns the words that serve a bundle, with further flags of `hyperprompt serve`."""
  words = [sys.executable, '-m', 'hyperprompt_jax', 'serve', f'--model_dir={folder}']
  return [*words, '--port=0', *flags]


@contextlib.contextmanager
def running(words: Sequence[str], log: pathlib.Path) -> Iterator[Server]:
  """Starts a server, and ends it at the end of the block.

  Args:
    words: are the words that start it.
    log: is the file that gets its standard error.
  """
  server = Server(words, log, {})
  try:
    yield server
  finally:
    if server.process.poll() is None:
      server.process.kill()
    server.process.wait()


class Client:
  """One connection, which is opened again when it was closed.

  Args:
    port: is the server's port on the loopback interface.
  """

  def __init__(self, port: int):
    self._port = port
    self._streams: Any = None

  async def send(self, data: bytes) -> None:
    """Sends bytes as they are."""
    if self._streams is None:
      self._streams = await asyncio.open_connection('127.0.0.1', self._port)
    self._streams[1].write(data)
    await self._streams[1].drain()

  async def response(self) -> tuple[int, Any]:
    """Returns status and JSON value (or text) of a response.

    Raises:
      ConnectionError: if the connection ends before.
    """
    reader = self._streams[0]
    try:
      head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').lower()
      length = int(re.findall(r'content-length: (\d+)', head)[0])
      body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
      self.close()
      raise ConnectionError('the connection ended') from error
    except ConnectionError:
      self.close()
      raise
    if 'connection: close' in head:
      self.close()
    is_json = 'content-type: application/json' in head
    return int(head.split()[1]), json.loads(body) if is_json else body.decode()

  async def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
    """Sends a request; returns status and value of its response.

    Args:
      path: is the path.
      body: is the value that is sent as JSON, or bytes; None for a GET.
    """
    await self.send(request(path, body))
    return await self.response()

  def close(self) -> None:
    """Closes the connection."""
    if self._streams is not None:
      self._streams[1].close()
      self._streams = None


def request(path: str, body: Any = None) -> bytes:
  """Returns the bytes of a request.

  Args:
    path: is the path.
    body: is the value that is sent as JSON, or bytes; None for a GET.
  """
  if body is None:
    return f'GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()
  raw = body if isinstance(body, bytes) else json.dumps(body).encode()
  head = (
    f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
    f'Content-Length: {len(raw)}\r\n\r\n'
  )
  return head.encode() + raw
