"""The computational cost of every method, as a table in docs/methods.md.

    python -m benchmarks.method_cost docs/methods.md --count --plan --cpu

`--count` counts operations and parameters from shapes, in minutes. `--plan` compiles each
training step with the TPU's compiler; `--cpu` times steps of Base on this machine. Results
are kept in benchmarks/results/method_cost.json, and the table is written from all of them.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.methods import added_parameters
from hyperprompt_jax.model import Model
from hyperprompt_jax.planning import arithmetic, steps
from hyperprompt_jax.planning.planner import Planner
from hyperprompt_jax.planning.topology import GIB
from hyperprompt_jax.runtime import workarounds

RESULTS = pathlib.Path(__file__).parent / 'results' / 'method_cost.json'
METHODS = (
  *('mtl', 'prompt_tuning', 'adapter', 'hyperformer'),
  *('hyperprompt_share', 'hyperprompt_sep', 'hyperprompt_global'),
)
# The slice of each size, and the chips that share one copy of the model.
SLICES = {'base': ('v4:2x2x2', 1), 'xxl': ('v4:4x4x8', 8)}
NUM_TASKS = 8
BATCH = steps.Batch(size=128, inputs=512, targets=64)
CPU_BATCH = steps.Batch(size=2, inputs=128, targets=16)
CPU_STEPS = 3

BEGIN, END = '<!-- method_cost: begin -->', '<!-- method_cost: end -->'


def planner(size: str, method: str) -> Planner:
  """Returns the planner that the gin files of a size and a method compose."""
  files = [f'models/{size}.gin', f'methods/{method}.gin', 'runs/plan.gin']
  gin_files.parse(files, [])
  return gin_files.call(Planner)


def counted(size: str, method: str) -> dict[str, Any]:
  """Counts operations and parameters from shapes."""
  made = planner(size, method)
  model = made.model(NUM_TASKS)
  return {
    'parameters': added_parameters(model.method, model.config, NUM_TASKS),
    'forward_flops': forward_flops(model, BATCH),
    'step_flops': steps.train_flops(model, BATCH),
  }


def forward_flops(model: Model, batch: steps.Batch) -> int:
  """Counts the operations of the loss of a batch."""
  rows = example_rows(batch)
  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in rows.items()}
  loss = lambda params, rows: model.loss(params, rows, None)[0]
  return arithmetic.count(loss, model.param_shapes(), shapes).flops


def planned(size: str, method: str) -> dict[str, Any]:
  """Plans a training step on the slice of a size, in a process of its own."""
  topology, partitions = SLICES[size]
  command = [
    *(sys.executable, '-m', 'hyperprompt_jax', 'plan', '--json'),
    *(f'--gin_file=models/{size}.gin', f'--gin_file=methods/{method}.gin'),
    *(f'--topology={topology}', f'--num_partitions={partitions}'),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(f'{size}, {method}: {done.stderr.strip()[-500:]}')
  plan = json.loads(done.stdout)
  return {'peak_bytes': plan['peak_bytes'], 'step_seconds': plan['step_seconds']}


def timed(method: str) -> dict[str, Any]:
  """Times the loss and gradient of Base on this machine, in turns with those of `mtl`.

  The times are of all CPU cores, because other programs disturb the wall time.
  """
  step, plain = cpu_step(method), cpu_step('mtl')
  rounds = [(cpu_seconds(step), cpu_seconds(plain)) for _ in range(CPU_STEPS)]
  return {
    'cpu_seconds': statistics.median(seconds for seconds, _ in rounds),
    'cpu_over_mtl': statistics.median(seconds / unit for seconds, unit in rounds),
  }


def cpu_seconds(step: Callable[[], Any]) -> float:
  """Returns the CPU time of a step."""
  start = time.process_time()
  jax.block_until_ready(step())
  return time.process_time() - start


@functools.lru_cache(maxsize=2)  # that of a method and that of `mtl`
def cpu_step(method: str) -> Callable[[], Any]:
  """Returns a function that computes the gradient of Base, in float32, compiled."""
  model = planner('base', method).model(NUM_TASKS)
  config = dataclasses.replace(
    model.config, dtype='float32', remat_policy='none', dropout_rate=0.0
  )
  model = dataclasses.replace(model, config=config)
  params = jax.jit(model.init)(jax.random.key(0))
  rows = example_rows(CPU_BATCH)
  gradient = jax.jit(jax.grad(lambda params: model.loss(params, rows, None)[0]))
  step = lambda: gradient(params)
  jax.block_until_ready(step())
  workarounds.reuse_freed_memory()
  jax.block_until_ready(step())  # takes the memory that is kept
  return step


def example_rows(batch: steps.Batch) -> dict[str, jax.Array]:
  """Returns rows without padding; tasks alternate."""
  tokens = lambda length: jnp.full((batch.size, length), 5, jnp.int32)
  return {
    'encoder_input_tokens': tokens(batch.inputs),
    'decoder_input_tokens': tokens(batch.targets),
    'decoder_target_tokens': tokens(batch.targets),
    'decoder_loss_weights': jnp.ones((batch.size, batch.targets), jnp.int32),
    'task_ids': (jnp.arange(batch.size, dtype=jnp.int32) % NUM_TASKS)[:, None],
  }


def table(results: dict[str, dict[str, Any]]) -> str:
  """Returns the table of a size's results, one row for each method."""
  text = ''
  for size, (topology, _) in SLICES.items():
    columns = [
      *(size.capitalize() if size == 'base' else 'XXL', 'parameters'),
      *('forward TFLOP', 'step TFLOP', 'step over MTL', f'peak, {topology}'),
      'planned step',
    ]
    if size == 'base':
      columns += ['CPU step', 'CPU step over MTL']
    text += f'| {" | ".join(columns)} |\n{"| --- " * len(columns)}|\n'
    plain = results[f'{size}/mtl']['step_flops']
    for method in METHODS:
      row = results[f'{size}/{method}']
      cells = [
        f'`{method}`',
        f'{row["parameters"] / 1e6:.2f} M',
        f'{row["forward_flops"] / 1e12:.2f}',
        f'{row["step_flops"] / 1e12:.2f}',
        f'{100 * (row["step_flops"] / plain - 1):+.2f} %',
        f'{row["peak_bytes"] / GIB:.2f} GiB' if 'peak_bytes' in row else '',
        f'{1000 * row["step_seconds"]:.0f} ms' if 'step_seconds' in row else '',
      ]
      if size == 'base':
        is_timed = 'cpu_seconds' in row
        cells.append(f'{row["cpu_seconds"]:.2f} s' if is_timed else '')
        cells.append(f'{100 * (row["cpu_over_mtl"] - 1):+.0f} %' if is_timed else '')
      text += f'| {" | ".join(cells)} |\n'
    text += '\n'
  return text


def main() -> None:
  """Counts, plans and times as the flags say, and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('page', help='the document whose table is written')
  parser.add_argument('--sizes', nargs='+', choices=[*SLICES], default=[*SLICES])
  parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
  parser.add_argument('--count', action='store_true', help='count from shapes')
  parser.add_argument('--plan', action='store_true', help='compile the steps for TPUs')
  parser.add_argument('--cpu', action='store_true', help='time steps of Base here')
  flags = parser.parse_args()
  workarounds.limit_malloc_arenas(1)  # as in training on a CPU
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for size in flags.sizes:
    for method in flags.methods:
      row = results.setdefault(f'{size}/{method}', {})
      if flags.count:
        row |= counted(size, method)
      if flags.plan:
        row |= planned(size, method)
      if flags.cpu and size == 'base':
        row |= timed(method)
      RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
      print(f'{size}, {method}: {row}', flush=True)
  page = pathlib.Path(flags.page)
  new = f'{BEGIN}\n\n{table(results)}{END}'
  text = re.sub(f'{BEGIN}.*?{END}', lambda _: new, page.read_text(), flags=re.DOTALL)
  page.write_text(text)


if __name__ == '__main__':
  main()
