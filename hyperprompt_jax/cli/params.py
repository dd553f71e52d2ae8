"""`hyperprompt params`: counts the parameters of a model and of its method.

The counts come from abstract shapes: no weights are made, whatever the size.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import checks, paths
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal

NEEDS = ('hyperprompt_jax.inspection.parameter_count',)
RUN_FILE = 'runs/params.gin'


def _count_files(files: Sequence[str], bindings: Sequence[str], num_tasks: int) -> Any:
  """Counts the parameters of a model and a method that gin files compose."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.inspection.parameter_count import count

  arguments.parse_gin([*files, RUN_FILE], bindings)
  return gin_files.call(count, num_tasks=num_tasks)


def _row(size: str, method: str, counts: Any, family: str = 'default') -> dict[str, Any]:
  return {
    'size': size,
    'method': method,
    'family': family,
    'backbone': counts.backbone,
    'task': counts.task,
    'per_task': counts.per_task,
    'ratio': counts.ratio,
    'growth': {
      str(tasks): {'task': task, 'ratio': task / counts.backbone}
      for tasks, task in counts.growth.items()
    },
  }


def _size_name(files: Sequence[str], bindings: Sequence[str]) -> str:
  """The name of the size: that of its gin file, or else of the folder that gives it."""
  initial = [b.partition('=')[2] for b in bindings if b.startswith(arguments.INITIAL)]
  if initial and not any(pathlib.Path(file).parent.name == 'models' for file in files):
    return pathlib.Path(initial[-1].strip('\'"')).name
  return _name(files, 'models', 0)


def _name(files: Sequence[str], folder: str, otherwise: int) -> str:
  """The stem of the gin file from a folder, or of the first or last of all files."""
  named = [pathlib.Path(file) for file in files]
  within = [path for path in named if path.parent.name == folder]
  return (within[-1] if within else named[otherwise]).stem


def _rows(
  files: Sequence[str], bindings: Sequence[str], num_tasks: int, *, everything: bool
) -> list[dict[str, Any]]:
  """A row for the composed run, or one for each size and method there is."""
  if not everything:
    counts = _count_files(files, bindings, num_tasks)
    return [_row(_size_name(files, bindings), _name(files, 'methods', -1), counts)]
  from hyperprompt_jax.inspection.parameter_count import SIZES

  methods = sorted(path.stem for path in (paths.gin_directory() / 'methods').glob('*.gin'))
  rows = []
  for size in SIZES:
    for method in methods:
      composed = [f'models/{size}.gin', f'methods/{method}.gin', *files]
      counts = _count_files(composed, bindings, num_tasks)
      rows.append(_row(size, method, counts))
  return rows + _matched(rows, files, bindings, num_tasks)


def _matched(
  rows: Sequence[Mapping[str, Any]],
  files: Sequence[str],
  bindings: Sequence[str],
  num_tasks: int,
) -> list[dict[str, Any]]:
  """Rows of the methods that can meet their size's budget, at the widths that meet it."""
  matched = []
  for row in rows:
    size, method = row['size'], row['method']
    composed = [f'models/{size}.gin', f'methods/{method}.gin', *files]
    budget = ['EXTRA_PARAMETERS=%MATCHED_PARAMETERS']
    try:
      counts = _count_files(composed, [*bindings, *budget], num_tasks)
    except UserError as error:  # the budgets are for eight tasks
      terminal.stderr_console().print(f'{size}, {method}: {error}', markup=False)
      continue
    if counts.task != row['task']:
      matched.append(_row(size, method, counts, 'matched'))
  return matched


def _print(rows: Sequence[Mapping[str, Any]], num_tasks: int) -> None:
  from hyperprompt_jax.inspection.parameter_count import TASKS

  terminal.print_table(
    f'Parameters with {num_tasks} conditioned task(s)',
    ('size', 'method', 'family', 'backbone', 'task', 'per task', 'task / backbone'),
    [
      (
        row['size'],
        row['method'],
        row['family'],
        *(f'{row[name]:,}' for name in ('backbone', 'task', 'per_task')),
        _percent(row['ratio']),
      )
      for row in rows
    ],
  )
  terminal.print_table(
    'task / backbone by the number of tasks',
    ('size', 'method', 'family', *map(str, TASKS)),
    [
      (
        row['size'],
        row['method'],
        row['family'],
        *(_percent(entry['ratio']) for entry in row['growth'].values()),
      )
      for row in rows
    ],
  )


def _percent(ratio: float) -> str:
  return f'{100 * ratio:.3f} %'


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('params', __doc__)
  parser.add_argument(
    '--all',
    action='store_true',
    help='a row for each published size and each method, at the widths of its gin file and '
    'at those that match the budget of the size; otherwise name a --gin_file of models/ '
    'and one of methods/',
  )
  parser.add_argument(
    '--num_tasks',
    type=int,
    default=8,
    help='conditioned tasks (default: %(default)s, as SuperGLUE has)',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parser.add_argument(
    '--plot', metavar='FILE', help='draw task / backbone for 1 to 64 tasks (PNG, SVG, PDF)'
  )
  arguments.add_initial(parser)
  arguments.add_settings(parser, (ObjectSettings,))
  parsed = parser.parse(words)
  if not parsed.flags.all:
    checks.check([*parsed.flags.gin_file, RUN_FILE], parsed.bindings)
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt params`."""
  from hyperprompt_jax.inspection.parameter_count import draw

  flags = parsed.flags
  rows = _rows(flags.gin_file, parsed.bindings, flags.num_tasks, everything=flags.all)
  if flags.plot:
    draw(rows, flags.plot)
  if flags.json:
    report = {'rows': rows} if flags.all else rows[0]
    print(json.dumps({'num_tasks': flags.num_tasks, **report}))
  else:
    _print(rows, flags.num_tasks)
