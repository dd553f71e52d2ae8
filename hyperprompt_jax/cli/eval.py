"""`hyperprompt eval`: evaluates checkpoints of a run: one, all, or each task's best."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments, compare
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.evaluation.evaluate import BEST_PER_TASK, evaluate
from hyperprompt_jax.runtime import distributed, terminal


def _print(report: Mapping[str, Any]) -> None:
  checkpoints = report['checkpoints']
  tasks = sorted({task for c in checkpoints for task in c['scores']})
  best = report.get(BEST_PER_TASK)
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
  terminal.print_table('Validation scores (x 100)', columns, rows, ruled=1)
  for checkpoint in checkpoints:
    for task, metrics in checkpoint['metrics'].items():
      values = '  '.join(f'{name} {show(value)}' for name, value in metrics.items())
      print(f'step {checkpoint["step"]}  {task}  {values}')


def main(words: Sequence[str]) -> None:
  """`hyperprompt eval`."""
  if any(word.split('=')[0] == '--compare' for word in words):
    compare.main(words)
    return
  parser = arguments.Parser('eval', __doc__)
  arguments.add_run_arguments(parser)
  distributed.add_arguments(parser)
  parser.add_argument(
    '--step',
    default='latest',
    help="a step, 'latest' (the default), 'best' (the highest average), 'all', or "
    "'best_per_task'",
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parser.add_argument(
    '--compare',
    nargs='+',
    metavar='MODEL_DIR',
    help='instead of --model_dir: folders of runs whose methods are compared over seeds; '
    "--step is 'best' (the default), 'best_per_task' or 'latest'; --csv=FILE",
  )
  flags, bindings = arguments.parse_arguments(parser, words)
  distributed.start(flags)
  runs.configure(flags.model_dir, 'runs/eval.gin', flags.gin_file, bindings)
  distributed.check_agreement(f'--step={flags.step}')
  report = gin_files.call(evaluate, choice=flags.step)
  if flags.json:
    print(json.dumps(report))
  else:
    _print(report)
