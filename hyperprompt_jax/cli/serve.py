"""`hyperprompt serve`: answers questions over HTTP, many tasks in a batch.

It takes a run, one of its checkpoints, a bundle, a T5X checkpoint or a Hugging Face folder.
`/` is a page to try it, `/docs` describes the interface. If HYPERPROMPT_TOKEN is set, it is
the token that requests must bear. SIGTERM ends the server after its last answer; at SIGHUP
it looks for a newer checkpoint.
"""

import argparse
import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.errors import UserError, nearest

if TYPE_CHECKING:
  import socket

  from hyperprompt_jax.inference.predictor import Predictor
  from hyperprompt_jax.serving.app import Settings
  from hyperprompt_jax.serving.batcher import Limits

NEEDS = ('hyperprompt_jax.serving.server', 'hyperprompt_jax.inference.loading')
TOKEN = 'HYPERPROMPT_TOKEN'
_PACKAGES = ('starlette', 'uvicorn')
_LOCAL = ('127.0.0.1', 'localhost', '::1')
_MEBIBYTE = 2**20
# The least and the most of each number.
_RANGES = {
  'port': (0, 65535),
  'batch_size': (1, 4096),
  'queue': (1, 2**20),
  'wait_ms': (0, 10_000),
  'timeout': (1, 86_400),
  'body_timeout': (1, 3_600),
  'max_body': (0.001, 1024),
  'grace': (1, 3_600),
  'follow': (0, 86_400),
}
# The names of `serving.requests`, which cannot be imported here: it imports JAX.
_KINDS = ('predict', 'rank', 'score')


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks them."""
  parser = arguments.Parser('serve', __doc__)
  parser.add_argument(
    '--model_dir',
    required=True,
    help='the folder of a run, a bundle, a T5X checkpoint or a Hugging Face folder',
  )
  parser.add_argument(
    '--step', default='latest', help="a step, 'latest' (the default) or 'best'"
  )
  parser.add_argument('--vocabulary', help="'bytes' or a SentencePiece file")
  parser.add_argument(
    '--lengths', metavar='INPUTS,TARGETS', help='the most tokens of inputs and answers'
  )
  arguments.add_weights(parser)
  _add_http(parser)
  _add_batches(parser)
  parsed = parser.parse(words)
  _check(parsed.flags)
  return parsed


def _add_http(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('HTTP')
  group.add_argument(
    '--host', default='127.0.0.1', help='the address (default: %(default)s)'
  )
  group.add_argument(
    '--port', type=int, default=8000, help='the port (default: %(default)s); 0 takes any'
  )
  group.add_argument(
    '--timeout',
    type=float,
    default=60,
    metavar='SECONDS',
    help='the longest time from a request to its answer (default: %(default)s)',
  )
  group.add_argument(
    '--body_timeout',
    type=float,
    default=20,
    metavar='SECONDS',
    help='the longest time in which a request arrives (default: %(default)s)',
  )
  group.add_argument(
    '--max_body',
    type=float,
    default=1,
    metavar='MIB',
    help='the largest request in MiB (default: %(default)s)',
  )
  group.add_argument(
    '--grace',
    type=float,
    default=30,
    metavar='SECONDS',
    help='the longest time for the last answers after SIGTERM (default: %(default)s)',
  )
  group.add_argument(
    '--follow',
    type=float,
    default=0,
    metavar='SECONDS',
    help='look so often for a newer checkpoint of the run; 0 (the default) never does',
  )


def _add_batches(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('batches')
  group.add_argument(
    '--batch_size',
    type=int,
    default=16,
    metavar='N',
    help='the most questions of a batch (default: %(default)s)',
  )
  group.add_argument(
    '--wait_ms',
    type=float,
    default=5,
    metavar='MS',
    help='the time for which a question waits for others (default: %(default)s)',
  )
  group.add_argument(
    '--queue',
    type=int,
    default=256,
    metavar='N',
    help='the most questions that wait; more are refused with 429 (default: %(default)s)',
  )
  group.add_argument(
    '--compile',
    default='predict',
    metavar='KIND[,KIND]',
    help=f'compile at the start, for {", ".join(_KINDS)}, or none (default: %(default)s)',
  )


def _check(flags: argparse.Namespace) -> None:
  """Checks the values of flags.

  Raises:
    UserError: if one is out of its range, or the packages of the extra are missing.
  """
  for name, (least, most) in _RANGES.items():
    value = getattr(flags, name)
    if not least <= value <= most:
      raise UserError(f'--{name} must be from {least} to {most}, not {value}')
  for kind in _kinds(flags):
    if kind not in _KINDS:
      hint = nearest(kind, _KINDS)
      raise UserError(f'--compile={kind}{hint}: choose of {", ".join(_KINDS)}, or none')
  if flags.follow and flags.step not in ('latest', 'best'):
    raise UserError(f'--follow needs --step=latest or --step=best, not {flags.step}')
  run_folder.check_step(flags.model_dir, flags.step, ('latest', 'best'))
  _lengths(flags)
  token = os.environ.get(TOKEN)
  if token is not None and not (token and token.isascii() and token.isprintable()):
    raise UserError(f'{TOKEN} must be printable ASCII characters, or not be set')
  if flags.host not in _LOCAL and token is None:
    raise UserError(
      f'--host={flags.host} is open to others: set {TOKEN} to the token that requests must '
      'bear, or listen on 127.0.0.1'
    )
  if missing := [name for name in _PACKAGES if not importlib.util.find_spec(name)]:
    raise UserError(
      f"serving needs {' and '.join(missing)}: pip install 'hyperprompt-jax[serve]'"
    )


def _kinds(flags: argparse.Namespace) -> list[str]:
  return [] if flags.compile == 'none' else flags.compile.split(',')


def _lengths(flags: argparse.Namespace) -> dict[str, int] | None:
  if flags.lengths is None:
    return None
  numbers = flags.lengths.split(',')
  if len(numbers) != 2 or not all(x.isdecimal() and int(x[:9]) > 0 for x in numbers):
    raise UserError(f'--lengths must be like 512,64, not {flags.lengths!r}')
  return dict(zip(('inputs', 'targets'), map(int, numbers), strict=True))


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt serve`."""
  from hyperprompt_jax.serving import server

  # Before anything is loaded: the port may be taken.
  with server.listen(parsed.flags.host, parsed.flags.port) as listener:
    _serve(parsed.flags, listener)


def _serve(flags: argparse.Namespace, listener: 'socket.socket') -> None:
  """Loads the model, and serves it at a socket."""
  import jax

  from hyperprompt_jax.checkpoints import folders
  from hyperprompt_jax.inference import loading
  from hyperprompt_jax.partitioning import Partitioner
  from hyperprompt_jax.runtime import terminal
  from hyperprompt_jax.serving import app, server
  from hyperprompt_jax.serving.batcher import Limits

  decided = folders.decide(flags.model_dir)
  is_run = decided.kind == folders.RUN and decided.step is None
  if flags.follow and not is_run:
    raise UserError(f'--follow={flags.follow:g}: {flags.model_dir} holds one step alone')
  number = jax.device_count()
  options: dict[str, Any] = {
    'vocabulary': flags.vocabulary,
    'lengths': _lengths(flags),
    'partitioner': Partitioner() if number > 1 else None,
    'batch_size': max(flags.batch_size, number),
    'weights': flags.weights,
  }
  with terminal.phase(f'loading {flags.model_dir}'):
    predictor = loading.load(flags.model_dir, flags.step, **options)

  def newer(served: 'Predictor') -> 'Predictor | None':
    chosen = loading.chosen_step(folders.decide(flags.model_dir), flags.step)
    if chosen is None or chosen == served.step:
      return None
    return loading.load(flags.model_dir, chosen, **options)

  limits = Limits(options['batch_size'], flags.wait_ms / 1000, flags.queue)
  server.run(
    app.Service(predictor, _settings(flags, limits)),
    listener,
    server.Options(_kinds(flags), flags.follow, flags.grace),
    newer if is_run else None,
  )


def _settings(flags: argparse.Namespace, limits: 'Limits') -> 'Settings':
  """Returns the settings of the HTTP interface."""
  from hyperprompt_jax.serving.app import Settings

  return Settings(
    limits=limits,
    timeout=flags.timeout,
    body_timeout=flags.body_timeout,
    largest_body=int(flags.max_body * _MEBIBYTE),
    token=os.environ.get(TOKEN),
    local_only=flags.host in _LOCAL,
  )
