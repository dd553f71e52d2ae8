"""One run at a time in a MODEL_DIR."""

import contextlib
import datetime
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import distributed, terminal

FILE = 'run.lock'


@contextlib.contextmanager
def held(model_dir: str) -> Iterator[None]:
  """Keeps every other run out of MODEL_DIR while active.

  The lock is the operating system's (`flock`), on a file that says who holds it: it ends
  with the process, whatever ends that, and the file alone locks nothing. Of several hosts
  the first holds it for all. What is no file system (`gs://`) has no such locks, and is
  not checked.

  Args:
    model_dir: the run's folder, which is there.

  Raises:
    UserError: on every host, if another run holds it.
  """
  with contextlib.ExitStack() as stack:
    refused = ''
    if distributed.is_first() and not re.match(r'\w+://', model_dir):
      refused = _take(epath.Path(model_dir) / FILE, stack)
    if refused := distributed.of_first(refused):
      raise UserError(f'MODEL_DIR {model_dir} {refused}')
    yield


def _take(path: epath.Path, stack: contextlib.ExitStack) -> str:
  """Takes the lock until the stack is closed; or returns why not."""
  try:
    # Without a buffer, which would be written again when a full disk's file is closed.
    file = open(path, 'a+b', buffering=0)  # noqa: SIM115 - the stack closes it
  except OSError as error:
    return f'cannot be written: {error}'
  stack.enter_context(file)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read().decode(errors='replace').strip() or 'it has not said which'
    return f'is in use by another run ({holder}): end it, or name another folder'
  except OSError as error:
    terminal.stderr_console().print(
      f'{path} cannot be locked ({error.strerror}): a second run there would not be noticed'
    )
    return ''
  holder = f'process {os.getpid()} on host {socket.gethostname()}, since {_now()}\n'
  try:
    file.truncate(0)
    file.write(holder.encode())
  except OSError as error:
    return f'cannot be written: {error}'
  stack.callback(_empty, file)
  return ''


def _empty(file: BinaryIO) -> None:
  """Empty, it is that of no run; deleted, it could be that of two."""
  with contextlib.suppress(OSError):  # of a disk that is gone
    file.truncate(0)


def _now() -> str:
  return f'{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC'
