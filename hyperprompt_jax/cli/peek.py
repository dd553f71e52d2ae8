"""`hyperprompt peek`: inspects a checkpoint, or two beside each other.

Reports the attention on prompts in each layer, the entropy of the attention over tokens,
and the similarity of tasks: as numbers (CSV, JSON), pictures (PNG, SVG) and one page.
"""

import json
from collections.abc import Sequence

import numpy as np

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.inspection import files
from hyperprompt_jax.inspection.peek import Peek, peek
from hyperprompt_jax.runtime import terminal


def main(words: Sequence[str]) -> None:
  """`hyperprompt peek`."""
  parser = arguments.Parser('peek', __doc__)
  arguments.add_run_arguments(parser)
  parser.add_argument(
    '--step', default='latest', help="a step, 'latest' (the default) or 'best'"
  )
  parser.add_argument('--baseline', help='the folder of a second run, such as one of mtl')
  parser.add_argument('--baseline_step', default='latest', help='the step of that run')
  parser.add_argument(
    '--num_examples', type=int, default=100, help='examples of each task (%(default)s)'
  )
  parser.add_argument('--output', help='folder to write (default: MODEL_DIR/peek/STEP)')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  flags, bindings = arguments.parse_arguments(parser, words)
  peeks = []
  for model_dir, step in (
    (flags.model_dir, flags.step),
    (flags.baseline, flags.baseline_step),
  ):
    if model_dir is not None:
      runs.configure(model_dir, 'runs/peek.gin', flags.gin_file, bindings)
      peeks.append(gin_files.call(peek, choice=step, num_examples=flags.num_examples))
  if len(peeks) == 2:
    _check_comparable(*peeks)
  output = flags.output or f'{flags.model_dir}/peek/{peeks[0].step}'
  reports = [inspected.report() for inspected in peeks]
  written = files.write(output, reports)
  if flags.json:
    baseline = reports[1] if len(reports) == 2 else None
    print(json.dumps({**reports[0], 'baseline': baseline, 'output': output}))
  else:
    _print(peeks)
    print(f'{written[0]} and {len(written) - 1} more files beside it')


def _print(peeks: Sequence[Peek]) -> None:
  columns = ['layer']
  for inspected in peeks:
    columns += [f'{inspected.name}: mass', 'entropy']
  rows = []
  for layer in range(len(peeks[0].look.entropy)):
    row = [str(layer)]
    for inspected in peeks:
      mass, entropy = inspected.look.prompt_mass[layer], inspected.look.entropy[layer]
      row += [f'{mass.mean():.4f}', f'{entropy.mean():.3f}']
    rows.append(row)
  terminal.print_table(
    'Attention mass on prompts, and entropy over tokens (nats), mean over tasks',
    columns,
    rows,
  )


def _check_comparable(one: Peek, other: Peek) -> None:
  if one.look.entropy.shape != other.look.entropy.shape or not np.array_equal(
    one.look.bins, other.look.bins
  ):
    raise UserError(
      f'--baseline has {len(other.look.entropy)} encoder layers and '
      f'{len(other.look.tasks)} tasks, and this run {len(one.look.entropy)} and '
      f'{len(one.look.tasks)}, or inputs of another length: compare runs of the same '
      'size, tasks and TASK_FEATURE_LENGTHS'
    )
