"""The places where gin files are found: the user's folders, and the package's own."""

import os
import pathlib
import re
from typing import IO, Any

from hyperprompt_jax.errors import UserError, nearest


def gin_directory() -> pathlib.Path:
  """Returns the folder of the project's gin files.

  In the wheel it lies inside the package, in a checkout beside it.
  """
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def own_files() -> list[str]:
  """Returns the names of the project's gin files, such as `models/base.gin`."""
  directory = gin_directory()
  return sorted(str(path.relative_to(directory)) for path in directory.rglob('*.gin'))


def find(file: str) -> str:
  """Returns the path of a gin file: as given, or else within the package.

  Raises:
    UserError: if there is no such file; it names the nearest of the package.
  """
  if is_remote(file):
    return file
  for path in (pathlib.Path(file), gin_directory() / file):
    if os.path.isfile(path):
      return os.path.abspath(path)  # an absolute path is the file that was meant
  raise UserError(
    f'no gin file {file}, neither here nor in {gin_directory()}{nearest(file, own_files())}'
  )


def find_included(file: str, including: str | None) -> str | None:
  """Returns the path of an included gin file on this machine; None if there is none.

  It is looked for in `gin_directory()` first, then beside the file that includes it, then
  in the working directory: a user's folder with one of our names changes nothing.

  Args:
    file: is the name in the `include` statement.
    including: is the path of the file that holds the statement.
  """
  beside = [pathlib.Path(including).parent] if including else []
  folders = [gin_directory(), *beside, pathlib.Path()]
  paths = [os.path.join(folder, file) for folder in folders]
  # os.path takes a name that is too long for a missing file, where pathlib raises an error.
  return next((os.path.realpath(path) for path in paths if os.path.isfile(path)), None)


def is_remote(file: str) -> bool:
  """Returns whether a name is that of a file on Google Cloud Storage."""
  if not file.startswith('gs://'):
    return False
  from etils import epath  # it imports TensorFlow for such a path

  return epath.Path(file).is_file()


def open_file(path: str) -> IO[Any]:
  """Opens a gin file for reading."""
  if path.startswith('gs://'):
    from etils import epath

    return epath.Path(path).open()
  return open(path, encoding='utf-8')


def setters(macro: str, prefix: str) -> str:
  """Returns the prefix and the project's files that set a macro, or nothing."""
  files = [
    file
    for file in own_files()
    if re.search(rf'^{macro} = ', (gin_directory() / file).read_text('utf-8'), re.MULTILINE)
  ]
  return prefix + ' or '.join(files) if files else ''
