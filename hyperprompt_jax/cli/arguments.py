"""Flags that verbs share, and gin bindings on the command line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from typing_extensions import override

from hyperprompt_jax.configuration.gin_files import BINDING_PREFIX, nearest
from hyperprompt_jax.errors import UserError


class Parser(argparse.ArgumentParser):
  """Parses a verb's flags; flags cannot be abbreviated, and errors are one line.

  Args:
    verb: names the verb of the `hyperprompt` command.
    description: is shown in its help.
  """

  def __init__(self, verb: str, description: str | None):
    super().__init__(f'hyperprompt {verb}', description=description, allow_abbrev=False)

  @override
  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message}; see {self.prog} --help')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds T5X's `--gin_file`; `parse_arguments` handles `--gin.NAME=VALUE`."""
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='a gin file in this folder or in the installed package (models/base.gin); '
    'may be repeated; later files override earlier ones',
  )
  parser.epilog = (
    '--gin.NAME=VALUE overrides a macro (--gin.TRAIN_STEPS=100) or a parameter '
    '(--gin.config.Config.emb_dim=64) after all files; strings take quotes of their own '
    '(--gin.MODEL_DIR="\'/tmp/run\'")'
  )


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
  """Adds T5X's flag for SeqIO's cache folders; `parse_arguments` registers them."""
  parser.add_argument(
    '--seqio_additional_cache_dirs',
    default='',
    metavar='DIR[,DIR]',
    help='folders that seqio_cache_tasks wrote, for USE_CACHED_TASKS=True',
  )


def parse_arguments(
  parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Parses a verb's flags.

  Returns:
    The parser's own flags, and the gin bindings as `NAME=VALUE`.

  Raises:
    UserError: if a flag is neither.
  """
  flags, rest = parser.parse_known_args(arguments)
  for argument in rest:
    if not argument.startswith(BINDING_PREFIX) or '=' not in argument:
      known = [option for option in parser._option_string_actions if len(option) > 2]
      raise UserError(
        f'unknown argument {argument!r}{nearest(argument.split("=")[0], known)}; '
        'gin bindings are written --gin.NAME=VALUE'
      )
  if cache_dirs := getattr(flags, 'seqio_additional_cache_dirs', ''):
    import seqio  # takes seconds

    seqio.add_global_cache_dirs(cache_dirs.split(','))
  return flags, [argument.removeprefix(BINDING_PREFIX) for argument in rest]


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that name a run and override its configuration."""
  parser.add_argument(
    '--model_dir',
    required=True,
    help='the folder of a training run, whose config.gin describes the model',
  )
  add_arguments(parser)
  add_cache_argument(parser)
