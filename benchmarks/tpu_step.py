"""Compiles our training step and T5X's for TPU slices, with the TPU's own compiler.

    python -m benchmarks.tpu_step                          (part of make bench)
    python -m benchmarks.tpu_step global base v4:2x2x2 1        one program, as JSON
    python -m benchmarks.tpu_step --size xxl --program global   some of the programs
    python -m benchmarks.tpu_step --variant unrolled    Base, its layers one after another
    python -m benchmarks.tpu_step --variant four        XL, four chips that share a model

T5X's step is compiled where T5X can be imported. Each program is compiled in its own
process, one after another, as the compiler uses all cores and its time is reported. Results
that were not requested stay as they were.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import results
from hyperprompt_jax.runtime import libtpu

# Size, slice, chips that share a model.
SIZES = (
  ('base', 'v4:2x2x2', 1),
  ('large', 'v4:2x2x4', 2),
  ('xl', 'v4:4x4x4', 8),
  ('xxl', 'v4:4x4x8', 8),
)
# Variants of a size: the name's ending, the size, and the chips that share a model. The
# first has its layers one after another, and compiles for minutes.
UNROLLED, FOUR = '_unrolled', '_four'
VARIANTS = {UNROLLED: ('base', 1), FOUR: ('xl', 4)}
# T5X's programs, by its `parameter_partitioning_dims`.
T5X = {'t5x': 1, 't5x_spread': 2}
METHODS = {'global': 'hyperprompt_global', 'mtl': 'mtl'}
BATCH = (128, 512, 64)
NUM_TASKS = 8


def lower(program: str, size: str, topology: str, num_partitions: int) -> tuple[Any, Any]:
  """Returns a step before compilation, and its slice."""
  libtpu.prepare()
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.planning import steps
  from hyperprompt_jax.planning.planner import Planner
  from hyperprompt_jax.planning.sweep import Mesh
  from hyperprompt_jax.planning.topology import Slice

  scanned = not program.endswith(UNROLLED)
  for ending in VARIANTS:
    program = program.removesuffix(ending)
  method = METHODS.get(program, 'mtl')
  files = (f'models/{size}.gin', f'methods/{method}.gin', 'runs/plan.gin')
  gin_files.parse(files, [f'config.Config.scan_layers = {scanned}'])
  planner = gin_files.call(Planner)
  where, batch = Slice.parse(topology), steps.Batch(*BATCH)
  if program in METHODS:
    partitioner = planner.partitioner(where, Mesh(num_partitions, 1), batch)
    model = planner.model(NUM_TASKS)
    return steps.lower_train(model, planner.optimizer, partitioner, batch), where
  from benchmarks import t5x_baseline

  devices = where.devices()
  lowered = t5x_baseline.lower_train(
    planner.config, devices, num_partitions, batch, parameter_dims=T5X[program]
  )
  return lowered, where


def measure(program: str, size: str, topology: str, num_partitions: int) -> dict[str, Any]:
  """Returns the needs of one program on each chip."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.nn.config import Config
  from hyperprompt_jax.planning import cost, hlo
  from hyperprompt_jax.planning.plan import Plan

  lowered, where = lower(program, size, topology, num_partitions)
  start = time.monotonic()
  compiled = lowered.compile()
  took = time.monotonic() - start
  analysis = cost.analyse(hlo.parse(compiled.as_text()))
  config = gin_files.call(Config)  # `lower` has parsed the files
  seconds = Plan.seconds(where.chip, analysis, config.head_dim)
  return {
    'flops': analysis.flops,
    'hbm_bytes': analysis.hbm_bytes,
    'link_bytes': analysis.link_bytes,
    'peak_bytes': compiled.memory_analysis().peak_memory_in_bytes,
    'compiler_seconds': seconds['compiler_seconds'],
    'kernels': analysis.unestimated,
    'kernels_bound_seconds': seconds['kernels_bound_seconds'],
    'kernels_seconds': seconds['kernels_seconds'],
    'communication_seconds': seconds['communication_seconds'],
    'step_seconds': seconds['step_seconds'],
    'compile_seconds': took,
    'measured': datetime.date.today().isoformat(),
  }


def _run(
  program: str, size: str, topology: str, num_partitions: int
) -> dict[str, Any] | None:
  command = [sys.executable, '-m', 'benchmarks.tpu_step', program, size, topology]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [*command, str(num_partitions)],
    capture_output=True,
    text=True,
    check=False,
    env=environment,
  )
  if done.returncode:
    reason = f'failed ({done.returncode}): {done.stderr.strip()[-800:]}'
    print(f'{program}, {size} on {topology}: {reason}', file=sys.stderr)
    return None
  print(f'{program}, {size} on {topology}: compiled', file=sys.stderr)
  return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> None:
  """Prints one program as JSON, or writes many into results/tpu_step.json."""
  if len(arguments) == 4 and not arguments[0].startswith('-'):
    program, size, topology, num_partitions = arguments
    print(json.dumps(measure(program, size, topology, int(num_partitions))))
    return
  parser = argparse.ArgumentParser(description=__doc__)
  sizes = [size for size, *_ in SIZES]
  programs = [*METHODS, *(T5X if results.has('t5x') else ())]
  parser.add_argument('--size', nargs='+', choices=sizes, default=sizes)
  parser.add_argument('--program', nargs='+', choices=programs, default=programs)
  parser.add_argument('--variant', choices=[x.removeprefix('_') for x in VARIANTS])
  flags = parser.parse_args(arguments)
  ending = f'_{flags.variant}' if flags.variant else ''
  variant_of, shared_by = VARIANTS.get(ending, (None, None))
  sizes = [variant_of] if variant_of else flags.size
  by_size = results.read('tpu_step') or {}
  for size, where, chips in SIZES:
    for program in flags.program if size in sizes else ():
      of_size = by_size.setdefault(size, {})
      # A program that no longer compiles has no figures.
      of_size.pop(program + ending, None)
      if figures := _run(program + ending, size, where, shared_by or chips):
        of_size[program + ending] = figures
      # Everything takes half an hour: each result is written at once.
      results.write('tpu_step', by_size)


if __name__ == '__main__':
  main(sys.argv[1:])
