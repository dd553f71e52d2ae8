"""`hyperprompt demo`: HyperPrompt-Global beside multi-task learning, on a CPU, in minutes.

Sixteen tasks conflict with each other in networks that have no room for all of them. Each
method has the learning rate that is best for it, and trains from several seeds.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.runtime.files import writing_output

NEEDS = ('matplotlib',)
Report = Mapping[str, Mapping[str, Any]]

CHANCE = 100 / 8  # percent of eight symbols
LABEL_HEIGHT = 4.5  # of the picture, in percent
# Line and colour of each network, the longest training first. They can be told apart in
# grey and by the colour-blind (Okabe & Ito).
_STYLES = {
  'hyperprompt_global': ('#D55E00', '-'),
  'wide_mtl': ('#009E73', '-.'),
  'mtl': ('#0072B2', '--'),
  'single_task': ('0.35', ':'),
}


def train_all(steps: int, seeds: int) -> dict[str, dict[str, Any]]:
  """Trains the networks of the demonstration, in as many processes as there are cores.

  Args:
    steps: counts the steps of training.
    seeds: counts the seeds.

  Returns:
    The result of `demonstration.comparison.train` for each network.
  """
  console = terminal.stderr_console()
  report = {}
  with concurrent.futures.ProcessPoolExecutor(
    min(len(_STYLES), os.cpu_count() or 1),
    # A fork of a process with threads may hang.
    multiprocessing.get_context('spawn'),
    _start,
  ) as pool:
    tasks = {pool.submit(_train, name, steps, seeds): name for name in _STYLES}
    for task in concurrent.futures.as_completed(tasks):
      name = tasks[task]
      report[name] = task.result()
      seconds = report[name].pop('seconds')
      console.print(f'{report[name]["label"]}: {terminal.duration(seconds)}')
  return {name: report[name] for name in _STYLES}


def _start() -> None:
  """Prepares a process for networks that are small, and compiled for a single use."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process answers Ctrl-C
  os.environ['JAX_PLATFORMS'] = 'cpu'
  # The second flag takes three quarters of the time of compiling, and nothing from a step.
  os.environ['XLA_FLAGS'] = (
    '--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=1'
  )
  from hyperprompt_jax.runtime import compilation_cache

  compilation_cache.enable()


def _train(name: str, steps: int, seeds: int) -> dict[str, Any]:
  """Trains one network, and takes its time."""
  from hyperprompt_jax.demonstration import comparison

  began = time.monotonic()
  result = comparison.train(name, steps, seeds)
  return {**result, 'seconds': time.monotonic() - began}


def draw(report: Report, path: str) -> None:
  """Draws the curves: a thin line for each seed, and a thick one for their mean.

  Args:
    report: is the result of `train_all`.
    path: names the picture.
  """
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axis = plt.subplots(figsize=(7.5, 5))
  labels = [(CHANCE, 'chance', '0.5')]
  for name, entry in report.items():
    color, line = _STYLES[name]
    steps = entry['steps']
    for curve in entry['right']:
      axis.plot(steps, curve, line, color=color, linewidth=0.6, alpha=0.6)
    mean = [sum(values) / len(values) for values in zip(*entry['right'], strict=True)]
    axis.plot(steps, mean, line, color=color, linewidth=2.2)
    labels.append((mean[-1], entry['label'], color))
  axis.plot([steps[0], steps[-1]], [CHANCE, CHANCE], color='0.7', linewidth=1)
  height = -LABEL_HEIGHT
  for value, label, color in sorted(labels):
    height = max(value, height + LABEL_HEIGHT)  # no label covers another
    axis.annotate(f' {label}', (steps[-1], height), color=color, va='center')
  axis.set_xlabel('training step')
  axis.set_ylabel('right symbols of unseen strings (%)')
  axis.set_ylim(0, 100)
  axis.set_title('Sixteen tasks in conflict; thin lines are seeds', fontsize=11)
  axis.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=150, bbox_inches='tight')
  plt.close(figure)


def _print(report: Report) -> None:
  """Prints the table, and the conclusions that it allows."""
  rows = []
  for entry in report.values():
    last = [curve[-1] for curve in entry['right']]
    spread = f'{min(last):.1f} to {max(last):.1f}' if len(last) > 1 else 'one seed'
    mean = f'{sum(last) / len(last):.1f}'
    rows.append((entry['label'], f'{entry["parameters"]:,}', mean, spread))
  terminal.print_table(
    'Right symbols of unseen strings at the last step (%)',
    ('network', 'parameters', 'mean', 'seeds'),
    rows,
  )
  print(
    'The tasks interfere: a network for each of them learns far more. The study has 20\n'
    'seeds, more methods (some do better than HyperPrompt-Global) and longer training:\n'
    'docs/study.md.'
  )


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb."""
  parser = arguments.Parser('demo', __doc__)
  parser.add_argument(
    '--output_dir',
    default='runs/demo',
    help='the folder for the picture and the numbers (default: %(default)s)',
  )
  parser.add_argument(
    '--steps', type=int, default=4000, help='steps of training (default: %(default)s)'
  )
  parser.add_argument(
    '--seeds', type=int, default=4, help='seeds of each method (default: %(default)s)'
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parsed = parser.parse(words)
  for name, least in (('steps', 8), ('seeds', 1)):
    if (value := getattr(parsed.flags, name)) < least:
      raise UserError(f'--{name}={value} must be at least {least}')
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt demo`."""
  flags = parsed.flags
  began = time.monotonic()
  folder = pathlib.Path(flags.output_dir)
  with writing_output(f'--output_dir {folder}'):
    folder.mkdir(parents=True, exist_ok=True)
  console = terminal.stderr_console()
  console.print(f'training on 16 tasks in conflict, {flags.steps} steps …')
  report = train_all(flags.steps, flags.seeds)
  picture = folder / 'learning_curves.png'
  with writing_output(f'--output_dir {folder}'):
    draw(report, str(picture))
    text = json.dumps(report, indent=2) + '\n'
    (folder / 'results.json').write_text(text, encoding='utf-8')
  if flags.json:
    print(json.dumps({'methods': report, 'curves': str(picture)}))
    return
  _print(report)
  print(f'learning curves: {picture}')
  console.print(f'took {terminal.duration(time.monotonic() - began)}')
