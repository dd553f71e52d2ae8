"""A folder of its own for the temporary files of one process.

Libraries leave temporary files where their process is killed: TensorFlow the code that it
generates, TensorFlow Datasets a folder for each dataset.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile

_PREFIX = 'hyperprompt-run-'


def use_own_folder() -> None:
  """Leads all temporary files of this process and its children into one folder.

  The folder is removed when the process ends. Folders of processes that were killed are
  removed now. They are told by their lock, which the system releases at the end of a
  process, however it comes. Where the folder for temporary files cannot be written or
  locked, everything stays as it is.
  """
  with contextlib.suppress(OSError):
    _remove_abandoned(tempfile.gettempdir())
    folder = _locked_folder()
    tempfile.tempdir = os.environ['TMPDIR'] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _locked_folder() -> str:
  while True:
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    try:
      _lock(folder)
      # Another process may have taken it for an abandoned one before it was locked.
      if os.path.isdir(folder):
        return folder
    except FileNotFoundError:
      continue
    except OSError:
      os.rmdir(folder)
      raise


def _lock(folder: str) -> int:
  """Locks a folder; returns the descriptor that holds the lock until it is closed."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(descriptor)
    raise
  return descriptor


def _remove_abandoned(place: str) -> None:
  for entry in os.scandir(place):
    if not (entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False)):
      continue
    with contextlib.suppress(OSError):  # in use, or another user's
      descriptor = _lock(entry.path)
      shutil.rmtree(entry.path, ignore_errors=True)
      os.close(descriptor)
