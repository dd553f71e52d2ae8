"""`hyperprompt peek`: inspects a checkpoint, or two beside each other.

Reports the attention on prompts in each layer, the entropy of the attention over tokens,
and the similarity of tasks: as numbers (CSV, JSON), pictures (PNG, SVG) and one page.
"""

import json
from collections.abc import Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings

NEEDS = (
  'tensorflow',
  'hyperprompt_jax.inspection.peek',
  'hyperprompt_jax.inspection.files',
)
RUN_FILE = 'runs/peek.gin'


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('peek', __doc__)
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
  arguments.add_run(parser, (DataSettings, ObjectSettings))
  parsed = parser.parse(words)
  flags = parsed.flags
  for model_dir, step in (
    (flags.model_dir, flags.step),
    (flags.baseline, flags.baseline_step),
  ):
    if model_dir is not None:
      run_folder.check_step(model_dir, step, ('latest', 'best'))
      run_folder.check(
        model_dir,
        RUN_FILE,
        parsed.flags.gin_file,
        parsed.bindings,
        trust_gin=parsed.flags.trust_gin,
      )
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt peek`."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import runs
  from hyperprompt_jax.inspection import files
  from hyperprompt_jax.inspection.peek import peek

  flags = parsed.flags
  peeks = []
  for model_dir, step in (
    (flags.model_dir, flags.step),
    (flags.baseline, flags.baseline_step),
  ):
    if model_dir is not None:
      runs.configure(
        model_dir, RUN_FILE, flags.gin_file, parsed.bindings, trust_gin=flags.trust_gin
      )
      peeks.append(gin_files.call(peek, choice=step, num_examples=flags.num_examples))
  if len(peeks) == 2:
    _check_comparable(*peeks)
  output = flags.output or f'{flags.model_dir}/peek/{peeks[0].step}'
  reports = [one.report() for one in peeks]
  written = files.write(output, reports)
  if flags.json:
    baseline = reports[1] if len(reports) == 2 else None
    print(json.dumps({**reports[0], 'baseline': baseline, 'output': output}))
  else:
    _print(peeks)
    print(f'{written[0]} and {len(written) - 1} more files beside it')


def _print(peeks: Sequence[Any]) -> None:
  columns = ['layer']
  for one in peeks:
    columns += [f'{one.name}: mass', 'entropy']
  rows = []
  for layer in range(len(peeks[0].look.entropy)):
    row = [str(layer)]
    for one in peeks:
      mass, entropy = one.look.prompt_mass[layer], one.look.entropy[layer]
      row += [f'{mass.mean():.4f}', f'{entropy.mean():.3f}']
    rows.append(row)
  terminal.print_table(
    'Attention mass on prompts, and entropy over tokens (nats), mean over tasks',
    columns,
    rows,
  )


def _check_comparable(one: Any, other: Any) -> None:
  import numpy as np

  if one.look.entropy.shape != other.look.entropy.shape or not np.array_equal(
    one.look.bins, other.look.bins
  ):
    raise UserError(
      f'--baseline has {len(other.look.entropy)} encoder layers and '
      f'{len(other.look.tasks)} tasks, and this run {len(one.look.entropy)} and '
      f'{len(one.look.tasks)}, or inputs of another length: compare runs of the same '
      'size, tasks and TASK_FEATURE_LENGTHS'
    )
