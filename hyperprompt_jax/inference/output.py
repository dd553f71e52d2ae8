"""The file of answers, which a killed process leaves so that the next one goes on."""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO, Any

from hyperprompt_jax.errors import UserError

STANDARD_OUTPUT = '-'


class Output:
  """An open file of answers, a JSON object on each line.

  Args:
    file: is the open file.
    done: counts the answers that a former process has written.
  """

  def __init__(self, file: IO[bytes], done: int = 0):
    self._file = file
    self.done = done

  def write(self, answer: dict[str, Any]) -> None:
    """Writes one answer."""
    self._file.write((json.dumps(answer, ensure_ascii=False) + '\n').encode('utf-8'))

  def flush(self) -> None:
    """Hands all written lines to the system."""
    self._file.flush()


@contextlib.contextmanager
def opened(path: str, request: Any) -> Iterator[Output]:
  """Opens a file of answers, which appears whole when the block ends.

  Until then the answers are in a hidden file beside it, `.NAME.REQUEST.partial`, which
  stays if the process is killed; the same request continues it. An error in the block
  removes it if it has no answers. A link is followed. Standard output, a pipe or a device
  is written to, and never replaced.

  Args:
    path: names the file, or is `-` for standard output.
    request: describes the model and the questions by JSON values.

  Raises:
    UserError: if another process writes the answers to the same request.
    OSError: if the file cannot be written.
  """
  if path == STANDARD_OUTPUT:
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), 'wb') as file:
      yield Output(file)
    return
  target = os.path.realpath(path)
  if os.path.isdir(target):
    raise IsADirectoryError(0, 'it is a folder')
  if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
    with open(target, 'wb') as file:
      yield Output(file)
    return
  partial = _partial(target, request)
  with _exclusive(partial, path) as file:
    done = _whole_lines(file)
    try:
      yield Output(file, done)
      file.flush()
      os.fsync(file.fileno())
      if os.path.exists(target):
        os.chmod(partial, stat.S_IMODE(os.stat(target).st_mode))
      os.replace(partial, target)
    finally:
      with contextlib.suppress(OSError):  # the error that has ended the block matters
        file.flush()
      if os.path.exists(partial) and not os.path.getsize(partial):
        os.unlink(partial)


def _partial(target: str, request: Any) -> str:
  """Returns the name of the hidden file; another request has another one."""
  text = json.dumps(request, sort_keys=True, default=str)
  digest = hashlib.sha256(text.encode()).hexdigest()[:12]
  folder, name = os.path.split(target)
  return os.path.join(folder, f'.{name[:200]}.{digest}.partial')


@contextlib.contextmanager
def _exclusive(partial: str, path: str) -> Iterator[IO[bytes]]:
  """Opens the hidden file for one process at a time; it follows no link."""
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
  with open(os.open(partial, flags, 0o666), 'r+b') as file:
    taken = UserError(
      f'--output {path}: another process is writing these answers; wait for it'
    )
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise taken from error
    # The other process may have ended, and renamed it, since it was opened here.
    if not os.path.exists(partial) or not os.path.samestat(
      os.fstat(file.fileno()), os.stat(partial)
    ):
      raise taken
    yield file


def _whole_lines(file: IO[bytes]) -> int:
  """Returns the number of whole lines, and cuts off a partial line after them."""
  lines = end = 0
  for line in file:
    if not line.endswith(b'\n'):
      break
    lines, end = lines + 1, end + len(line)
  file.seek(end)
  file.truncate()
  return lines
