"""Training and decoding on a CPU or a GPU, beside other implementations, interleaved.

    taskset -c 0 python -m benchmarks.speed --size=small     (make bench: small and base)
    python -m benchmarks.speed --dtype=bfloat16 --batch=64 --inputs=512 --targets=64

Compares HyperPrompt-Global with eight tasks to plain T5 in every other implementation that
can be imported: T5X (docs/how_to/t5x.md), Transformers on PyTorch, CTranslate2 (on a CPU,
where it decodes and scores), to our own exports to ONNX Runtime (on a CPU) and, on request,
to our own network without prompts. Weights and
tokens are random. The result is the median of interleaved repeats, and the median ratio of
pairs. Each implementation has its own process, as it has for its users: a step allocates
gigabytes, and a shared heap would be fragmented. `taskset` gives all of them one core.
Where JAX uses a GPU, Transformers uses it too, and the memory of a training step is
reported. On a CPU the ratios are of CPU time, because other programs disturb the wall time.
Results that were not requested stay as they were.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import jax

from benchmarks import results
from benchmarks.works import (
  BEAM,
  CT2,
  CT2_INT8,
  ENCODE,
  GREEDY,
  MEMORY,
  MTL,
  ONNX,
  ONNX_INT8,
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
from hyperprompt_jax.runtime import workarounds

FRESH = 'fresh memory'  # our training without `workarounds.reuse_freed_memory`
ANSWERING = (CT2, CT2_INT8, ONNX, ONNX_INT8)  # they do not train
BY_TASKS = 'by tasks'  # greedy decoding of models with few and with many tasks


class Cost(NamedTuple):
  """The cost of a piece of work.

  Attributes:
    seconds: is the wall time.
    cpu_seconds: is the time of all CPU cores, user and system, which other programs on the
      machine change less.
    faults: counts the pages of memory that the system had to provide.
    gigabytes: is the memory that the process holds after the work.
  """

  seconds: float
  cpu_seconds: float
  faults: float
  gigabytes: float


# Does its work once, and returns the cost.
Timed = Callable[[], Cost]


def _config(size: str, **options: str) -> Config:
  gin_files.parse([f'models/{size}.gin'], [])
  return dataclasses.replace(gin_files.call(Config), **options)


class Worker(contextlib.AbstractContextManager):
  """A process that does the work of one implementation on request."""

  def __init__(self, name: str, *args: Any, reuses_memory: bool = False):
    """Starts the process.

    Args:
      name: selects the implementation, a key of `WAYS`.
      *args: are passed to that function.
      reuses_memory: tells whether the process reuses freed memory, as `hyperprompt train`
        does on a CPU.
    """
    context = multiprocessing.get_context('spawn')
    self._asks, answers = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(answers, name, args, reuses_memory)
    )
    self._process.start()
    answers.close()  # so that the end of the process ends `recv`

  def ask(self, what: str) -> tuple[Cost, Any]:
    """Does one piece of work.

    Returns:
      Its cost, and its result if that is a number.

    Raises:
      EOFError: if the process has ended, after printing its own message.
    """
    self._asks.send(what)
    return self._asks.recv()

  def timed(self, what: str) -> Timed:
    """Returns a function that does the work and returns its cost."""
    return lambda: self.ask(what)[0]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: Any) -> None:
    self._process.kill()
    self._process.join()


def _serve(asked: Connection, name: str, args: Sequence[Any], reuses_memory: bool) -> None:
  """Runs in the process of a worker."""
  if reuses_memory:
    workarounds.limit_malloc_arenas(1)
  works = WAYS[name](*args)
  with contextlib.suppress(EOFError):  # the other process has ended
    while True:
      work = works[asked.recv()]
      start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
      given = work()
      now, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
      cost = Cost(
        seconds,
        now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        now.ru_minflt - used.ru_minflt,
        _resident_bytes() / 1e9,
      )
      if reuses_memory:
        workarounds.reuse_freed_memory()  # after the first step, as in training
      asked.send((cost, given if isinstance(given, float) else None))


def _resident_bytes() -> int:
  pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * resource.getpagesize()


def interleaved(ways: dict[str, Timed], repeats: int) -> dict[str, Any]:
  """Measures several implementations in turn.

  Returns:
    The medians of the parts of `Cost`, by implementation, and the median over rounds of the
    ratio of its CPU time to ours; on a GPU, of its wall time.
  """
  for way in [*ways.values()] * 2:
    way()  # compiles; the second time, ours takes the memory that it then keeps
  rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats)]

  def medians(part: str, unit: str | None = None) -> dict[str, float]:
    """The median of a part of the cost, or of its ratio to that of the unit."""
    value = lambda costs, name: getattr(costs[name], part)
    return {
      name: statistics.median(
        value(costs, name) / (value(costs, unit) if unit else 1) for costs in rounds
      )
      for name in ways
    }

  ratios = medians('seconds' if on_gpu() else 'cpu_seconds', OURS)
  return {**{part: medians(part) for part in Cost._fields}, 'times_ours': ratios}


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

  def keep(what: str, result: dict[str, Any]) -> None:
    measured[what] = result
    print(f'{size}, {what}: {result}', file=sys.stderr, flush=True)

  if TRAIN in wanted:
    for what, result in training(config, batch, repeats, others).items():
      keep(what, result)
  if UNROLLED in wanted:
    straight = dataclasses.replace(config, scan_layers=False)
    keep(UNROLLED, training(straight, batch, repeats, others)[TRAIN])
  compared = [what for what in wanted if what in (GREEDY, BEAM, SCORE)]
  needed = [OURS, *others] if compared else [OURS] if RANK in wanted else []
  if not on_gpu():
    config = dataclasses.replace(config, scan_layers=False)  # as `load` does
  with contextlib.ExitStack() as stack:
    workers = {name: stack.enter_context(Worker(name, config, batch)) for name in needed}
    for what in compared:
      ways = {name: worker.timed(what) for name, worker in workers.items()}
      keep(what, interleaved(ways, repeats))
    if RANK in wanted:
      # Ranking a task's labels replaces generating one; both begin with the encoder.
      ours = workers[OURS]
      ways = {
        OURS: ours.timed(RANK),
        GREEDY: ours.timed(GREEDY),
        ENCODE: ours.timed(ENCODE),
      }
      ways |= {
        name: workers[name].timed(RANK) for name in (ONNX, ONNX_INT8) if name in workers
      }
      keep(RANK, interleaved(ways, repeats))
  return measured


def training(
  config: Config, batch: Batch, repeats: int, others: Sequence[str]
) -> dict[str, Any]:
  """Measures the training step, and on a GPU its memory."""
  with contextlib.ExitStack() as stack:
    start = lambda name, **kwargs: stack.enter_context(
      Worker(name, config, batch, **kwargs)
    )
    workers = {OURS: start(OURS, reuses_memory=not on_gpu())}
    if not on_gpu():
      workers[FRESH] = start(OURS)
    workers |= {name: start(name) for name in others if name not in ANSWERING}
    ways = {name: worker.timed(TRAIN) for name, worker in workers.items()}
    measured = {TRAIN: interleaved(ways, repeats)}
    if on_gpu():
      measured[MEMORY] = {
        name: worker.ask(MEMORY)[1] for name, worker in workers.items() if name != T5X
      }
  return measured


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
  # By default JAX reserves three quarters of a GPU's memory, which PyTorch would lack.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', nargs='+', default=['small', 'base'])
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128)
  parser.add_argument('--targets', type=int, default=16)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
  parser.add_argument('--remat_policy', choices=list(REMAT_POLICIES), default='none')
  by_default = [T5X, TORCH] if on_gpu() else [T5X, TORCH, *ANSWERING]
  parser.add_argument(
    '--against', nargs='*', choices=[MTL, *by_default], default=by_default
  )
  everything = [TRAIN, GREEDY, BEAM, SCORE, RANK, UNROLLED, BY_TASKS]
  parser.add_argument('--what', nargs='+', choices=everything, default=everything)
  flags = parser.parse_args(arguments)
  batch = Batch(flags.batch, flags.inputs, flags.targets)
  torch = ('torch', 'transformers')
  needs = {MTL: (), T5X: ('t5x',), TORCH: torch}
  needs |= dict.fromkeys((CT2, CT2_INT8), (*torch, 'ctranslate2'))
  needs |= dict.fromkeys((ONNX, ONNX_INT8), ('onnx', 'onnxruntime'))
  against = [name for name in flags.against if all(map(results.has, needs[name]))]
  options = {'dtype': flags.dtype, 'remat_policy': flags.remat_policy}
  setup = {'batch': [batch.size, batch.inputs, batch.targets], **options}
  if on_gpu():
    setup['device'] = jax.devices()[0].device_kind
  else:
    setup['cores'] = len(os.sched_getaffinity(0))
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
