"""Reading by index: building the cache, opening it again, and batches from it.

    SUPER_GLUE_DIR=… python -m benchmarks.reading

SUPER_GLUE_DIR is a folder of the official JSONL files; a few rows of each are enough,
because they are repeated until there are 3,000 of each. CPU seconds are those of this
process, which a busy machine inflates less than it does wall seconds.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

import hyperprompt_tasks
from benchmarks import results
from benchmarks.around_step import BATCH_SIZE, LENGTHS, mixture
from hyperprompt_jax.data.access import Access, training_batches
from hyperprompt_jax.data.cache import Cache
from hyperprompt_jax.data.indexed import BatchSettings, IndexedBatches
from hyperprompt_jax.partitioning import Partitioner

MANY_TASKS, MANY_ROWS = 2000, 50


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
  """Returns the wall and CPU seconds of a call, and its result."""
  wall, cpu = time.perf_counter(), time.process_time()
  result = work()
  seconds = {'wall': time.perf_counter() - wall, 'cpu': time.process_time() - cpu}
  return seconds, result


def opened(name: str, cache: Cache, *, pack: bool = False) -> IndexedBatches:
  """Opens the training batches of a mixture."""
  settings = BatchSettings(LENGTHS, BATCH_SIZE, seed=0, pack=pack)
  access = Access(LENGTHS, cache=cache)
  batches = training_batches(name, settings, access, Partitioner(), num_shards=1)
  if not isinstance(batches, IndexedBatches):
    raise SystemExit(f'{name} is not read by index')
  return batches


def batch_seconds(reader: IndexedBatches, repeats: int = 50) -> dict[str, float]:
  """Returns the seconds of a batch, made by this thread alone, and its examples."""
  batches, start, examples = reader.batches, 0, 0
  for number in range(repeats + 10):
    if number == 10:  # the first batches compute draws and touch the file
      wall, cpu, examples = time.perf_counter(), time.process_time(), 0
    placed = batches.at(start)
    batches.features(placed)
    start = placed.end
    examples += len(placed.drawn)
  return {
    'wall': (time.perf_counter() - wall) / repeats,
    'cpu': (time.process_time() - cpu) / repeats,
    'examples': examples / repeats,
  }


def position_bytes(reader: IndexedBatches) -> int:
  """Returns the size of a saved position."""
  with tempfile.TemporaryDirectory() as folder:
    reader.save(epath.Path(folder))
    return sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())


def register_many(folder: pathlib.Path) -> str:
  """Registers a mixture of two thousand small tasks, each a file."""
  rng = np.random.default_rng(0)
  files = {}
  for number in range(MANY_TASKS):
    path = folder / f'{number}.jsonl'
    texts = [' '.join(rng.choice(['to', 'be', 'or', 'not'], 12)) for _ in range(MANY_ROWS)]
    rows = [json.dumps({'inputs': text, 'targets': text[:3]}) for text in texts]
    path.write_text('\n'.join(rows))
    files[f'task_{number}'] = {'train': str(path)}
  return hyperprompt_tasks.from_files('many', files)


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Returns what reading a mixture costs, the first time and the second."""
  cache = Cache(str(folder))
  build, reader = timed(lambda: opened(name, cache))
  again, reader = timed(lambda: opened(name, cache))
  examples = sum(map(len, reader.batches.examples))
  return {
    'tasks': len(reader.batches.examples),
    'examples': examples,
    'bytes': sum(entry.info.layout.size for entry in cache.entries()),
    'build seconds': build,
    'examples built per second': {kind: examples / s for kind, s in build.items()},
    'open seconds': again,
    'batch seconds': batch_seconds(reader),
    'packed batch seconds': batch_seconds(opened(name, cache, pack=True)),
    'position bytes': position_bytes(reader),
    'record bytes': len(json.dumps(reader.record())),
  }


def main(arguments: Sequence[str]) -> None:
  """Measures into results/reading.json."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.parse_args(arguments)
  with mixture() as name, tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    measured = {name: measure(name, place / 'cache')}
    (place / 'rows').mkdir()
    hyperprompt_tasks.use_vocabulary('bytes')
    start = time.perf_counter()
    many = register_many(place / 'rows')
    seconds = time.perf_counter() - start
    measured[many] = {'register seconds': seconds, **measure(many, place / 'many')}
  print(json.dumps(measured, indent=2), file=sys.stderr)
  results.write('reading', measured)


if __name__ == '__main__':
  main(sys.argv[1:])
