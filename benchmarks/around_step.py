"""Measures the work around a training step: checkpoints, evaluation, `--help`.

    SUPER_GLUE_DIR=… python -m benchmarks.around_step     (part of make bench)

SUPER_GLUE_DIR is a folder with the official JSONL files. A few rows of each suffice: they
are repeated until they make an epoch. Without the folder, the built-in mixture is read.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import sentencepiece
import seqio

import hyperprompt_tasks
from benchmarks import results
from benchmarks.works import METHOD
from hyperprompt_jax.checkpoints import Checkpointer
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.data import features
from hyperprompt_jax.data.access import Access, training_batches
from hyperprompt_jax.data.cache import Cache, default_directory
from hyperprompt_jax.data.indexed import BatchSettings
from hyperprompt_jax.evaluation.evaluator import Evaluator
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.optimizers import adafactor
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings, Retention
from hyperprompt_jax.training.train_step import abstract_state, initial_state

LENGTHS = {'inputs': 512, 'targets': 64}
BATCH_SIZE = 128
MIN_TRAIN_ROWS = 3000  # in each training file
MAX_VALIDATION_ROWS = 8  # in each file: 256 rows generate for half an hour on two cores
SUPER_GLUE, BUILT_IN = 'hp_super_glue_v102_proportional', 'hp_builtin'
TEST_VOCABULARY = pathlib.Path(seqio.__file__).parent.joinpath(
  'test_data/sentencepiece/sentencepiece.model'
)


def _strings(value: Any) -> Iterator[str]:
  """Yields the strings in a JSON value."""
  if isinstance(value, str):
    yield from value.splitlines()
  elif isinstance(value, dict | list):
    for item in value.values() if isinstance(value, dict) else value:
      yield from _strings(item)


def train_vocabulary(folder: pathlib.Path) -> pathlib.Path:
  """Trains a SentencePiece model on the rows in a folder, and returns its path.

  T5's model is not on PyPI, and SeqIO's model for tests spells words letter by letter,
  which makes four times as many tokens. This one has up to 32,000 pieces and makes about as
  many tokens of a text as T5's.
  """
  rows = (line for path in folder.glob('*/*.jsonl') for line in path.open(encoding='utf-8'))
  prefix = folder / 'sentencepiece'
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(text for row in rows for text in _strings(json.loads(row))),
    model_prefix=str(prefix),
    vocab_size=32_000,
    hard_vocab_limit=False,
    max_sentence_length=100_000,
    minloglevel=2,  # errors
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,  # T5's
  )
  return prefix.with_suffix('.model')


@contextlib.contextmanager
def mixture() -> Iterator[str]:
  """Yields the name of the mixture, whose epochs are as long as those of the whole data.

  Also chooses the vocabulary.
  """
  folder = os.environ.get('SUPER_GLUE_DIR')
  if folder is None:
    hyperprompt_tasks.use_vocabulary(str(TEST_VOCABULARY))
    yield BUILT_IN
    return
  with tempfile.TemporaryDirectory() as temporary:
    for path in pathlib.Path(folder).glob('*/*.jsonl'):
      to = pathlib.Path(temporary) / path.parent.name / path.name
      to.parent.mkdir(exist_ok=True)
      rows = path.read_text().splitlines(keepends=True)
      if path.stem == 'train':
        rows *= -(-MIN_TRAIN_ROWS // len(rows))
      else:
        rows = rows[:MAX_VALIDATION_ROWS]
      to.write_text(''.join(rows))
    hyperprompt_tasks.use_vocabulary(str(train_vocabulary(pathlib.Path(temporary))))
    with mock.patch.dict(os.environ, SUPER_GLUE_DIR=temporary):
      yield SUPER_GLUE


def help_seconds() -> float:
  """Returns the median seconds of five runs of `hyperprompt --help`."""
  command = [sys.executable, '-m', 'hyperprompt_jax', '--help']
  times = []
  for _ in range(5):
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def network(size: str, task_list: tuple[str, ...]) -> Model:
  """Returns HyperPrompt-Global at a size."""
  gin_files.parse([f'models/{size}.gin'], [])
  return Model(gin_files.call(Config), METHOD, task_list)


def checkpoint_seconds(name: str, size: str) -> dict[str, float]:
  """Returns the seconds that a save stalls training, its whole seconds and its bytes."""
  task_list = hyperprompt_tasks.task_list(name)
  model, optimizer, partitioner = network(size, task_list), adafactor(), Partitioner()
  access = Access(LENGTHS, cache=Cache(default_directory()))
  batches = training_batches(
    name, BatchSettings(LENGTHS, 8, seed=0), access, partitioner, 1
  )
  with partitioner.activate(), tempfile.TemporaryDirectory() as folder:
    like = abstract_state(model, optimizer, partitioner)
    state = jax.block_until_ready(initial_state(model, optimizer, like, seed=0))
    with contextlib.closing(Checkpointer(folder, task_list, Retention())) as checkpointer:
      checkpointer.start(state, None)
      start = time.perf_counter()
      checkpointer.save(state, batches)
      stalled = time.perf_counter() - start
      checkpointer.wait()
      whole = time.perf_counter() - start
    size_on_disk = sum(
      p.stat().st_size for p in pathlib.Path(folder).rglob('*') if p.is_file()
    )
  return {'stall': stalled, 'whole': whole, 'bytes': size_on_disk}


def evaluation_seconds(name: str, size: str) -> dict[str, Any]:
  """Returns the seconds of evaluation in buckets, and with all inputs fully padded."""
  model, partitioner = network(size, hyperprompt_tasks.task_list(name)), Partitioner()
  seconds: dict[str, Any] = {}
  with partitioner.activate():
    params = jax.jit(model.init)(jax.random.key(0))
    data = DataSettings(name, LENGTHS, 'bytes', batch_size=8)
    evaluator = Evaluator(model, partitioner, data, EvaluationSettings(steps=0))

    def timed() -> float:
      evaluator.evaluate(params, 0)  # compiles
      start = time.perf_counter()
      evaluator.evaluate(params, 0)
      return time.perf_counter() - start

    seconds['buckets'] = timed()
    with mock.patch.object(features, 'cut_padding', lambda batch: batch):
      seconds['padded'] = timed()
  return seconds


WAYS: dict[str, Callable[[str], Any]] = {
  'help': lambda name: help_seconds(),
  'checkpoint': lambda name: checkpoint_seconds(name, 'small'),
  'evaluation': lambda name: evaluation_seconds(name, 'small'),
}


def main(arguments: Sequence[str]) -> None:
  """Measures one thing after another, and writes results/around_step.json."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--what', nargs='+', choices=list(WAYS), default=list(WAYS))
  flags = parser.parse_args(arguments)
  with mixture() as name:
    before = results.read('around_step') or {}
    # Results of different mixtures are not mixed in one file.
    measured = before if before.get('mixture') == name else {'mixture': name}
    for what in flags.what:
      key = f'{what} seconds'
      measured[key] = WAYS[what](name)
      print(f'{key}: {measured[key]}', file=sys.stderr, flush=True)
      results.write('around_step', measured)


if __name__ == '__main__':
  main(sys.argv[1:])
