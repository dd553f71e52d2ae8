"""gin: finding the files, parsing them with clear errors, keeping what was parsed."""

import argparse
import difflib
import importlib.util  # noqa: F401 - gin uses it without importing it
import inspect
import logging
import pathlib
import re
from collections.abc import Iterable, Sequence

import gin

from hyperprompt_jax.errors import UserError

BINDING_PREFIX = '--gin.'


def gin_directory() -> pathlib.Path:
  """The project's gin files: in the wheel inside the package, in a checkout beside it."""
  package = pathlib.Path(__file__).parent
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds T5X's `--gin_file`; `--gin.NAME=VALUE` is taken up by `parse_arguments`."""
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='a gin file, of this folder or of the installed package (models/base.gin); '
    'may be repeated, later files override earlier ones',
  )
  parser.epilog = (
    '--gin.NAME=VALUE overrides a macro (--gin.TRAIN_STEPS=100) or a parameter '
    '(--gin.config.Config.emb_dim=64) after all files; strings take quotes of their own '
    '(--gin.MODEL_DIR="\'/tmp/run\'")'
  )


def parse_arguments(
  parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Parses a verb's flags.

  Returns:
    The parser's own flags, and the gin bindings as `NAME=VALUE`.

  Raises:
    UserError: for a flag that is neither.
  """
  flags, rest = parser.parse_known_args(arguments)
  for argument in rest:
    if not argument.startswith(BINDING_PREFIX) or '=' not in argument:
      known = [option for option in parser._option_string_actions if len(option) > 2]
      raise UserError(
        f'unknown argument {argument!r}{nearest(argument.split("=")[0], known)}; '
        'gin bindings are written --gin.NAME=VALUE'
      )
  return flags, [argument.removeprefix(BINDING_PREFIX) for argument in rest]


def parse(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files, then bindings, in place of whatever was configured before.

  Args:
    files: paths, absolute, of the working directory or of `gin_directory()`.
    bindings: `NAME=VALUE` each.

  Raises:
    UserError: for a file that is not there or does not parse, a name that does not
      exist (with the nearest that does), a value that does not parse, or a macro that
      must be set and is not.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(gin_directory()))
  for file in files:
    _translated(file, gin.parse_config_file, _find(file))
  known_macros = _macros(gin.config_str())
  for binding in bindings:
    name, _, value = binding.partition('=')
    if re.fullmatch(r'\w+', name) and name not in known_macros:
      raise UserError(
        f'--gin.{name}: no gin file of this run uses {name}{nearest(name, known_macros)}'
      )
    if value == '':
      raise UserError(f'--gin.{name}= has no value')
    _translated(f'--gin.{binding}', gin.parse_config, binding)
  missing = re.findall(r'^(\w+) = %gin.REQUIRED', gin.config_str(), re.MULTILINE)
  if missing:
    raise UserError(
      f'{", ".join(missing)} must be set: add '
      + ' '.join(f'--gin.{name}=…' for name in missing)
    )


def _find(file: str) -> str:
  """The path of a gin file: as given, else within the package."""
  for path in (pathlib.Path(file), gin_directory() / file):
    if path.is_file():
      return str(path)
  known = [
    str(path.relative_to(gin_directory())) for path in gin_directory().rglob('*.gin')
  ]
  raise UserError(
    f'no gin file {file}, neither here nor in {gin_directory()}{nearest(file, known)}'
  )


def _macros(config: str) -> set[str]:
  """Names of the macros that a configuration defines or uses."""
  defined = re.findall(r'^(\w+) = ', config, re.MULTILINE)
  return {*defined, *re.findall(r'%(\w+)', config)} - {'gin'}


def _translated(source: str, parse_function, text: str) -> None:
  """Runs one of gin's parsers and turns its errors into one line."""
  # gin logs every path that it tries in vain, as an error.
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
  ) as error:
    raise UserError(f'{source}: {_explain(str(error), source)}') from error
  finally:
    logging.disable(logging.NOTSET)


def _explain(message: str, source: str) -> str:
  first = message.strip().splitlines()[0].rstrip('.')
  if match := re.match(r"No configurable matching (?:reference )?'@?([\w./]+)", first):
    return f'there is no {match[1]}{nearest(match[1], _selectors())}'
  if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", first):
    parameters = inspect.signature(gin.get_configurable(match[1])).parameters
    return f'{match[1]} has no parameter {match[2]}{nearest(match[2], parameters)}'
  if first.startswith('Unable to parse value') and source.startswith(BINDING_PREFIX):
    name, _, value = source.removeprefix(BINDING_PREFIX).partition('=')
    quoted = f'--gin.{name}="{value!r}"'
    return f'the value is no Python literal; a string needs quotes: {quoted}'
  return first


def _selectors() -> list[str]:
  """Everything that is configured so far, as `module.name` and `module.name.parameter`."""
  names = re.findall(r'^([\w.]+) = ', gin.config_str(), re.MULTILINE)
  names += re.findall(r'@([\w.]+)', gin.config_str())
  return [*names, *(name.rpartition('.')[0] for name in names)]


def nearest(name: str, known: Iterable[str]) -> str:
  """` (did you mean …?)` with the known name that is most like `name`, or nothing."""
  matches = difflib.get_close_matches(name, sorted({*known} - {''}), n=1, cutoff=0.5)
  return f' (did you mean {matches[0]}?)' if matches else ''
