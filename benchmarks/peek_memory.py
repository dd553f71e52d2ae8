"""Measures the cost of an inspection: random weights, 100 examples of 512 tokens.

    python -m benchmarks.peek_memory --size=base

Prints the seconds, compilation included, and the process's peak memory.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.works import METHOD
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.inspection.look import look
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import libtpu

EXAMPLES, LENGTH, BATCH, TASKS = 100, 512, 8, 8


def batches(vocab_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of random tokens without padding, of all tasks in turn."""
  rng = np.random.default_rng(0)
  for start in range(0, EXAMPLES, BATCH):
    rows = min(BATCH, EXAMPLES - start)
    yield {
      'encoder_input_tokens': rng.integers(2, vocab_size, (rows, LENGTH), dtype=np.int32),
      'task_ids': (np.arange(start, start + rows, dtype=np.int32) % TASKS)[:, None],
    }


def main() -> None:
  """Measures and prints the result."""
  libtpu.prepare()
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='base')
  size = parser.parse_args().size
  files = [f'models/{size}.gin', 'methods/hyperprompt_global.gin', 'runs/params.gin']
  gin_files.parse(files, [])
  config = gin_files.call(Config)
  model = Model(config, METHOD, tuple(f'task_{t}' for t in range(TASKS)))
  partitioner = Partitioner()
  start = time.monotonic()
  with partitioner.activate():
    params = jax.jit(model.init)(jax.random.key(0))
    statistics = look(model, partitioner, params, batches(config.vocab_size), BATCH)
  seconds = time.monotonic() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  number, mass = sum(statistics.examples), statistics.prompt_mass.mean()
  print(
    f'{size}: {number} examples of {LENGTH} tokens in {seconds:.0f} s, '
    f'peak {peak:.2f} GiB; mass on prompts {mass:.4f}'
  )


if __name__ == '__main__':
  main()
