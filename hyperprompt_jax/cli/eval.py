"""`hyperprompt eval`: evaluates checkpoints of a run: one, all, or each task's best.

A T5X checkpoint or a Hugging Face folder is evaluated on the tasks of --mixture.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.checkpoints import folders
from hyperprompt_jax.cli import arguments, compare
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings

NEEDS = ('tensorflow', 'hyperprompt_jax.evaluation.evaluate')
RUN_FILE = 'runs/eval.gin'
_STEPS = ('latest', 'best', 'all', 'best_per_task')


def _print(report: Mapping[str, Any], split: str) -> None:
  checkpoints = report['checkpoints']
  tasks = sorted({task for c in checkpoints for task in c['scores']})
  name = 'Validation' if split == 'validation' else f'Split {split}:'
  title = f'{name} scores (x 100)'
  half = terminal.MOST_ROWS // 2
  if is_cut := len(tasks) > terminal.MOST_ROWS:
    last = checkpoints[-1]['scores']
    tasks.sort(key=lambda task: -last.get(task, -math.inf))
    title += f'; the best and the worst {half} of {len(tasks):,} tasks: see --csv=FILE'
    tasks = [*tasks[:half], *tasks[-half:]]
  best = report.get('best_per_task')
  show = lambda value: '-' if value is None else f'{value:.2f}'
  rows = [
    [
      task,
      *(show(c['scores'].get(task)) for c in checkpoints),
      *([f'{show(best[task]["score"])} @ {best[task]["step"]}'] if best else []),
    ]
    for task in tasks
  ]
  rows.append(
    [
      'average',
      *(show(c['average']) for c in checkpoints),
      *([show(report['best_per_task_average'])] if best else []),
    ]
  )
  columns = ['task', *(f'step {c["step"]}' for c in checkpoints)]
  columns += ['best of task'] if best else []
  terminal.print_table(title, columns, rows, ruled=1)
  if is_cut:
    return
  for checkpoint in checkpoints:
    for task, metrics in checkpoint['metrics'].items():
      values = '  '.join(f'{name} {show(value)}' for name, value in metrics.items())
      print(f'step {checkpoint["step"]}  {task}  {values}')


def _write_csv(report: Mapping[str, Any], path: str) -> None:
  """Writes a line for each step, task and metric; a task's score is `score`."""
  try:
    with open(path, 'w', encoding='utf-8', newline='') as file:
      lines = csv.writer(file)
      lines.writerow(['step', 'task', 'metric', 'value'])
      for checkpoint in report['checkpoints']:
        step = checkpoint['step']
        for task, score in checkpoint['scores'].items():
          lines.writerow([step, task, 'score', score])
        for task, metrics in checkpoint['metrics'].items():
          lines.writerows([step, task, name, value] for name, value in metrics.items())
        lines.writerows([step, task, 'loss', x] for task, x in checkpoint['losses'].items())
  except OSError as error:
    raise UserError(f'--csv={path} cannot be written: {error.strerror}') from error


def _print_mistakes(task: str, mistakes: Mapping[str, Any], *, confusion: bool) -> None:
  """Prints the tables of one SeqIO task."""
  labels = mistakes['labels']
  if confusion and labels:
    rows = [
      [label, *map(str, counts)]
      for label, counts in zip(labels, mistakes['confusion'], strict=True)
    ]
    terminal.print_table(
      f'{task}: answers by target, of {mistakes["examples"]} examples',
      ['target', *labels, '(other)'],
      rows,
    )
  for wrong in mistakes['wrongest']:
    print(
      f'{task}  {wrong["prediction"]!r} ({wrong["log_likelihood"]:.2f}) in place of '
      f'{wrong["target"]!r} ({wrong["target_log_likelihood"]:.2f}): {wrong["inputs"]!r}'
    )


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  if any(word.split('=')[0] == '--compare' for word in words):
    return compare.parse(words)
  parser = arguments.Parser('eval', __doc__)
  arguments.add_run(parser, (DataSettings, EvaluationSettings, ObjectSettings))
  arguments.add_weights(parser, 'float32')
  arguments.add_hosts(parser)
  parser.add_argument(
    '--step',
    default='latest',
    help="a step, 'latest' (the default), 'best' (the highest average), 'all', or "
    "'best_per_task'",
  )
  parser.add_argument(
    '--split', default='validation', help='the split of the tasks (default: %(default)s)'
  )
  parser.add_argument(
    '--confusion',
    action='store_true',
    help='show how often each label is answered with each other',
  )
  parser.add_argument(
    '--wrongest',
    type=int,
    metavar='N',
    help='show the N wrong answers of each task of which the model is surest',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parser.add_argument(
    '--csv', metavar='FILE', help='also write all numbers, one in a line, to a file'
  )
  parser.add_argument(
    '--compare',
    nargs='+',
    metavar='MODEL_DIR',
    help='instead of --model_dir: folders of runs whose methods are compared over seeds; '
    "--step is 'best' (the default), 'best_per_task' or 'latest'; --csv=FILE",
  )
  parsed = parser.parse(words)
  flags = parsed.flags
  if (flags.wrongest or 0) < 0:
    raise UserError(f'--wrongest must be 0 or more, not {flags.wrongest}')
  if flags.step in ('all', 'best_per_task') and (flags.confusion or flags.wrongest):
    raise UserError(
      f'--step={flags.step}: --confusion and --wrongest are of one checkpoint'
    )
  if folders.is_bare(flags.model_dir):
    names = {binding.partition('=')[0] for binding in parsed.bindings}
    if 'MIXTURE_OR_TASK_NAME' not in names and not flags.gin_file:
      raise UserError(f'{flags.model_dir} is no run: name the tasks, --mixture=…')
    return parsed
  run_folder.check_step(flags.model_dir, flags.step, _STEPS)
  run_folder.check(
    flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings, trust_gin=flags.trust_gin
  )
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt eval`."""
  if parsed.flags.compare:
    compare.run(parsed)
    return
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import mistakes, runs
  from hyperprompt_jax.evaluation.evaluate import evaluate
  from hyperprompt_jax.runtime import distributed

  flags = parsed.flags
  arguments.use_cache(flags)
  distributed.start(flags)
  runs.configure(
    flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings, trust_gin=flags.trust_gin
  )
  distributed.check_agreement(f'--step={flags.step}')
  given = {'split': flags.split, 'weights': flags.weights}
  report = gin_files.call(evaluate, choice=flags.step, **given)
  if flags.csv:
    _write_csv(report, flags.csv)
  if flags.confusion or flags.wrongest:
    step = report['checkpoints'][0]['step']
    of_tasks = gin_files.call(mistakes.find, step=step, most=flags.wrongest or 0, **given)
    report['mistakes'] = {task: one.report() for task, one in of_tasks.items()}
  if flags.json:
    print(json.dumps(report))
    return
  _print(report, flags.split)
  for task, one in report.get('mistakes', {}).items():
    _print_mistakes(task, one, confusion=flags.confusion)
