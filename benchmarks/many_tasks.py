"""Runs of the command line on thousands of tasks: start, position, resume, evaluation.

    python -m benchmarks.many_tasks

A tiny network is trained on 2,000 tasks of 50 rows, each in a file of its own, and on 300
tasks in the form of Super-NaturalInstructions. Seconds are wall seconds of the command.
CPU seconds are those of all its threads, so that on two idle cores the command takes
between half as many wall seconds and as many; a busy machine inflates them less.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import results

ROWS = 50
NETWORK = {
  'config.Config.emb_dim': 16,
  'config.Config.mlp_dim': 16,
  'config.Config.num_heads': 2,
  'config.Config.head_dim': 4,
  'config.Config.num_encoder_layers': 1,
  'config.Config.num_decoder_layers': 1,
  'methods.HyperPromptGlobal.prompt_length': 2,
}
SETTINGS: dict[str, Any] = {
  'VOCABULARY': 'bytes',
  'TASK_FEATURE_LENGTHS': {'inputs': 64, 'targets': 8},
  'BATCH_SIZE': 128,
  'TRAIN_STEPS': 4,
  'CHECKPOINT_PERIOD': 2,
  'EVAL_PERIOD': 4,
  'EVAL_STEPS': 1,
  'EVAL_TASKS': 8,
  'EVALUATOR_NUM_EXAMPLES': 4,
  'LOG_PERIOD': 1,
  'KEEP_BEST_PER_TASK': False,
}
OWN_TASKS = """
from __gin__ import dynamic_registration
import hyperprompt_tasks

MIXTURE_OR_TASK_NAME = 'many'
hyperprompt_tasks.from_files:
  name = 'many'
  files = {{
    '{{task}}': {{
      'train': '{folder}/{{task}}/train.jsonl',
      'validation': '{folder}/{{task}}/validation.jsonl',
    }}
  }}
"""


def write_files(folder: pathlib.Path, tasks: int) -> None:
  """Writes a folder with a file of each split for each task."""
  rng = np.random.default_rng(0)
  for number in range(tasks):
    for split, rows in (('train', ROWS), ('validation', 4)):
      path = folder / f'task_{number:04}' / f'{split}.jsonl'
      path.parent.mkdir(exist_ok=True)
      texts = [' '.join(rng.choice(['to', 'be', 'or', 'not'], 12)) for _ in range(rows)]
      lines = [json.dumps({'inputs': text, 'targets': text[:3]}) for text in texts]
      path.write_text('\n'.join(lines))


def write_natural_instructions(folder: pathlib.Path, tasks: int) -> None:
  """Writes a folder of files in the form of Super-NaturalInstructions."""
  for number in range(tasks):
    instances = [{'input': f'{n} is', 'output': [f'{n}', 'it']} for n in range(ROWS)]
    document = {
      'Definition': [f'Task {number}: copy the number.'],
      'Positive Examples': [{'input': '1 is', 'output': '1', 'explanation': ''}],
      'Instances': instances,
    }
    (folder / f'task{number:04}_copy.json').write_text(json.dumps(document))


def train(
  model_dir: pathlib.Path, cache: pathlib.Path, files: Sequence[str], **macros: Any
) -> dict[str, float]:
  """Trains by the command line; returns the seconds to the first step and to the end.

  Programs are compiled anew, as in a first run.
  """
  settings = {**SETTINGS, 'MODEL_DIR': str(model_dir), **macros}
  names = ('models/tiny.gin', 'methods/hyperprompt_global.gin', 'runs/finetune.gin', *files)
  words = [f'--gin_file={file}' for file in names]
  words += [f'--gin.{name}={value!r}' for name, value in settings.items()]
  words += [f'--gin.{name}={value}' for name, value in NETWORK.items()]
  start = time.monotonic()
  seconds: dict[str, float] = {}
  with subprocess.Popen(
    [sys.executable, '-m', 'hyperprompt_jax', 'train', *words],
    env={
      **os.environ,
      'HYPERPROMPT_DATA_CACHE': str(cache),
      'JAX_ENABLE_COMPILATION_CACHE': 'false',
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    for line in process.stderr or ():
      print(line, end='', file=sys.stderr)
      if not seconds and re.match(r'step \d+/', line):
        seconds['first step'] = time.monotonic() - start
        seconds['first step, cpu'] = cpu_seconds(process.pid)
  if process.returncode:
    raise SystemExit(f'the command ended with status {process.returncode}')
  return {**seconds, 'end': time.monotonic() - start}


def cpu_seconds(process: int) -> float:
  """Returns the CPU seconds that a process has taken so far."""
  fields = pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def arrays(model_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Returns every array of parameters and optimizer of a checkpoint, by its path."""
  actual = {}
  for item in ('params', 'optimizer'):
    path = model_dir / 'checkpoints' / str(step) / item
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(path).item_metadata.tree
      plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      restored = checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=plain))
    for keys, leaf in jax.tree_util.tree_leaves_with_path(restored):
      actual[item + jax.tree_util.keystr(keys)] = np.asarray(leaf)
  return actual


def measure(folder: pathlib.Path, files: Sequence[str], **macros: Any) -> dict[str, Any]:
  """Returns the cost of a run at its first start and its second, and tries its resume."""
  cache, last = folder / 'cache', SETTINGS['TRAIN_STEPS']
  first = train(folder / 'first', cache, files, **macros)
  second = train(folder / 'second', cache, files, **macros)
  train(folder / 'resumed', cache, files, **macros, TRAIN_STEPS=last // 2, EVAL_STEPS=0)
  train(folder / 'resumed', cache, files, **macros)
  unbroken, resumed = arrays(folder / 'first', last), arrays(folder / 'resumed', last)
  different = [
    name for name, x in unbroken.items() if x.tobytes() != resumed[name].tobytes()
  ]
  position = folder / 'first' / 'checkpoints' / str(last) / 'data'
  lines = (folder / 'first' / 'metrics.jsonl').read_text().splitlines()
  scored = {name for line in lines for name in json.loads(line) if '/score/' in name}
  return {
    'first start seconds': first,
    'second start seconds': second,
    'arrays that differ after a resume': len(different),
    'position bytes': sum(path.stat().st_size for path in position.iterdir()),
    'tasks evaluated': len(scored),
  }


def main(arguments: Sequence[str]) -> None:
  """Measures into results/many_tasks.json."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--tasks', type=int, default=2000, help='files of own tasks')
  parser.add_argument('--instructions', type=int, default=300, help='files of SNI')
  flags = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as temporary:
    own, instructions = pathlib.Path(temporary) / 'own', pathlib.Path(temporary) / 'sni'
    rows = instructions / 'tasks'
    for folder in (own / 'rows', rows):
      folder.mkdir(parents=True)
    write_files(own / 'rows', flags.tasks)
    (own / 'own.gin').write_text(OWN_TASKS.format(folder=own / 'rows'))
    write_natural_instructions(rows, flags.instructions)
    importer = 'hyperprompt_tasks.from_natural_instructions.directory'
    measured = {
      f'{flags.tasks} tasks of files': measure(own, [str(own / 'own.gin')]),
      f'{flags.instructions} tasks of Super-NaturalInstructions': measure(
        instructions, ['tasks/natural_instructions.gin'], **{importer: str(rows)}
      ),
    }
  print(json.dumps(measured, indent=2), file=sys.stderr)
  results.write('many_tasks', measured)


if __name__ == '__main__':
  main(sys.argv[1:])
