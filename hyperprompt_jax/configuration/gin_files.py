"""gin: files and bindings parsed with clear errors, and calls with bound arguments."""

import contextlib
import functools
import importlib.util  # noqa: F401 - gin uses it without importing it
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import gin

from hyperprompt_jax.configuration import bindings as gin_bindings
from hyperprompt_jax.configuration import checks, paths, static
from hyperprompt_jax.errors import UserError, nearest
from hyperprompt_jax.runtime import workarounds

# Re-exported: they read the bindings that `parse` has made.
parameter = gin_bindings.parameter
bound_class = gin_bindings.bound_class
gin_directory = paths.gin_directory


def parse(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files, then bindings, and replaces the former configuration.

  Args:
    files: are paths, absolute, of the working directory or of `gin_directory()`.
    bindings: are `NAME=VALUE`.

  Raises:
    UserError: as `checks.check` does; or for a name that does not exist (with the nearest
      that does), a value of the wrong type, or bindings that go in a circle.
  """
  imports = checks.check(files, bindings).imports
  gin.clear_config()
  workarounds.set_gin_file_readers(
    [
      (_open_included, lambda file: paths.find_included(file, _including()) is not None),
      (paths.open_file, paths.is_remote),
    ]
  )
  for file in files:
    _translated(file, gin.parse_config_file, paths.find(file))
  for binding in bindings:
    parse_binding = functools.partial(_parse_binding, imports)
    _translated(f'{static.BINDING_PREFIX}{binding}', parse_binding, binding)
  for name in gin_bindings.circles():
    raise UserError(f'{name} is bound to what needs {name} itself: give it another value')
  for message in gin_bindings.wrong_types():
    raise UserError(message)
  _register_own_tasks()


def _parse_binding(imports: Mapping[str, str], binding: str) -> None:
  """Parses a binding of the command line.

  It may refer to what no file has named yet, such as `@optax.adamw()`, in a module that a
  file imports.

  Args:
    imports: holds import statements by the name that they bind.
    binding: is `NAME=VALUE`.
  """
  try:
    gin.parse_config(binding)
  except ValueError:
    modules = re.findall(r'(?:^|@)(?:\w+/)*(\w+)\.', binding)
    lines = [imports[name] for name in modules if name in imports]
    if not lines:
      raise
    with contextlib.suppress(AttributeError):  # there is no such name in the module
      return gin.parse_config(
        '\n'.join(('from __gin__ import dynamic_registration', *lines, binding))
      )
    raise


def _register_own_tasks() -> None:
  """Makes the mixtures that gin describes, wherever their names stand."""
  # Not imported here, as not every configuration has tasks.
  tasks = sys.modules.get('hyperprompt_tasks')
  for function in tasks.MAKERS if tasks else ():
    for scope in gin_bindings.scopes(function):
      with gin.config_scope(scope):
        call(function)


def call(function: Callable[..., Any], **arguments: Any) -> Any:
  """Calls a function with the values that gin binds besides `arguments`.

  Raises:
    UserError: if a parameter of it, or of one of its arguments, has no value.
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


def set_macros(**values: Any) -> None:
  """Sets macros, overriding the parsed values."""
  for name, value in values.items():
    gin.parse_config(f'{name} = {value!r}')


# The files that gin is reading, each included by the one before.
_open: list[str] = []


def _including() -> str | None:
  """Returns the path of the file that gin is reading."""
  return _open[-1] if _open else None


@contextlib.contextmanager
def _open_included(file: str) -> Iterator[IO[str]]:
  """Opens a file of this machine, and keeps in mind that gin is reading it."""
  path = paths.find_included(file, _including())
  assert path is not None  # gin has asked
  _open.append(path)
  try:
    with paths.open_file(path) as opened:
      yield opened
  finally:
    _open.pop()


def _translated(source: str, parse_function: Callable[[str], Any], text: str) -> None:
  """Runs one of gin's parsers and turns its errors into one line."""
  # gin logs an error for every path that it tries in vain.
  logging.disable(logging.ERROR)
  try:
    parse_function(text)
  except static.PARSE_ERRORS as error:
    raise UserError(f'{source}: {_explain(error, source)}') from error
  finally:
    logging.disable(logging.NOTSET)


def _explain(error: Exception, source: str) -> str:
  """Returns one line for an error of gin's."""
  first = next(iter(str(error).strip().splitlines()), '').rstrip('.')
  if match := re.match(r"No configurable matching (?:reference )?'@?([\w./]+)", first):
    return f'there is no {match[1]}{nearest(match[1], _selectors())}'
  if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", first):
    # The signature of gin's subclass would be (*args, **kwargs).
    configurable = workarounds.gin_function(match[1])
    parameters = inspect.signature(configurable).parameters
    return f'{match[1]} has no parameter {match[2]}{nearest(match[2], parameters)}'
  return static.explain(error, source)


def _selectors() -> list[str]:
  """Returns all that is configured so far, as `module.name` and `module.name.parameter`."""
  names = re.findall(r'^([\w.]+) = ', gin.config_str(), re.MULTILINE)
  names += re.findall(r'@([\w.]+)', gin.config_str())
  return [*names, *(name.rpartition('.')[0] for name in names)]
