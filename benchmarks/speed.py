"""Training and decoding on a CPU or a GPU: ours, T5X's and Transformers', interleaved.

    python -m benchmarks.speed --size=small     (part of make bench)
    python -m benchmarks.speed --dtype=bfloat16 --batch=64 --inputs=512 --targets=64

Compares HyperPrompt-Global with eight tasks to plain T5 in every other implementation that
can be imported: T5X (docs/how_to/t5x.md), Transformers on PyTorch and, on request, our own
network without prompts. Weights and tokens are random. The result is the median of
interleaved repeats, and the median ratio of pairs. Each implementation has its own process,
as it has for its users: a step allocates gigabytes, and a shared heap would be fragmented.
Where JAX uses a GPU, Transformers uses it too, and the memory of a training step is
reported. Results that were not requested stay as they were.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import jax

from benchmarks import results
from benchmarks.works import (
  BEAM,
  GREEDY,
  MEMORY,
  MTL,
  OURS,
  RANK,
  SCORE,
  T5X,
  TORCH,
  TRAIN,
  UNROLLED,
  WAYS,
  on_gpu,
)
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.nn.config import REMAT_POLICIES, Config
from hyperprompt_jax.planning.steps import Batch

BY_TASKS = 'by tasks'  # greedy decoding of models with few and with many tasks
# Does its work once, and returns the seconds.
Timed = Callable[[], float]


def _config(size: str, **options: str) -> Config:
  gin_files.parse([f'models/{size}.gin'], [])
  return dataclasses.replace(gin_files.call(Config), **options)


class Worker(contextlib.AbstractContextManager):
  """A process that does the work of one implementation on request."""

  def __init__(self, name: str, *args: Any):
    """Starts the process.

    Args:
      name: selects the implementation, a key of `WAYS`.
      *args: are passed to that function.
    """
    context = multiprocessing.get_context('spawn')
    self._asks, answers = context.Pipe()
    self._process = context.Process(target=_serve, args=(answers, name, args))
    self._process.start()
    answers.close()  # so that the end of the process ends `recv`

  def ask(self, what: str) -> tuple[float, Any]:
    """Does one piece of work.

    Returns:
      The seconds that it took, and its result if that is a number.

    Raises:
      EOFError: if the process has ended, after printing its own message.
    """
    self._asks.send(what)
    return self._asks.recv()

  def timed(self, what: str) -> Timed:
    """Returns a function that does the work and returns its seconds."""
    return lambda: self.ask(what)[0]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: Any) -> None:
    self._process.kill()
    self._process.join()


def _serve(asked: Connection, name: str, args: Sequence[Any]) -> None:
  """Runs in the process of a worker."""
  works = WAYS[name](*args)
  with contextlib.suppress(EOFError):  # the other process has ended
    while True:
      work = works[asked.recv()]
      start = time.perf_counter()
      given = work()
      seconds = time.perf_counter() - start
      asked.send((seconds, given if isinstance(given, float) else None))


def interleaved(ways: dict[str, Timed], repeats: int) -> dict[str, Any]:
  """Times several implementations in turn.

  Returns:
    The median seconds of each implementation, and the median over rounds of the ratio of
    its time to ours.
  """
  for way in ways.values():
    way()  # compiles
  rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats)]
  median = lambda key: statistics.median(map(key, rounds))
  return {
    'seconds': {name: median(lambda times, n=name: times[n]) for name in ways},
    'times_ours': {
      name: median(lambda times, n=name: times[n] / times[OURS]) for name in ways
    },
  }


def measure(
  size: str,
  config: Config,
  batch: Batch,
  repeats: int,
  others: Sequence[str],
  wanted: Sequence[str],
) -> dict[str, Any]:
  """Returns the wanted measurements at one size, by name."""
  measured: dict[str, Any] = {}
  compared = [what for what in wanted if what in (TRAIN, GREEDY, BEAM, SCORE)]
  needed = [OURS, *others] if compared else [OURS] if RANK in wanted else []
  with contextlib.ExitStack() as stack:
    workers = {name: stack.enter_context(Worker(name, config, batch)) for name in needed}
    for what in compared:
      ways = {name: worker.timed(what) for name, worker in workers.items()}
      measured[what] = interleaved(ways, repeats)
      print(f'{size}, {what}: {measured[what]}', file=sys.stderr, flush=True)
      if what == TRAIN and on_gpu():
        measured[MEMORY] = {
          name: worker.ask(MEMORY)[1] for name, worker in workers.items() if name != T5X
        }
        print(f'{size}, {MEMORY}: {measured[MEMORY]}', file=sys.stderr, flush=True)
    if RANK in wanted:
      # Ranking a task's labels replaces generating one.
      ways = {OURS: workers[OURS].timed(RANK), GREEDY: workers[OURS].timed(GREEDY)}
      measured[RANK] = interleaved(ways, repeats)
  if UNROLLED in wanted:
    measured[UNROLLED] = training_unrolled(config, batch, repeats, others)
    print(f'{size}, {UNROLLED}: {measured[UNROLLED]}', file=sys.stderr, flush=True)
  return measured


def training_unrolled(
  config: Config, batch: Batch, repeats: int, others: Sequence[str]
) -> dict[str, Any]:
  """Times the training step, with our layers unrolled."""
  straight = dataclasses.replace(config, scan_layers=False)
  with contextlib.ExitStack() as stack:
    ways = {
      name: stack.enter_context(Worker(name, straight, batch)).timed(TRAIN)
      for name in (OURS, *others)
    }
    return interleaved(ways, repeats)


def decoding_by_tasks(config: Config, batch: Batch, repeats: int) -> dict[str, Any]:
  """Times greedy decoding of models with few and with many tasks."""
  with contextlib.ExitStack() as stack:
    ways = {
      str(tasks): stack.enter_context(Worker(OURS, config, batch, tasks)).timed(GREEDY)
      for tasks in (1, 8, 64)
    }
    return interleaved({OURS: ways.pop('1'), **ways}, repeats)


def main(arguments: Sequence[str]) -> None:
  """Measures, and writes results/cpu_speed.json or gpu_speed.json."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', nargs='+', default=['small', 'base'])
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128)
  parser.add_argument('--targets', type=int, default=16)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
  parser.add_argument('--remat_policy', choices=list(REMAT_POLICIES), default='none')
  others = [MTL, T5X, TORCH]
  parser.add_argument('--against', nargs='*', choices=others, default=[T5X, TORCH])
  everything = [TRAIN, GREEDY, BEAM, SCORE, RANK, UNROLLED, BY_TASKS]
  parser.add_argument('--what', nargs='+', choices=everything, default=everything)
  flags = parser.parse_args(arguments)
  # By default JAX reserves three quarters of a GPU's memory, which PyTorch would lack.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  batch = Batch(flags.batch, flags.inputs, flags.targets)
  needs = {MTL: (), T5X: ('t5x',), TORCH: ('torch', 'transformers')}
  against = [name for name in flags.against if all(map(results.has, needs[name]))]
  options = {'dtype': flags.dtype, 'remat_policy': flags.remat_policy}
  setup = {'batch': [batch.size, batch.inputs, batch.targets], **options}
  if on_gpu():
    setup['device'] = jax.devices()[0].device_kind
  name = f'{jax.default_backend()}_speed'
  before = results.read(name) or {}
  # Results of different settings are not mixed in one file.
  measured = before if setup.items() <= before.items() else setup
  for size in flags.size:
    config = _config(size, **options)
    at_size = measure(size, config, batch, flags.repeats, against, flags.what)
    measured[size] = measured.get(size, {}) | at_size
    results.write(name, measured)
  if BY_TASKS in flags.what:
    config = _config(flags.size[0], **options)
    measured[BY_TASKS] = decoding_by_tasks(config, batch, flags.repeats)
    results.write(name, measured)


if __name__ == '__main__':
  main(sys.argv[1:])
