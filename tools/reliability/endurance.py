"""Trains twenty thousand steps of a small run, whose memory must not grow.

    python -m tools.reliability.endurance            (make endurance)

Trains in a process of its own, with evaluations and checkpoints, and observes the memory,
open files and threads of that process. Writes tools/results/endurance.json and the list of
docs/reference/reliability.md. The status is 1 if memory grows by 2 % or more after the
first thousand steps, or if files or threads grow at all. TensorStore's pool of threads is
left out, as it grows with the work up to a limit.
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from tools.reliability import report, small_run

COMMAND = 'make endurance'
GROWTH = 0.02
# The medians of so many steps at both ends are compared.
WINDOW = 1000
PERIODS = {'EVAL_PERIOD': 500, 'CHECKPOINT_PERIOD': 250, 'LOG_PERIOD': 50}
# A task that needs no files, in small batches: each step takes milliseconds.
TASK = {'MIXTURE_OR_TASK_NAME': 'hp_builtin_copy', 'BATCH_SIZE': 4}
# The name of the threads in TensorStore's pool.
_POOL = 'ts_pool_worker'
Sample = dict[str, float]


def _names(tasks: pathlib.Path) -> Iterator[str]:
  """Yields the names of a process's threads."""
  for task in tasks.iterdir():
    with contextlib.suppress(OSError):  # it has just ended
      yield (task / 'comm').read_text(encoding='utf-8').strip()


def _sample(pid: int, step: int) -> Sample:
  """Counts a process's resident memory in MiB, open files and threads but the pool's."""
  proc = pathlib.Path(f'/proc/{pid}')
  status = (proc / 'status').read_text(encoding='utf-8')
  value = lambda name: int(re.findall(rf'^{name}:\s+(\d+)', status, re.MULTILINE)[0])
  return {
    'step': step,
    'memory': value('VmRSS') / 1024,
    'files': len([*(proc / 'fd').iterdir()]),
    'threads': sum(name != _POOL for name in _names(proc / 'task')),
  }


def compared(samples: Sequence[Sample], steps: int) -> dict[str, dict[str, float]]:
  """Returns medians of the second and of the last thousand steps."""
  first = [s for s in samples if WINDOW < s['step'] <= 2 * WINDOW]
  last = [s for s in samples if s['step'] > steps - WINDOW]
  return {
    name: {
      'after the first thousand': statistics.median(s[name] for s in first),
      'of the last thousand': statistics.median(s[name] for s in last),
    }
    for name in ('memory', 'files', 'threads')
  }


def main() -> None:
  """Trains, looks, and reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=20_000)
  parser.add_argument(
    '--output', type=pathlib.Path, default=report.RESULTS / 'endurance.json'
  )
  flags = parser.parse_args()
  folder = pathlib.Path(tempfile.mkdtemp(prefix='endurance'))
  samples: list[Sample] = []

  def on_line(text: str) -> None:
    if reported := re.match(r'step (\d+)/', text):
      samples.append(_sample(host.process.pid, int(reported[1])))

  begun = time.monotonic()
  (host,) = small_run.start(
    folder / 'run', 1, None, on_line, **PERIODS, **TASK, TRAIN_STEPS=flags.steps
  )
  if not host.wait(3600) or host.status:
    sys.exit(f'the run ended with {host.status}: {host.messages[-3:]}')
  medians = compared(samples, flags.steps)
  growth = {
    name: values['of the last thousand'] / values['after the first thousand'] - 1
    for name, values in medians.items()
  }
  wrong = [
    name for name, by in growth.items() if by >= (GROWTH if name == 'memory' else 1e-9)
  ]
  memory, files, threads = (
    f'{values["after the first thousand"]:,.0f} -> {values["of the last thousand"]:,.0f}'
    for values in medians.values()
  )
  minutes = (time.monotonic() - begun) / 60
  row = [
    'a run of many steps',
    f'{flags.steps:,} steps, {flags.steps // PERIODS["EVAL_PERIOD"]} evaluations, '
    f'{flags.steps // PERIODS["CHECKPOINT_PERIOD"]} checkpoints',
    f'from the second thousand steps to the last: resident memory {memory} MiB '
    f'({growth["memory"]:+.1%}), open files {files}, threads {threads} beside a pool',
    f'**{", ".join(wrong)} grew**' if wrong else 'nothing',
    COMMAND,
  ]
  result = {
    'minutes': round(minutes, 1),
    **medians,
    'samples': samples[::10],
    'rows': [row],
  }
  flags.output.parent.mkdir(exist_ok=True)
  flags.output.write_text(json.dumps(result, ensure_ascii=False) + '\n', encoding='utf-8')
  report.write()
  print(row[2])
  shutil.rmtree(folder)
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
