"""The mistakes of a run that are visible in its gin files and flags alone.

They are found without JAX or TensorFlow, within a second.
"""

import re
import sys
from collections.abc import Sequence

from hyperprompt_jax.configuration import (
  initial_size,
  macros,
  paths,
  static,
  symbols,
  tasks,
)
from hyperprompt_jax.errors import UserError, nearest


def check(files: Sequence[str], bindings: Sequence[str]) -> static.Configuration:
  """Reads gin files and bindings, and finds the mistakes that are visible in them.

  Args:
    files: are paths, absolute, relative, or within `gin_directory()`.
    bindings: are `NAME=VALUE`, from the command line.

  Raises:
    UserError: for a file that is missing or does not parse, two files that choose a method
      or a size, an unknown macro (with the nearest known one), a value that does not parse
      or is out of its range, or a macro that must be set and is not.
  """
  configuration = static.Configuration()
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
      flag = setting.flag if setting else f'{static.BINDING_PREFIX}{name}'
      raise UserError(f'{flag}: no gin file of this run uses {name}{hint}')
    if value == '':
      raise UserError(f'{static.BINDING_PREFIX}{name}= has no value')
    configuration.add_binding(binding)
  _check_names(configuration)
  if not has_size:
    _take_size_of_initial(configuration)
  _check_set(configuration)
  _check_values(configuration)
  _check_mixture(configuration)
  return configuration


def _check_names(configuration: static.Configuration) -> None:
  """Refuses bindings of the command line to names that our modules do not have."""
  for name, sources in configuration.setters.items():
    if not sources[-1].startswith(static.BINDING_PREFIX):
      continue
    try:
      if name.count('.') == 2:
        statement = configuration.imports.get(name.split('/')[-1].split('.')[0], '')
        symbols.check_parameter(name.split('/')[-1], statement)
      for reference in static.references(configuration.values[name]):
        selector = reference.text.split('/')[-1].strip('@()')
        if reference.text.startswith('@') and selector.count('.') == 1:
          statement = configuration.imports.get(selector.split('.')[0], '')
          symbols.check_configurable(selector, statement)
    except UserError as error:
      raise UserError(f'{sources[-1]}: {error}') from error


def _check_mixture(configuration: static.Configuration) -> None:
  """Refuses a name that is nearly one of our tasks or mixtures, and not registered.

  A task that a module of the user's registers is known only once that is imported.
  """
  name = configuration.values.get('MIXTURE_OR_TASK_NAME')
  if not isinstance(name, str) or may_be_registered(configuration, name):
    return
  if hint := nearest(name, tasks.NAMES, cutoff=0.85):
    raise UserError(f'--mixture={name}: there is no such task or mixture{hint}')


def may_be_registered(configuration: static.Configuration, name: str) -> bool:
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


def _take_size_of_initial(configuration: static.Configuration) -> None:
  """Marks the macros that the initial checkpoint gives, if there is one."""
  macro = 'INITIAL_CHECKPOINT_PATH'
  path = configuration.resolved(macro) if macro in configuration.values else None
  if not isinstance(path, str) or not path:
    return
  missing = initial_size.missing(configuration.values, configuration.used_macros())
  if missing:
    configuration.size_from = path
    configuration.values |= dict.fromkeys(missing, static.Promise(f'(of {path})'))


def _check_values(configuration: static.Configuration) -> None:
  """Checks the types and ranges of macros."""
  described = macros.described()
  names = [name for name in configuration.values if name in described]
  # A value that was given is the one to name, not a macro that takes it.
  names.sort(key=lambda name: any(static.references(configuration.values[name])))
  for name in names:
    value = configuration.resolved(name)
    if not any(static.references(value)):
      described[name].check(value)


def _check_one_of_each(configuration: static.Configuration) -> None:
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


def _check_set(configuration: static.Configuration) -> None:
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
    if repr(value) == static.REQUIRED and ('.' in name or name in used)
  ]
  if missing:
    raise UserError(
      f'{", ".join(missing)} must be set: add {" ".join(map(_form, missing))}'
    )


def _check_described(configuration: static.Configuration) -> None:
  """Refuses a run without a method, or without a network."""
  used, values = configuration.used_macros(), configuration.values
  missing = {}
  references = {r.text for value in values.values() for r in static.references(value)}
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
  return f'{setting.flag}=…' if setting else f'{static.BINDING_PREFIX}{macro}=…'
