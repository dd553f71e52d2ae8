"""A lock that admits one run at a time to a MODEL_DIR."""

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
  """Keeps every other run out of MODEL_DIR until the block ends.

  The lock is the operating system's (`flock`), on a file that names the process that holds
  it. The system releases it when the process ends, for whatever reason; a file that is left
  behind locks nothing. If there are several hosts, the first one holds the lock for all.
  Object stores (`gs://`) have no such locks, and are not checked.

  Args:
    model_dir: names the run's folder, which exists.

  Raises:
    UserError: on every host, if another run holds the lock.
  """
  with contextlib.ExitStack() as stack:
    refused = ''
    if distributed.is_first() and not re.match(r'\w+://', model_dir):
      refused = _take(epath.Path(model_dir) / FILE, stack)
    if refused := distributed.text_of_first_host(refused):
      raise UserError(f'MODEL_DIR {model_dir} {refused}')
    yield


def _take(path: epath.Path, stack: contextlib.ExitStack) -> str:
  """Takes the lock until the stack is closed, or returns the reason why it cannot."""
  try:
    # A buffer would be written once more when the file on a full disk is closed.
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
  """Empties the lock file. Deleting it instead could let two runs lock two files."""
  with contextlib.suppress(OSError):  # the disk may be gone
    file.truncate(0)


def _now() -> str:
  return f'{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC'
