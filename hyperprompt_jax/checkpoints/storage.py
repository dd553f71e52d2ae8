"""Folders of checkpoints, local or on Google Cloud Storage, and their errors."""

import math
import os
import stat
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from hyperprompt_jax.checkpoints import folders
from hyperprompt_jax.checkpoints.lazy import Index, LazyArray
from hyperprompt_jax.errors import UserError, reason_of, shown

# TensorStore's defaults retry for minutes before they report that there is no network.
_CONTEXT = ts.Context(
  {
    'gcs_request_retries': {'max_retries': 4, 'max_delay': '4s'},
    'file_io_concurrency': {'limit': 16},
    # Every array is read once.
    'cache_pool': {'total_bytes_limit': 0},
  }
)

# The longest name of an array; T5's have 60 characters.
_LONGEST_NAME = 250
# The most bytes of a file that is read whole; T5X's `checkpoint` of XXL has some 100 kB.
_LARGEST_FILE = 2**28
# Files by these names describe arrays, and libraries read them whole.
_DESCRIPTIONS = {'.zarray', '.zattrs', '.zgroup', 'zarr.json', '_METADATA', 'metadata'}


class Folder:
  """A folder of a checkpoint.

  Args:
    path: names a local folder, or `gs://BUCKET/…`.

  Raises:
    UserError: if it is on Google Cloud Storage, and that cannot be reached.
  """

  def __init__(self, path: str):
    self.path = path.rstrip('/')
    if self.is_remote:
      import hyperprompt_tasks  # and with it TensorFlow, which local folders do not need

      if reason := hyperprompt_tasks.unreachable(self.path):
        raise UserError(f'{path} cannot be reached ({reason}): name a local copy')

  def __str__(self) -> str:
    return self.path

  @property
  def is_remote(self) -> bool:
    """Whether the folder is on Google Cloud Storage."""
    return self.path.startswith('gs://')

  def __truediv__(self, name: str) -> 'Folder':
    # A path that a checkpoint's file gives must not lead out of the checkpoint.
    check_name(self.path, name)
    if name.startswith('/') or '..' in name.split('/'):
      raise UserError(f'{self.path} names {name!r}, which is outside of it: not read')
    inside = object.__new__(type(self))
    inside.path = f'{self.path}/{name}'
    return inside

  def _kvstore(self) -> dict[str, Any]:
    if self.is_remote:
      bucket, _, path = self.path.removeprefix('gs://').partition('/')
      return {'driver': 'gcs', 'bucket': bucket, 'path': f'{path}/'}
    return {'driver': 'file', 'path': f'{os.path.abspath(self.path)}/'}

  def read(self, name: str) -> bytes | None:
    """Returns the contents of a file, None if there is no such file.

    Raises:
      UserError: if it cannot be read, is no regular file, or is too large to be one of the
        files that are read whole.
    """
    if not self.is_remote and os.path.lexists(os.path.join(self.path, name)):
      check_file(os.path.join(self.path, name), _LARGEST_FILE)
    try:
      store = ts.KvStore.open(self._kvstore(), context=_CONTEXT).result()
      contents = store.read(name).result()
    except ValueError as error:
      raise UserError(f'{self}/{name} cannot be read: {reason_of(error)}') from error
    return bytes(contents.value) if contents.state == 'value' else None

  def open_zarr(self, path: str, *, driver: str = 'zarr', ocdbt: bool = False) -> Any:
    """Begins to open an array.

    Args:
      path: names the array within the folder.
      driver: is 'zarr' or 'zarr3'.
      ocdbt: tells whether the folder is one of TensorStore's databases.

    Returns:
      A future, for `opened`.

    Raises:
      UserError: if the path leads out of the folder, or the driver is another.
    """
    if driver not in ('zarr', 'zarr3'):
      # Some of TensorStore's drivers read any file or URL that a specification names.
      raise UserError(f'{self}: driver {shown(driver)} of an array is none of zarr, zarr3')
    if ocdbt:
      kvstore = {'driver': 'ocdbt', 'base': self._kvstore(), 'path': f'{path}/'}
    else:
      kvstore = (self / path)._kvstore()
    # A chunk that is missing would be read as zeros.
    spec = {'driver': driver, 'kvstore': kvstore, 'fill_missing_data_reads': False}
    return ts.open(spec, open=True, read=True, context=_CONTEXT)


def opened(name: str, future: Any) -> LazyArray:
  """Returns the array that `Folder.open_zarr` has begun to open.

  Args:
    name: names the array in messages.
    future: is the result of `open_zarr`.
  """
  try:
    store = future.result()
  except ValueError as error:
    raise UserError(f'{name} is missing or damaged: {reason_of(error)}') from error

  itemsize = store.dtype.numpy_dtype.itemsize
  # TensorStore allocates a whole chunk, and ends the process if that fails.
  chunk = store.chunk_layout.read_chunk.shape or ()
  check_memory(f'a chunk of {name}', math.prod(chunk) * itemsize)

  def read(index: Index) -> np.ndarray:
    check_memory(name, math.prod(part.stop - part.start for part in index) * itemsize)
    try:
      return store[index].read().result()
    except ValueError as error:
      raise UserError(
        f'{name} is incomplete or damaged: {reason_of(error)}; get the checkpoint again'
      ) from error

  return LazyArray(tuple(store.shape), store.dtype.numpy_dtype, read)


def check_file(path: str, largest: int | None = None) -> None:
  """Checks that a path is a regular file, or leads to one, before anything opens it.

  Opening a pipe waits for ever, and reading a device may never end.

  Args:
    path: names the file.
    largest: is the most bytes that it may have; None allows any number.

  Raises:
    UserError: if it is anything else, or larger.
  """
  try:
    status = os.stat(path)
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  if not stat.S_ISREG(status.st_mode):
    raise UserError(f'{path} is no regular file, and is not opened: get the folder again')
  if largest is not None and status.st_size > largest:
    raise UserError(
      f'{path} has {status.st_size:,} bytes, and is not read: expected {largest:,} at most'
    )


def check_folder(path: epath.PathLike) -> None:
  """Checks that a local folder of arrays holds regular files and folders alone.

  Args:
    path: names the folder; links in it may lead to files, not to folders.

  Raises:
    UserError: if it holds anything else, or a description of arrays of too many bytes.
  """
  for folder, inner_folders, names in os.walk(path):
    for name in names:
      largest = _LARGEST_FILE if name in _DESCRIPTIONS else None
      check_file(os.path.join(folder, name), largest)
    for name in inner_folders:
      if os.path.islink(os.path.join(folder, name)):
        raise UserError(f'{os.path.join(folder, name)} is a link: name the folder itself')


def check_step_names(folder: epath.Path) -> None:
  """Checks the names among a run's steps, as `folders.check_step_name` does.

  Args:
    folder: has a folder for each step; it may be absent.

  Raises:
    UserError: if a name is that of no step.
  """
  for path in folder.iterdir() if folder.is_dir() else ():
    folders.check_step_name(str(path))


def check_name(where: str, name: Any) -> None:
  """Checks a name that a file gives, since messages quote it and paths contain it.

  Raises:
    UserError: if it is no text, not printable, or too long.
  """
  if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
    raise UserError(f'{where} has the name {shown(name)} in it, which is none: not read')


def check_memory(name: str, nbytes: int) -> None:
  """Checks the memory for an array whose size a file claims.

  Raises:
    UserError: if it exceeds the machine's memory.
  """
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if nbytes > memory:
    raise UserError(
      f'{name} is of {nbytes // 10**9:,} GB by what its file says, and this machine has '
      f'{memory // 10**9:,}: get the checkpoint again, or use a larger machine'
    )
