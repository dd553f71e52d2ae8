"""gin files read as data: nothing that they name is imported or called.

So the mistakes that can be seen in files and flags alone are found at once, without JAX or
TensorFlow, and the configuration of a run from elsewhere can be shown without running it.
"""

import ast
import dataclasses
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gin import config_parser
from typing_extensions import override

from hyperprompt_jax.configuration import initial_size, macros, paths, symbols, tasks
from hyperprompt_jax.errors import UserError, nearest

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
      for reference in _references(value)
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


def check(files: Sequence[str], bindings: Sequence[str]) -> Configuration:
  """Reads gin files and bindings, and finds the mistakes that are visible in them.

  Args:
    files: are paths, absolute, relative, or within `gin_directory()`.
    bindings: are `NAME=VALUE`, from the command line.

  Raises:
    UserError: for a file that is missing or does not parse, two files that choose a method
      or a size, an unknown macro (with the nearest known one), a value that does not parse
      or is out of its range, or a macro that must be set and is not.
  """
  configuration = Configuration()
  for file in files:
    configuration.add_file(file)
  _check_one_of_each(configuration)
  has_size = initial_size.SIZE in configuration.values
  known = configuration.macros()
  for binding in bindings:
    name, _, value = binding.partition('=')
    if re.fullmatch(r'\w+', name) and name not in known:
      # The name of one of our settings is no typo: a gin file that uses it is missing.
      setting = macros.described().get(name)
      hint = '' if setting else nearest(name, known)
      hint = hint or paths.setters(name, '; add --gin_file=')
      flag = setting.flag if setting else f'{BINDING_PREFIX}{name}'
      raise UserError(f'{flag}: no gin file of this run uses {name}{hint}')
    if value == '':
      raise UserError(f'{BINDING_PREFIX}{name}= has no value')
    configuration.add_binding(binding)
  _check_names(configuration)
  if not has_size:
    _take_size_of_initial(configuration)
  _check_set(configuration)
  _check_values(configuration)
  _check_mixture(configuration)
  return configuration


def _check_names(configuration: Configuration) -> None:
  """Refuses bindings of the command line to names that our modules do not have."""
  for name, sources in configuration.setters.items():
    if not sources[-1].startswith(BINDING_PREFIX):
      continue
    try:
      if name.count('.') == 2:
        statement = configuration.imports.get(name.split('/')[-1].split('.')[0], '')
        symbols.check_parameter(name.split('/')[-1], statement)
      for reference in _references(configuration.values[name]):
        selector = reference.text.split('/')[-1].strip('@()')
        if reference.text.startswith('@') and selector.count('.') == 1:
          statement = configuration.imports.get(selector.split('.')[0], '')
          symbols.check_configurable(selector, statement)
    except UserError as error:
      raise UserError(f'{sources[-1]}: {error}') from error


def _check_mixture(configuration: Configuration) -> None:
  """Refuses a name that is nearly one of our tasks or mixtures, and not registered.

  A task that a module of the user's registers is known only once that is imported.
  """
  name = configuration.values.get('MIXTURE_OR_TASK_NAME')
  if not isinstance(name, str) or may_be_registered(configuration, name):
    return
  if hint := nearest(name, tasks.NAMES, cutoff=0.85):
    raise UserError(f'--mixture={name}: there is no such task or mixture{hint}')


def may_be_registered(configuration: Configuration, name: str) -> bool:
  """Returns whether a task may be one of ours, or one that the configuration makes.

  The tasks of a run's record are not known here.

  Args:
    configuration: is that of a run.
    name: is the name of a task or mixture.
  """
  # A name with a point is MIXTURE.TASK, one of the tasks that a mixture has.
  if '.' in name or name in tasks.NAMES:
    return True
  if 'seqio' in sys.modules:  # its registry knows better
    return True
  own = any(
    not re.match(r'(from|import) (hyperprompt_|optax|__gin__)', line)
    for line in configuration.imports.values()
  )
  defined = [
    value
    for key, value in configuration.values.items()
    if key.endswith(('from_files.name', 'condition.name'))
  ]
  return own or name in defined


def _take_size_of_initial(configuration: Configuration) -> None:
  """Marks the macros that the initial checkpoint gives, if there is one."""
  macro = 'INITIAL_CHECKPOINT_PATH'
  path = configuration.resolved(macro) if macro in configuration.values else None
  if not isinstance(path, str) or not path:
    return
  missing = initial_size.missing(configuration.values, configuration.used_macros())
  if missing:
    configuration.size_from = path
    configuration.values |= dict.fromkeys(missing, Promise(f'(of {path})'))


def _check_values(configuration: Configuration) -> None:
  """Checks the types and ranges of macros."""
  described = macros.described()
  names = [name for name in configuration.values if name in described]
  # A value that was given is the one to name, not a macro that takes it.
  names.sort(key=lambda name: any(_references(configuration.values[name])))
  for name in names:
    value = configuration.resolved(name)
    if not any(_references(value)):
      described[name].check(value)


def _check_one_of_each(configuration: Configuration) -> None:
  """Refuses a second file of methods/, or of models/, which would replace the first."""
  sizes = [
    file
    for file in configuration.setters.get('config.Config.emb_dim', ())
    if file in configuration.setters.get('config.Config.mlp_dim', ())
  ]
  methods = configuration.setters.get('METHOD', [])
  for subject, files in {'method': methods, 'size': sizes}.items():
    if len(files) > 1:
      raise UserError(
        f'{files[0]} and {files[1]} each choose a {subject}: leave out one of them'
      )


def _check_set(configuration: Configuration) -> None:
  """Refuses macros that are used or required, and not set."""
  described = macros.described()
  _check_described(configuration)
  undefined = sorted(
    configuration.used_macros() - configuration.values.keys(),
    key=lambda name: (name not in described, name),
  )
  if undefined:
    raise UserError(
      f'{undefined[0]} is not set: add {_form(undefined[0])}'
      f'{paths.setters(undefined[0], " or --gin_file=")}'
    )
  used = configuration.used_macros()
  missing = [
    name
    for name, value in configuration.values.items()
    if repr(value) == REQUIRED and ('.' in name or name in used)
  ]
  if missing:
    raise UserError(
      f'{", ".join(missing)} must be set: add {" ".join(map(_form, missing))}'
    )


def _check_described(configuration: Configuration) -> None:
  """Refuses a run without a method, or without a network."""
  used, values = configuration.used_macros(), configuration.values
  missing = {}
  references = {r.text for value in values.values() for r in _references(value)}
  if '@config.Config()' in references and 'config.Config.emb_dim' not in values:
    missing['network'] = '--gin_file=models/tiny.gin'
  if 'METHOD' in used - values.keys():
    missing['method'] = '--gin_file=methods/hyperprompt_global.gin'
  if missing:
    files = ' '.join(missing.values())
    folders = ' and '.join(f.split('=')[1].split('/')[0] + '/' for f in missing.values())
    initial = "; --init= of a model's folder gives its network, too"
    raise UserError(
      f'no gin file of this run describes a {" or a ".join(missing)}: add {files}, or '
      f'others of {folders}{initial if "network" in missing else ""}'
    )


def _form(macro: str) -> str:
  """Returns the form of the command line that sets a macro."""
  setting = macros.described().get(macro)
  return f'{setting.flag}=…' if setting else f'{BINDING_PREFIX}{macro}=…'


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


def _references(value: Any) -> Iterator[Reference]:
  """Yields the references in a value."""
  if isinstance(value, Reference):
    yield value
  elif isinstance(value, Mapping):
    for key, item in value.items():
      yield from _references(key)
      yield from _references(item)
  elif isinstance(value, list | tuple):
    for item in value:
      yield from _references(item)
