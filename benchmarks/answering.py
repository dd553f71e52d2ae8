"""The cost of a loaded model: the first answer, and a question beside its share of a batch.

  python -m benchmarks.answering --size=small [--onnx=int8]

The parameters are random, in a bundle that this program writes. The first answer is that of
a process of its own, whose compiled programs an earlier one has left: the seconds of wall
and of CPU (user and system) of the whole process, imports included. One question at a time
is compared with its share of a batch of eight, both warm and in turns, by CPU seconds.
With `--onnx` the model is an export to ONNX Runtime. Results go to
`benchmarks/results/answering*.json`; progress goes to standard error.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import results

TEXTS = [f'question {number}: ' + 'is the passage about it? ' * 3 for number in range(8)]
PRECISIONS = ('float32', 'int8')
_LOAD = """
import sys, time
started = time.perf_counter()
import hyperprompt_jax
model = hyperprompt_jax.load(sys.argv[1])
(answer,) = model.predict(model.tasks[0], [sys.argv[2]], max_length=16)
print(time.perf_counter() - started)
"""


def write_bundle(folder: pathlib.Path, size: str) -> None:
  """Writes a bundle of a network of a size with HyperPrompt-Global for eight tasks.

  Args:
    folder: is the folder to write.
    size: names a file of gin/models.
  """
  import numpy as np

  from hyperprompt_jax.checkpoints.differences import by_path
  from hyperprompt_jax.checkpoints.formats import bundle
  from hyperprompt_jax.checkpoints.identity import description_of
  from hyperprompt_jax.checkpoints.lazy import in_memory, unrolled
  from hyperprompt_jax.configuration import checks
  from hyperprompt_jax.configuration.recorded import RecordedRun
  from hyperprompt_jax.methods import HyperPromptGlobal
  from hyperprompt_jax.model import Model
  from hyperprompt_jax.nn.config import Config

  composed = checks.check([f'models/{size}.gin'], ["VOCABULARY='bytes'"])
  prefix = 'config.Config.'
  sizes = {
    name.removeprefix(prefix): composed.resolved(name)
    for name in composed.values
    if name.startswith(prefix)
  }
  widths = (composed.values['BOTTLENECK_DIM'], composed.values['TASK_EMBED_DIM'])
  method = HyperPromptGlobal(16, widths[0], task_embed_dim=widths[1])
  tasks = tuple(f'task_{number}' for number in range(8))
  model = Model(Config(**sizes), method, tasks)
  rng = np.random.default_rng(0)
  # NumPy draws them sooner than the initializers compile.
  arrays = {
    path: in_memory(rng.normal(0, 0.05, leaf.shape).astype(leaf.dtype))
    for path, leaf in by_path(model.param_shapes()).items()
  }
  record = RecordedRun(
    network=description_of(model),
    settings={
      'MIXTURE_OR_TASK_NAME': 'random',
      'TASK_FEATURE_LENGTHS': {'inputs': 512, 'targets': 64},
    },
    task_list=tasks,
    tasks={},
  )
  folder.mkdir()
  for _ in bundle.write(folder, str(folder), record, unrolled(arrays), 0):
    pass


def exported(folder: pathlib.Path, dtype: str | None) -> pathlib.Path:
  """Exports a bundle to ONNX Runtime; returns the new folder, or without a dtype the old.

  Args:
    folder: is the bundle.
    dtype: is the precision of the export.
  """
  if dtype is None:
    return folder
  output = folder.with_name(f'onnx_{dtype}')
  words = [sys.executable, '-m', 'hyperprompt_jax', 'convert', '--to=onnx']
  words += [f'--input={folder}', f'--output={output}', f'--dtype={dtype}']
  subprocess.run(words, check=True, stdout=sys.stderr)
  return output


def cpu_seconds(who: int) -> float:
  """Returns the user and system seconds of this process or of its children."""
  used = resource.getrusage(who)
  return used.ru_utime + used.ru_stime


def first_answer(words: list[str]) -> tuple[float, float, str]:
  """Runs a process; returns its wall and CPU seconds and its output."""
  cpu, wall = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
  done = subprocess.run(words, check=True, capture_output=True, text=True)
  used = cpu_seconds(resource.RUSAGE_CHILDREN) - cpu
  return time.perf_counter() - wall, used, done.stdout


def one_by_one(folder: pathlib.Path, repeats: int) -> dict[str, float]:
  """Returns CPU seconds of a question by itself, and of its share of a batch of eight."""
  import hyperprompt_jax

  model = hyperprompt_jax.load(folder)
  questions = [(model.tasks[n], text) for n, text in enumerate(TEXTS)]
  ask = {
    'alone': lambda: [model.predict([q], max_length=16) for q in questions],
    'in a batch': lambda: model.predict(questions, max_length=16),
    'alone, scored': lambda: [
      model.score(task, [text], ['yes']) for task, text in questions
    ],
  }
  for call in ask.values():
    call()  # compiles
  used: dict[str, list[float]] = {name: [] for name in ask}
  for _ in range(repeats):
    for name, call in ask.items():
      start = cpu_seconds(resource.RUSAGE_SELF)
      call()
      used[name].append(cpu_seconds(resource.RUSAGE_SELF) - start)
  return {name: statistics.median(u) / len(questions) for name, u in used.items()}


def main() -> None:
  """Prints one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='tiny', help='a file of gin/models')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--onnx', choices=PRECISIONS, help='export to ONNX Runtime first')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / 'bundle'
    os.environ['XDG_CACHE_HOME'] = temporary
    write_bundle(folder, flags.size)
    folder = exported(folder, flags.onnx)
    questions = pathlib.Path(temporary) / 'questions.jsonl'
    questions.write_text(json.dumps({'task': 'task_0', 'inputs': TEXTS[0]}))
    load = [sys.executable, '-c', _LOAD, str(folder), TEXTS[0]]
    infer = [sys.executable, '-m', 'hyperprompt_jax', 'infer', f'--model_dir={folder}']
    infer += [f'--input={questions}', '--output=-', '--max_length=16']
    report: dict[str, Any] = {'size': flags.size}
    for name, words in {'load': load, 'infer': infer}.items():
      for state in ('cold', 'warm'):
        wall, cpu, _ = first_answer(words)
        report[f'{name}, {state}'] = {'wall': round(wall, 2), 'cpu': round(cpu, 2)}
        print(f'{name}, {state}: {wall:.1f} s, CPU {cpu:.1f} s', file=sys.stderr)
    seconds = one_by_one(folder, flags.repeats)
    report['seconds of a question'] = seconds
    report['alone / share of a batch'] = seconds['alone'] / seconds['in a batch']
  results.write(f'answering_onnx_{flags.onnx}' if flags.onnx else 'answering', report)
  print(json.dumps(report))


if __name__ == '__main__':
  main()
