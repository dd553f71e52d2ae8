"""Measures the start of `hyperprompt train`: from the command to the end of the first step.

    SUPER_GLUE_DIR=… python -m benchmarks.start

A tiny network reads eight SuperGLUE tasks, or the built-in mixture without that folder. The
command runs twice with the same caches of compiled programs and examples, which are empty
at first. The result is the wall time and the CPU time (user + system) of each phase; it
goes to results/start.json.
"""

import argparse
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import results

SUPER_GLUE, BUILT_IN = 'hp_super_glue_v102_proportional', 'hp_builtin'
# The phases of a start: their names, and the functions that do them.
PHASES = (
  ('configuration', 'hyperprompt_jax.configuration.gin_files', 'parse'),
  ('checks', 'hyperprompt_jax.training.setup', 'Setup.check'),
  ('header', 'hyperprompt_jax.training.setup', 'Setup.print_header'),
  ('training data', 'hyperprompt_jax.training.setup', 'Setup.batches'),
  ('data report', 'hyperprompt_jax.training.setup', 'Setup._report_data'),
  ('initial state', 'hyperprompt_jax.training.setup', 'initial_state'),
  ('loop and evaluator', 'hyperprompt_jax.training.setup', 'Setup.loop'),
  ('first step', 'hyperprompt_jax.training.loop', 'TrainingLoop._first_step'),
)
LAST = PHASES[-1][0]
Times = dict[str, tuple[float, float]]


def command(folder: str) -> list[str]:
  """Returns the words after `hyperprompt` of the measured command.

  Args:
    folder: is the run's folder.
  """
  mixture = SUPER_GLUE if os.environ.get('SUPER_GLUE_DIR') else BUILT_IN
  return [
    *('train', '--gin_file=models/tiny.gin', '--gin_file=methods/hyperprompt_global.gin'),
    *('--gin_file=runs/finetune.gin', f'--mixture={mixture}', '--batch_size=8'),
    *('--task_feature_lengths=512,32', '--train_steps=1000', f'--model_dir={folder}'),
  ]


def clock() -> tuple[float, float]:
  """Returns the wall time, and the CPU time of this process since it started."""
  return time.time(), time.process_time()


def timed_start(words: Sequence[str], started: float) -> None:
  """Runs the command to the end of its first step, and prints its times as JSON.

  Args:
    words: are the words after `hyperprompt`.
    started: is the wall time at which the process was started.
  """
  from hyperprompt_jax.cli import command as hyperprompt

  times: Times = {}

  def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
      before = clock()
      result = function(*args, **kwargs)
      wall, cpu = (end - begin for end, begin in zip(clock(), before, strict=True))
      times[name] = (wall, cpu)
      if name == LAST:
        print(json.dumps({**times, 'total': (time.time() - started, clock()[1])}))
        sys.stdout.flush()
        os._exit(0)
      return result

    return measured

  def load(names: Sequence[str]) -> None:
    timed('imports', load_modules)(names)
    for name, module, path in PHASES:
      holder: Any = importlib.import_module(module)
      *classes, function = path.split('.')
      for part in classes:
        holder = getattr(holder, part)
      setattr(holder, function, timed(name, getattr(holder, function)))

  load_modules, hyperprompt._load = hyperprompt._load, load
  sys.exit(hyperprompt.main(words))


def measure() -> dict[str, Times]:
  """Returns the times of a start with cold caches, and of one with warm caches."""
  with tempfile.TemporaryDirectory() as folder:
    # The caches of compiled programs and of examples are both in this folder.
    environment = {**os.environ, 'XDG_CACHE_HOME': folder}

    def start(caches: str) -> Times:
      words = command(str(pathlib.Path(folder) / caches))
      child = [sys.executable, '-m', 'benchmarks.start', '--child', str(time.time())]
      done = subprocess.run(
        [*child, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment
      )
      return json.loads(done.stdout.splitlines()[-1])

    return {caches: start(caches) for caches in ('cold', 'warm')}


def table(measured: dict[str, Times]) -> str:
  """Returns the times as a table in Markdown."""
  warm = dict(measured['warm'])
  total = warm.pop('total')
  others = [total[i] - sum(times[i] for times in warm.values()) for i in (0, 1)]
  rows = [*warm.items(), ('the rest', others), ('in all', total)]
  lines = [
    '| phase, caches warm | wall | CPU |',
    '| --- | --- | --- |',
    *(f'| {name} | {wall:.1f} s | {cpu:.1f} s |' for name, (wall, cpu) in rows),
  ]
  wall, cpu = measured['cold']['total']
  return '\n'.join([*lines, f'| in all, caches cold | {wall:.1f} s | {cpu:.1f} s |'])


def main(arguments: Sequence[str]) -> None:
  """Measures and prints a table, or runs the measured command in this process."""
  if arguments[:1] == ['--child']:
    timed_start(arguments[2:], float(arguments[1]))
  argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
  measured = measure()
  results.write('start', measured)
  print(table(measured))


if __name__ == '__main__':
  main(sys.argv[1:])
