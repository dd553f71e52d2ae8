"""gin: finds files, and parses files and bindings with clear errors."""

import ast
import contextlib
import difflib
import importlib.util  # noqa: F401 - gin uses it without importing it
import inspect
import logging
import os
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

import gin
from etils import epath

from hyperprompt_jax.configuration import bindings as gin_bindings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import workarounds

BINDING_PREFIX = '--gin.'


def gin_directory() -> pathlib.Path:
  """Returns the folder of gin files: in the package if installed, else beside it."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def parse(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files, then bindings, and replaces the former configuration.

  Args:
    files: are absolute paths, or paths in the working directory or in `gin_directory()`.
    bindings: have the form `NAME=VALUE`.

  Raises:
    UserError: if a file is missing or does not parse, a name does not exist (with the
      nearest that does), a value does not parse, or a required macro is not set.
  """
  gin.clear_config()
  _prepare_gin()
  for file in files:
    _translated(file, gin.parse_config_file, _find(file))
  known_macros = {*gin_bindings.defined_macros(), *gin_bindings.undefined_macros()}
  for binding in bindings:
    name, _, value = binding.partition('=')
    if re.fullmatch(r'\w+', name) and name not in known_macros:
      hint = nearest(name, known_macros) or _setters(name, '; add --gin_file=')
      raise UserError(f'--gin.{name}: no gin file of this run uses {name}{hint}')
    if value == '':
      raise UserError(f'--gin.{name}= has no value')
    _translated(f'--gin.{binding}', gin.parse_config, binding)
  if undefined := gin_bindings.undefined_macros():
    raise UserError(
      f'{undefined[0]} is not set: add --gin.{undefined[0]}=…'
      f'{_setters(undefined[0], " or --gin_file=")}'
    )
  missing = re.findall(r'^(\w+) = %gin.REQUIRED', gin.config_str(), re.MULTILINE)
  if missing:
    raise UserError(
      f'{", ".join(missing)} must be set: add '
      + ' '.join(f'--gin.{name}=…' for name in missing)
    )
  for name in gin_bindings.circles():
    raise UserError(f'{name} is bound to what needs {name} itself: give it another value')
  for message in gin_bindings.wrong_types():
    raise UserError(message)
  _register_own_tasks()


def _register_own_tasks() -> None:
  """Registers the mixtures that gin describes, wherever their names stand."""
  # The package is not imported here, as not every configuration has tasks.
  tasks = sys.modules.get('hyperprompt_tasks')
  for function in (tasks.from_files, tasks.condition) if tasks else ():
    for scope in gin_bindings.scopes(function):
      with gin.config_scope(scope):
        call(function)


def call(function: Callable[..., Any], **arguments: Any) -> Any:
  """Calls a function with `arguments` and the values that gin binds.

  Raises:
    UserError: if a parameter of the function, or of one of its values, has no value.
  """
  try:
    return gin.get_configurable(function)(**arguments)
  except TypeError as error:
    message = str(error)
    names = re.search(r'No values supplied by Gin .*: \[(.*)\]', message)
    if names is None:
      raise
    configurable = re.search(r"In call to configurable '(.+?)'", message)
    raise UserError(
      f'{configurable[1] if configurable else function.__name__} needs values of '
      f'{names[1]}: a run takes a --gin_file of each of models/, methods/ and runs/'
    ) from error


# These read the bindings that `parse` has made.
parameter = gin_bindings.parameter
bound_class = gin_bindings.bound_class


def set_macros(**values: Any) -> None:
  """Sets macros, overriding the parsed values."""
  for name, value in values.items():
    gin.parse_config(f'{name} = {value!r}')


def _find(file: str) -> str:
  """Returns the path of a gin file: the given one, else that in the package."""
  if _is_remote_file(file):
    return file
  for path in (pathlib.Path(file), gin_directory() / file):
    if os.path.isfile(path):
      return os.path.abspath(path)  # an absolute path is the file that was meant
  known = [
    str(path.relative_to(gin_directory())) for path in gin_directory().rglob('*.gin')
  ]
  raise UserError(
    f'no gin file {file}, neither here nor in {gin_directory()}{nearest(file, known)}'
  )


def _prepare_gin() -> None:
  """Replaces gin's readers of files by ours."""
  workarounds.set_gin_file_readers(
    [
      (_open_once, lambda file: _local_path(file) is not None),
      (_open_remote, _is_remote_file),
    ]
  )


# The files that are being read; each is included by the one before.
_open: list[str] = []


def _local_path(file: str) -> str | None:
  """Returns the path of a gin file on this machine, or None if there is none.

  An included file is searched in `gin_directory()`, then beside the file that includes it,
  then in the working directory, so that a user's folder with one of our names changes
  nothing.
  """
  folders = [
    gin_directory(),
    *(pathlib.Path(path).parent for path in _open[-1:]),
    pathlib.Path(),
  ]
  paths = [os.path.join(folder, file) for folder in folders]
  # A name that is too long is no file, where pathlib raises an error.
  return next((os.path.realpath(path) for path in paths if os.path.isfile(path)), None)


@contextlib.contextmanager
def _open_once(file: str) -> Iterator[IO[str]]:
  """Opens a file unless it includes itself; gin would follow a circle for seconds."""
  path = _local_path(file)
  assert path is not None  # gin has asked
  if path in _open:
    raise ValueError(f'{file} includes itself')
  _open.append(path)
  try:
    with open(path, encoding='utf-8') as opened:
      yield opened
  finally:
    _open.remove(path)


def _is_remote_file(file: str) -> bool:
  return file.startswith('gs://') and epath.Path(file).is_file()


def _open_remote(file: str) -> Any:
  return epath.Path(file).open()


def _setters(macro: str, prefix: str) -> str:
  """Returns the prefix and the project's files that set a macro, or nothing."""
  files = [
    str(path.relative_to(gin_directory()))
    for path in sorted(gin_directory().rglob('*.gin'))
    if re.search(rf'^{macro} = ', path.read_text(encoding='utf-8'), re.MULTILINE)
  ]
  return prefix + ' or '.join(files) if files else ''


def _translated(source: str, parse_function, text: str) -> None:
  """Runs one of gin's parsers and turns its errors into one line."""
  # gin logs an error for every path that it tries in vain.
  logging.disable(logging.ERROR)
  try:
    parse_function(text)
  except (
    ValueError,
    SyntaxError,
    OSError,
    ImportError,
    AttributeError,
    NameError,
    TypeError,  # an unhashable key of a dict
    RecursionError,  # a value that is nested too deeply
    MemoryError,  # the same in Python's parser
    tokenize.TokenError,
  ) as error:
    raise UserError(
      f'{source}: {_explain(str(error) or type(error).__name__, source)}'
    ) from error
  finally:
    logging.disable(logging.NOTSET)


def _explain(message: str, source: str) -> str:
  # The second is of Python's own tokenizer, which 3.12 and later have gin use.
  if re.search('maximum recursion depth|too many nested parentheses', message):
    return 'a value is nested too deeply'
  first = next(iter(message.strip().splitlines()), '').rstrip('.')
  if match := re.match(r"No configurable matching (?:reference )?'@?([\w./]+)", first):
    return f'there is no {match[1]}{nearest(match[1], _selectors())}'
  if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", first):
    # The signature of gin's subclass would be (*args, **kwargs).
    configurable = workarounds.gin_function(match[1])
    parameters = inspect.signature(configurable).parameters
    return f'{match[1]} has no parameter {match[2]}{nearest(match[2], parameters)}'
  name, _, value = source.removeprefix(BINDING_PREFIX).partition('=')
  if source.startswith(BINDING_PREFIX) and not _is_value(value):
    quoted = f'--gin.{name}="{value!r}"'
    return f'the value is no Python literal; a string needs quotes: {quoted}'
  return first


def _is_value(text: str) -> bool:
  try:
    ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
    return text.startswith(('@', '%'))
  return True


def _selectors() -> list[str]:
  """Returns all configured names, as `module.name` and `module.name.parameter`."""
  names = re.findall(r'^([\w.]+) = ', gin.config_str(), re.MULTILINE)
  names += re.findall(r'@([\w.]+)', gin.config_str())
  return [*names, *(name.rpartition('.')[0] for name in names)]


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ` (did you mean …?)` with the known name most like `name`, or nothing."""
  matches = difflib.get_close_matches(name, sorted({*known} - {''}), n=1, cutoff=0.5)
  return f' (did you mean {matches[0]}?)' if matches else ''
