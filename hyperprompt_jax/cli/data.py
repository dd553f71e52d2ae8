"""`hyperprompt data`: the cache of examples, and the batch of a step in words.

`data list`, `verify`, `prune` and `build` show, check, shrink and fill the cache. `build`
and `--show-step` take the flags of `hyperprompt train`.
"""

import argparse
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import checks, run_folder
from hyperprompt_jax.data.cache import DEFAULT_BYTES, Cache, Entry, default_directory
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal

# The modules that the verb uses: `list` and the like read files alone.
NEEDS = ()
_NEEDS_OF_TASKS = ('tensorflow',)
RUN_FILE = 'runs/eval.gin'


def _described(entry: Entry) -> dict[str, Any]:
  info = entry.info
  used = datetime.datetime.fromtimestamp(entry.last_used(), datetime.UTC)
  return {
    'task': info.task,
    'split': info.split,
    'examples': info.layout.examples,
    'bytes': info.layout.size,
    'last_used': used.isoformat(timespec='seconds'),
    'path': entry.path,
  }


def _list(cache: Cache, flags: argparse.Namespace) -> Mapping[str, Any]:
  del flags
  entries = [_described(entry) for entry in cache.entries()]
  return {'directory': cache.directory, 'entries': entries}


def _verify(cache: Cache, flags: argparse.Namespace) -> Mapping[str, Any]:
  """Reads every entry, and removes those whose bytes have changed."""
  del flags
  damaged = [entry for entry in cache.entries() if not entry.is_intact()]
  described = [_described(entry) for entry in damaged]
  for entry in damaged:
    entry.remove()
  return {'directory': cache.directory, 'removed': described, **_left(cache)}


def _prune(cache: Cache, flags: argparse.Namespace) -> Mapping[str, Any]:
  """Removes the entries that were used longest ago until the rest fits."""
  entries = {entry.path: _described(entry) for entry in cache.entries()}
  removed = cache.prune(int(flags.gigabytes * 10**9))
  return {
    'directory': cache.directory,
    'removed': [entries[entry.path] for entry in removed],
    **_left(cache),
  }


def _left(cache: Cache) -> dict[str, int]:
  sizes = [entry.info.layout.size for entry in cache.entries()]
  return {'entries_left': len(sizes), 'bytes_left': sum(sizes)}


def _print(report: Mapping[str, Any]) -> None:
  if 'entries' in report:
    entries, title = report['entries'], f'Cached examples in {report["directory"]}'
  else:
    entries = report['removed']
    title = (
      f'Removed from {report["directory"]}; {report["entries_left"]} entries of '
      f'{report["bytes_left"]:,} bytes are left'
    )
  columns = ['task', 'split', 'examples', 'bytes', 'last used']
  rows = [
    [
      of_task['task'],
      of_task['split'],
      f'{of_task["examples"]:,}',
      f'{of_task["bytes"]:,}',
      of_task['last_used'],
    ]
    for of_task in entries
  ]
  terminal.print_table(title, columns, rows)


def _configured(flags: argparse.Namespace, bindings: Sequence[str]) -> Any:
  """The settings of the data that gin files, or a run's configuration, give."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import runs
  from hyperprompt_jax.training.settings import DataSettings

  if flags.gin_file:
    arguments.parse_gin(flags.gin_file, bindings)
  else:
    runs.configure(flags.model_dir, RUN_FILE, [], bindings, trust_gin=flags.trust_gin)
  return gin_files.call(DataSettings)


def _build(flags: argparse.Namespace, bindings: Sequence[str]) -> Mapping[str, Any]:
  """Materialises the train and validation splits of a mixture."""
  import seqio

  import hyperprompt_tasks
  from hyperprompt_jax.data import access, splits

  data = _configured(flags, bindings)
  hyperprompt_tasks.use_vocabulary(data.vocabulary)
  source = access.Access.from_settings(data)
  if source.cache is None:
    raise UserError('DATA_CACHE=none: there is no cache to build')
  name = data.mixture_or_task_name
  train = list(access.members(name, 'train'))
  opened = list(source.open(train, 'train', all_features=False).values()) if train else []
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  validated = [task for task in tasks if 'validation' in task.splits]
  opened += splits.open_splits(validated, 'validation', source).values()
  return {
    'directory': source.cache.directory,
    'entries': [_described(examples.entry) for examples in opened],
  }


def _show(flags: argparse.Namespace, bindings: Sequence[str]) -> Mapping[str, Any]:
  from hyperprompt_jax.data import show

  data = _configured(flags, bindings)
  positions = show.saved_positions(flags.model_dir) if flags.model_dir else {}
  examples = show.batch_of_step(data, flags.show_step, positions)
  return {'step': flags.show_step, 'examples': examples}


def _print_batch(report: Mapping[str, Any]) -> None:
  for of_row in report['examples']:
    print('row {row}  {task}  epoch {epoch}  example {example}'.format(**of_row))
    print(f'  inputs:  {of_row["inputs"]!r}')
    print(f'  targets: {of_row["targets"]!r}')


_ACTIONS: dict[str, Callable[[Cache, argparse.Namespace], Mapping[str, Any]]] = {
  'list': _list,
  'verify': _verify,
  'prune': _prune,
}


def _bindings(parsed: arguments.Parsed) -> list[str]:
  """The gin bindings, with those of flags that the verb has itself."""
  flags, bindings = parsed.flags, [*parsed.bindings]
  if flags.data_cache:
    bindings.append(f'DATA_CACHE={flags.data_cache!r}')
  if flags.model_dir and flags.gin_file:
    bindings.append(f'MODEL_DIR={flags.model_dir!r}')
  return bindings


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('data', __doc__)
  actions = (*_ACTIONS, 'build')
  parser.add_argument(
    'action', nargs='?', metavar='|'.join(actions), choices=actions, help='what to do'
  )
  parser.add_argument(
    '--show-step', '--show_step', type=int, metavar='N', help='print the batch of a step'
  )
  parser.add_argument('--model_dir', help='a run; without gin files its record is taken')
  arguments.add_trust(parser)
  parser.add_argument(
    '--data_cache', metavar='DIR', help='the folder, if it is not the default one'
  )
  parser.add_argument(
    '--gigabytes',
    type=float,
    default=DEFAULT_BYTES / 10**9,
    metavar='N',
    help='the size that prune leaves (default: %(default)g; 0 removes all)',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  arguments.add_settings(parser)
  arguments.add_cache(parser)
  parsed = parser.parse(words)
  flags = parsed.flags
  if (flags.action is None) == (flags.show_step is None):
    raise UserError(f'give one of {", ".join(actions)}, or --show-step=N')
  if not flags.gigabytes >= 0:
    raise UserError(f'--gigabytes must be 0 or more, not {flags.gigabytes}')
  if flags.action in _ACTIONS:
    return parsed
  if flags.gin_file:
    checks.check(flags.gin_file, _bindings(parsed))
  elif flags.model_dir:
    run_folder.check(
      flags.model_dir, RUN_FILE, [], _bindings(parsed), trust_gin=flags.trust_gin
    )
  else:
    raise UserError('give the flags of `hyperprompt train`, or --model_dir')
  return arguments.Parsed(flags, parsed.bindings, _NEEDS_OF_TASKS)


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt data`."""
  flags = parsed.flags
  arguments.use_cache(flags)
  if flags.show_step is not None:
    report, show = _show(flags, _bindings(parsed)), _print_batch
  elif flags.action == 'build':
    report, show = _build(flags, _bindings(parsed)), _print
  else:
    cache = Cache(flags.data_cache or default_directory())
    report, show = _ACTIONS[flags.action](cache, flags), _print
  if flags.json:
    print(json.dumps(report, ensure_ascii=False))
  else:
    show(report)
