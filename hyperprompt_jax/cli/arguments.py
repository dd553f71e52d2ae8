"""Flags that verbs share: gin files and bindings, plain flags of settings, and hosts.

It imports neither JAX nor TensorFlow, so that mistakes in flags are told at once.
"""

import argparse
import ast
import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from hyperprompt_jax.cli import advice
from hyperprompt_jax.configuration import checks, macros, paths, static
from hyperprompt_jax.configuration.setting import Setting, Settings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import workarounds

# The start of a command takes up to 20 more, and a lost host is to be told within a minute.
_MEET_SECONDS = 40
# The prefix of the attributes that hold the plain flags of settings.
_MACRO = 'macro_'
# Settings whose values are objects, which gin references name.
_REFERENCES = ('METHOD', 'OPTIMIZER')
INITIAL = 'INITIAL_CHECKPOINT_PATH'


@dataclasses.dataclass(frozen=True)
class Parsed:
  """The arguments of a verb.

  Attributes:
    flags: holds the verb's own flags.
    bindings: holds the gin bindings, `NAME=VALUE`, of `--gin.` and plain flags.
    needs: are the modules that the verb uses with these flags; None for its `NEEDS`.
  """

  flags: argparse.Namespace
  bindings: Sequence[str]
  needs: Sequence[str] | None = None


class Parser(argparse.ArgumentParser):
  """Parses a verb's flags; flags cannot be abbreviated, and errors are one line.

  Args:
    verb: is the verb of the `hyperprompt` command.
    description: is the text above the flags in the help.
  """

  def __init__(self, verb: str, description: str | None):
    super().__init__(f'hyperprompt {verb}', description=description, allow_abbrev=False)
    self._words: Sequence[str] = ()

  @override
  def error(self, message: str) -> NoReturn:
    hint = advice.for_missing(message, self._words)
    raise UserError(f'{message}{hint or f"; see {self.prog} --help"}')

  def parse(self, words: Sequence[str]) -> Parsed:
    """Parses the words after the verb.

    Raises:
      UserError: for a flag that does not exist, or a value that a setting cannot have.
    """
    # argparse takes a binding with a space in its value for a positional argument.
    self._words = words
    is_binding = lambda word: word.startswith(static.BINDING_PREFIX) and '=' in word
    flags, rest = self.parse_known_args([word for word in words if not is_binding(word)])
    for word in rest:
      hint = advice.for_argument(word, self._option_string_actions)
      raise UserError(f'unknown argument {word!r}{hint}')
    bindings = [
      word.removeprefix(static.BINDING_PREFIX) for word in words if is_binding(word)
    ]
    set_by_gin = {binding.partition('=')[0] for binding in bindings}
    for macro, setting in macros.described().items():
      text = getattr(flags, _MACRO + macro, None)
      if text is None:
        continue
      if macro in set_by_gin:
        raise UserError(f'{setting.flag} and --gin.{macro} both set {macro}: give one')
      bindings.append(f'{macro}={_value(setting, text)!r}')
    return Parsed(flags, bindings)


def _value(setting: Setting, text: str) -> Any:
  """Returns the value that a plain flag gives a setting; checks it."""
  if text.startswith(('@', '%')) and not setting.takes_text:
    return static.Reference(text)
  is_number = not setting.takes_text and setting.macro != 'TASK_FEATURE_LENGTHS'
  if is_number and (plain := _plain_number(setting, text)):
    reason = 'has commas' if ',' in text else 'is no whole number'
    raise UserError(f'{setting.flag}={text} {reason}: write {setting.flag}={plain}')
  if setting.macro in _REFERENCES and re.fullmatch(r'\w+', text):
    raise UserError(
      f'{setting.flag}={text} is no reference: write {_reference(setting.macro, text)}'
    )
  value: Any = text
  if not setting.takes_text or (text == 'None' and setting.default is None):
    value = _literal(text)
  if setting.macro == 'TASK_FEATURE_LENGTHS' and not isinstance(value, dict):
    if not isinstance(value, tuple) or len(value) != 2:
      raise UserError(f'{setting.flag} must be like 512,64, not {text!r}')
    value = dict(zip(('inputs', 'targets'), value, strict=True))
  setting.check(value, setting.flag)
  return value


def _plain_number(setting: Setting, text: str) -> str | None:
  """Returns a number as Python writes it; None if there is nothing to correct."""
  if re.fullmatch(r'[1-9]\d{0,2}(,\d{3})+', text):
    return text.replace(',', '')
  if not setting.is_whole:
    return text.replace(',', '.') if re.fullmatch(r'\d+,\d+', text) else None
  value = _literal(text)
  is_round = isinstance(value, float) and value.is_integer()
  return str(int(value)) if is_round else None


def _reference(macro: str, name: str) -> str:
  """Returns the flag that chooses a method's file, or an optimizer, by its name."""
  if macro == 'METHOD':
    names = [file for file in paths.own_files() if file.startswith('methods/')]
    (file,) = difflib.get_close_matches(f'methods/{name}.gin', names, 1, 0) or names[:1]
    return f'--gin_file={file}'
  name = name.lower()
  if name == 'adafactor':
    return '--optimizer=@optimizers.adafactor()'
  return f'--optimizer=@optax.{name}() --gin.optax.{name}.learning_rate=1e-4'


def _literal(text: str) -> Any:
  """Returns the value of a Python literal, or the text if it is none."""
  try:
    return ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
  except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
    return text


def add_settings(
  parser: argparse.ArgumentParser, groups: Sequence[type[Settings]] = macros.GROUPS
) -> None:
  """Adds gin's flags, and a plain flag for each setting of some groups.

  Args:
    parser: is the parser of a verb.
    groups: are the groups whose settings get flags, unless the verb has such a flag.
  """
  gin = parser.add_argument_group(
    'gin',
    '--gin.NAME=VALUE overrides any macro or parameter after all files and takes Python '
    'literals: --gin.TRAIN_STEPS=100, --gin.config.Config.emb_dim=64, '
    '--gin.MODEL_DIR="\'/tmp/run\'"',
  )
  gin.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='a gin file, of this folder or of the installed package (models/base.gin); it may '
    'be repeated, and later files override earlier ones',
  )
  for group in groups:
    first_line = (group.__doc__ or '').splitlines()[0]
    flags = parser.add_argument_group(group.__name__, first_line.replace('%', '%%'))
    for setting in group.described().values():
      options = [f'--{name}' for name in (setting.alias, setting.macro.lower()) if name]
      if not {*options} & {*parser._option_string_actions}:
        flags.add_argument(
          *options,
          dest=_MACRO + setting.macro,
          metavar=_metavar(setting),
          help=setting.help.replace('%', '%%'),
        )


def add_initial(parser: argparse.ArgumentParser) -> None:
  """Adds the flag of a checkpoint that gives the network's size in place of a gin file."""
  setting = macros.described()[INITIAL]
  parser.add_argument(
    setting.flag,
    f'--{INITIAL.lower()}',
    dest=_MACRO + INITIAL,
    metavar='FOLDER',
    help='a Hugging Face folder, a T5X checkpoint or a MODEL_DIR, whose size is taken in '
    'place of a --gin_file of models/',
  )


def parse_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files and bindings, and takes from the initial checkpoint what they lack.

  Args:
    files: are gin files, those of the verb included.
    bindings: are `NAME=VALUE`.
  """
  from hyperprompt_jax.configuration import gin_files  # it takes a second

  if checks.check(files, bindings).size_from is not None:
    with workarounds.without_tensorflow_notes(), workarounds.without_keras():
      from hyperprompt_jax.checkpoints import folder_settings  # it takes more

    bindings = folder_settings.completed(files, bindings)
  gin_files.parse(files, bindings)


def _metavar(setting: Setting) -> str:
  return {
    'TASK_FEATURE_LENGTHS': 'INPUTS,TARGETS',
    'METHOD': '@METHOD()',
    'OPTIMIZER': '@OPTIMIZER()',
  }.get(setting.macro, setting.type.replace(' or ', '|').upper())


def add_run(
  parser: argparse.ArgumentParser, groups: Sequence[type[Settings]], what: str = ''
) -> None:
  """Adds the flag that names a run, and those that override its configuration.

  Args:
    parser: is the parser of a verb.
    groups: are the groups whose settings get flags.
    what: is added to the help of the flag that names the run.
  """
  parser.add_argument(
    '--model_dir',
    required=True,
    help=f'the folder of a training run; its record describes the model{what}',
  )
  add_trust(parser)
  add_settings(parser, groups)
  add_cache(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
  """Adds the flag that lets a run's own gin be run."""
  parser.add_argument(
    '--trust_gin',
    action='store_true',
    help="run the folder's config.gin, which is code and may import anything, in place of "
    'reading its record (run.json): for runs of methods or metrics of your own',
  )


def add_weights(parser: argparse.ArgumentParser, default: str | None = None) -> None:
  """Adds the flag for the dtype of kernels in inference."""
  parser.add_argument(
    '--weights',
    choices=('float32', 'int8'),
    default=default,
    help='the dtype of the kernels; int8 takes a quarter of the memory of float32 (the '
    'default), and answers differ a little',
  )


def add_cache(parser: argparse.ArgumentParser) -> None:
  """Adds T5X's flag for folders of SeqIO's caches; `use_cache` makes them known."""
  parser.add_argument(
    '--seqio_additional_cache_dirs',
    default='',
    metavar='DIR[,DIR]',
    help='folders that seqio_cache_tasks wrote, for USE_CACHED_TASKS=True',
  )


def use_cache(flags: argparse.Namespace) -> None:
  """Makes the folders of SeqIO's caches known to SeqIO."""
  if flags.seqio_additional_cache_dirs:
    import seqio  # takes seconds

    seqio.add_global_cache_dirs(flags.seqio_additional_cache_dirs.split(','))


def add_hosts(parser: argparse.ArgumentParser) -> None:
  """Adds the flags by which several hosts meet; see `runtime.distributed`."""
  group = parser.add_argument_group(
    'several hosts',
    'on TPU VMs and under srun of Slurm hosts find each other: none of these is needed',
  )
  group.add_argument(
    '--coordinator_address',
    metavar='HOST:PORT',
    help='the address of the first host and a free port there',
  )
  group.add_argument('--process_count', type=int, metavar='N', help='the number of hosts')
  group.add_argument(
    '--process_index', type=int, metavar='I', help='the number of this host, from 0'
  )
  group.add_argument(
    '--meet_seconds',
    type=int,
    default=_MEET_SECONDS,
    metavar='N',
    help='the time to wait until all hosts are there (default: %(default)s)',
  )
  group.add_argument(
    '--device_count',
    type=int,
    metavar='N',
    help='end at once unless all hosts together have this number of devices',
  )
