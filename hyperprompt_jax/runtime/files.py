"""Files and folders that are written whole, or not at all."""

import contextlib
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from hyperprompt_jax.errors import UserError, reason_of
from hyperprompt_jax.runtime import distributed


@contextlib.contextmanager
def whole_file(path: epath.PathLike, mode: str = 'w') -> Iterator[IO[Any]]:
  """Opens a file that takes its name when the block ends, and disappears if that fails.

  Until then it has a unique name in the same folder, so that two writers never mix. What
  exists under the name and is no regular file (a pipe, a device) is written to, and never
  replaced. A link is followed: the file that it leads to is replaced, not the link.

  Args:
    path: names the file to write; it is local.
    mode: is 'w' for UTF-8 text, 'wb' for bytes.

  Raises:
    OSError: if the file cannot be written.
  """
  encoding = None if 'b' in mode else 'utf-8'
  target = os.path.realpath(path)
  with contextlib.suppress(FileNotFoundError):
    status = os.stat(target)
    if stat.S_ISDIR(status.st_mode):
      raise IsADirectoryError(f'{path} is a folder')
    if not stat.S_ISREG(status.st_mode):
      with open(target, mode, encoding=encoding) as file:
        yield file
      return
  temporary = _unique_name(target)
  # The system applies the user's umask; O_EXCL follows no link that another user has laid.
  descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    with open(descriptor, mode, encoding=encoding) as file:
      yield file
      file.flush()
      os.fsync(descriptor)
    with contextlib.suppress(FileNotFoundError):
      os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
    os.replace(temporary, target)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)


@contextlib.contextmanager
def writing_output(name: str) -> Iterator[None]:
  """Turns the system's errors about an output into one line for the user.

  Args:
    name: names the output in the user's words, such as `--output answers.jsonl`.

  Raises:
    UserError: if an error of the system is raised in the block.
  """
  try:
    yield
  except BrokenPipeError:
    raise  # the reader of a pipe has closed it
  except OSError as error:
    reason = error.strerror or str(error)
    raise UserError(f'{name} cannot be written: {reason}') from error


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
  """Turns errors of a run's storage into one line that names the folder.

  Args:
    path: names the folder that is written.

  Raises:
    UserError: for an error of the system, of TensorFlow's files or of TensorStore.
  """
  try:
    yield
  except UserError:
    raise
  except _storage_errors() as error:
    distributed.end_if_lost(error)  # Gloo's errors belong to these types, too
    # TensorStore's message has a long description of the place before the reason. The text
    # between the two depends on its version.
    marked = r'\[OS error \d+: (?:E\w+ )?([^\]]+)\]|: ([^:\"]+) \[os_error_code='
    of_system = re.search(marked, str(error))
    reason = of_system[1] or of_system[2] if of_system else reason_of(error)
    raise UserError(
      f'{path} cannot be written: {reason}; once that is repaired, the same command '
      'resumes from the last checkpoint'
    ) from error


def _storage_errors() -> tuple[type[Exception], ...]:
  """Returns the errors of the system, of TensorStore and of TensorFlow, if loaded."""
  tensorflow = sys.modules.get('tensorflow')
  # TensorStore's errors are ValueErrors.
  return (OSError, ValueError, *((tensorflow.errors.OpError,) if tensorflow else ()))


def write_whole(path: epath.PathLike, contents: str | bytes) -> None:
  """Writes a small file, locally or on `gs://`, where every object appears whole.

  Args:
    path: names the file to write.
    contents: is its text, encoded as UTF-8, or its bytes.

  Raises:
    OSError: if the file cannot be written.
  """
  data = contents.encode() if isinstance(contents, str) else contents
  if str(path).startswith('gs://'):
    epath.Path(path).write_bytes(data)
    return
  with whole_file(path, 'wb') as file:
    file.write(data)


@contextlib.contextmanager
def whole_folder(path: epath.PathLike) -> Iterator[epath.Path]:
  """Makes a folder that takes its name when the block ends, and disappears if that fails.

  Args:
    path: names the folder, which must not exist; folders above it are made.

  Yields:
    The folder, under a unique name until the block ends.

  Raises:
    UserError: if the folder exists.
    OSError: if it cannot be written.
  """
  target = os.path.abspath(path)
  if os.path.lexists(target):
    raise UserError(f'--output {path} exists already: name a new folder')
  os.makedirs(os.path.dirname(target), exist_ok=True)
  temporary = _unique_name(target)
  os.mkdir(temporary)
  try:
    yield epath.Path(temporary)
    _set_usual_modes(temporary)
    if os.path.lexists(target):  # a rename would replace an empty folder of another writer
      raise UserError(f'--output {path} exists already: name a new folder')
    os.rename(temporary, target)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _set_usual_modes(folder: str) -> None:
  """Gives files the mode that the user's umask leaves; safetensors writes for the owner."""
  umask = os.umask(0)
  os.umask(umask)
  for parent, _, names in os.walk(folder):
    for name in names:
      os.chmod(os.path.join(parent, name), 0o666 & ~umask)


def _unique_name(target: str) -> str:
  """Returns a hidden name beside the target, which no other process uses."""
  folder, name = os.path.split(target)
  return os.path.join(folder, f'.{name[:200]}.{uuid.uuid4().hex[:12]}.tmp')
