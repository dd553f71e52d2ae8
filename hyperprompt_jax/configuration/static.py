"""gin files read as data: nothing that they name is imported or called.

So mistakes are found at once (`checks`), without JAX or TensorFlow, and the configuration
of a run from elsewhere can be shown without running it.
"""

import ast
import dataclasses
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config_parser
from typing_extensions import override

from hyperprompt_jax.configuration import macros, paths
from hyperprompt_jax.errors import UserError

BINDING_PREFIX = '--gin.'
REQUIRED = '%gin.REQUIRED'
# References on the command line may be to these without a file that imports them.
_IMPORTS = {'optax': 'import optax'}
# The errors of gin's parsers for a text that means nothing.
PARSE_ERRORS = (
  ValueError,
  SyntaxError,
  OSError,
  ImportError,
  AttributeError,
  NameError,
  TypeError,  # an unhashable key of a dict
  RecursionError,  # a value that is nested too deeply
  MemoryError,  # the same, from Python's parser
  tokenize.TokenError,
)


@dataclasses.dataclass(frozen=True)
class Reference:
  """A macro or a configurable in the place of a value.

  Attributes:
    text: is the reference as gin files write it, such as `%BATCH_SIZE` or `@optax.adamw()`.
  """

  text: str

  @override
  def __repr__(self) -> str:
    return self.text


class Promise(Reference):
  """Stands for the value that the checkpoint of the start will give."""


class _Delegate(config_parser.ParserDelegate):
  """Makes a `Reference` of every reference."""

  @override
  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(f'@{scoped_configurable_name}{"()" if evaluate else ""}')

  @override
  def macro(self, macro_name):
    return Reference(f'%{macro_name}')


@dataclasses.dataclass
class Configuration:
  """The bindings of some gin files.

  Attributes:
    values: holds the values by name: `BATCH_SIZE` or `config.Config.emb_dim`.
    setters: holds the files that set each name, those given and not those included.
    imports: holds the import statements of the files, by the name that they bind.
    size_from: is the checkpoint that gives the network's size; None if a file gives it.
  """

  values: dict[str, Any] = dataclasses.field(default_factory=dict)
  setters: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  imports: dict[str, str] = dataclasses.field(default_factory=lambda: {**_IMPORTS})
  size_from: str | None = None

  def add_file(self, file: str) -> None:
    """Reads a file and the files that it includes.

    Raises:
      UserError: if one of them is missing or does not parse.
    """
    self._add_path(paths.find(file), file, ())

  def _add_path(self, path: str, file: str, including: tuple[str, ...]) -> None:
    try:
      with paths.open_file(path) as opened:
        text = opened.read()
    except (OSError, UnicodeError) as error:
      raise UserError(f'{file}: {error}') from error
    self._add_text(text, file, (*including, path))

  def add_binding(self, binding: str) -> None:
    """Reads a binding of the command line, `NAME=VALUE`.

    Raises:
      UserError: if it does not parse.
    """
    self._add_text(binding, f'{BINDING_PREFIX}{binding}', ())

  def _add_text(self, text: str, source: str, including: tuple[str, ...]) -> None:
    try:
      statements = list(config_parser.ConfigParser(text, _Delegate()))
    except PARSE_ERRORS as error:
      raise UserError(f'{source}: {explain(error, source)}') from error
    for statement in statements:
      if isinstance(statement, config_parser.BindingStatement):
        name = _name(statement)
        self.values[name] = statement.value
        files = self.setters.setdefault(name, [])
        if source not in files:
          files.append(source)
      elif isinstance(statement, config_parser.ImportStatement):
        self.imports[statement.bound_name()] = statement.format()
      elif isinstance(statement, config_parser.IncludeStatement):
        path = paths.find_included(statement.filename, including[-1] if including else None)
        if path is None and paths.is_remote(statement.filename):
          path = statement.filename
        if path is None:
          raise UserError(f'{source}: it includes {statement.filename}, which is not there')
        if path in including:
          raise UserError(f'{source}: {statement.filename} includes itself')
        self._add_path(path, source, including)

  def macros(self) -> set[str]:
    """Returns the names of all macros that are set or used."""
    defined = {name for name in self.values if '.' not in name}
    return defined | self.used_macros()

  def used_macros(self) -> set[str]:
    """Returns the names of the macros that values refer to."""
    return {
      reference.text[1:]
      for value in self.values.values()
      for reference in references(value)
      if reference.text.startswith('%') and '.' not in reference.text
    }

  def shown(self) -> dict[str, str]:
    """Returns the values, macros first, as gin writes them."""
    names = sorted(self.values, key=lambda name: ('.' in name, name))
    # A parameter that is bound to a macro is left out: the macro stands in the list.
    return {
      name: repr(self.resolved(name))
      for name in names
      if '.' not in name or not repr(self.values[name]).startswith('%')
    }

  def resolved(self, name: str) -> Any:
    """Returns a value with values in the place of macros, where they are set."""
    return self._resolve(self.values[name], (name,))

  def _resolve(self, value: Any, seen: tuple[str, ...]) -> Any:
    if isinstance(value, Reference):
      macro = value.text[1:]
      if value.text.startswith('%') and macro in self.values and macro not in seen:
        return self._resolve(self.values[macro], (*seen, macro))
      return value
    if isinstance(value, Mapping):
      return {key: self._resolve(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(self._resolve(item, seen) for item in value)
    return value


def explain(error: BaseException, source: str) -> str:
  """Returns one line for an error of gin's parser.

  Args:
    error: is the error.
    source: is the file, or the whole argument `--gin.NAME=VALUE`.
  """
  message = str(error) or type(error).__name__
  # Python 3.12 and later have gin use Python's own tokenizer, with the second message.
  if re.search('maximum recursion depth|too many nested parentheses', message):
    return 'a value is nested too deeply'
  name, _, value = source.removeprefix(BINDING_PREFIX).partition('=')
  if source.startswith(BINDING_PREFIX) and not is_value(value):
    setting = macros.described().get(name)
    if setting and not setting.takes_text:
      return f'the value is no Python literal; {name} is of type {setting.type}'
    quoted = f'{BINDING_PREFIX}{name}="{value!r}"'
    plain = f', or {setting.flag}={value}' if setting else ''
    return f'the value is no Python literal; a string needs quotes: {quoted}{plain}'
  return next(iter(message.strip().splitlines()), '').rstrip('.')


def is_value(text: str) -> bool:
  """Returns whether a text is a Python literal or a reference of gin's."""
  try:
    ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
    return text.startswith(('@', '%'))
  return True


def _name(statement: config_parser.BindingStatement) -> str:
  """Returns the name of a binding, with the last module's name alone."""
  scope = f'{statement.scope}/' if statement.scope else ''
  if not statement.arg_name:
    return f'{scope}{statement.selector}'
  short = '.'.join(statement.selector.split('.')[-2:])
  return f'{scope}{short}.{statement.arg_name}'


def references(value: Any) -> Iterator[Reference]:
  """Yields the references in a value."""
  if isinstance(value, Reference):
    yield value
  elif isinstance(value, Mapping):
    for key, item in value.items():
      yield from references(key)
      yield from references(item)
  elif isinstance(value, list | tuple):
    for item in value:
      yield from references(item)
