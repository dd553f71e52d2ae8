"""Plans training steps for 8 to 1,616 tasks: the cost follows the batch, not the tasks.

    python -m benchmarks.plan_many_tasks            all plans, in twenty minutes
    python -m benchmarks.plan_many_tasks base 1616  some plans of one size

The plans are those of the TPU's own compiler; no TPU is needed. The results are written to
results/plan_many_tasks.json, each as soon as it is there. The program fails where 1,616
tasks cost more than MOST times 8 tasks, or a step does not fit.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import results
from hyperprompt_jax.planning.topology import GIB

# Size, slice, chips that share a model, numbers of tasks.
SIZES = (
  ('base', 'v4:2x2x2', 1, (8, 256, 1616)),
  ('xxl', 'v4:4x4x8', 8, (256,)),
)
# The largest ratio of traffic, estimate and memory between Base with the most and the
# fewest tasks. Memory is counted without parameters and the state of their optimizer.
MOST = 1.5
FIGURES = ('TFLOP', 'traffic', 'communicated', 'estimate')
COMPARED = ('traffic', 'estimate', 'memory')


def plan(size: str, topology: str, partitions: int, num_tasks: int) -> dict[str, Any]:
  """Returns the needs of one step on each chip."""
  command = [
    *(sys.executable, '-m', 'hyperprompt_jax', 'plan', '--json'),
    *(f'--gin_file=models/{size}.gin', '--gin_file=methods/hyperprompt_global.gin'),
    *(f'--topology={topology}', f'--num_partitions={partitions}'),
    f'--num_tasks={num_tasks}',
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(f'{size}, {num_tasks} tasks: {done.stderr.strip()[-500:]}')
  report = json.loads(done.stdout)
  cost = report['cost'] or {}
  return {
    'fits': report['fits'],
    'peak': report['peak_bytes'],
    'held': report['params_bytes'] + report['optimizer_bytes'],
    'memory': report['other_bytes'],
    'flops': cost.get('flops'),
    'traffic': cost.get('hbm_bytes'),
    'communicated': cost.get('link_bytes'),
    'estimate': report['step_seconds'],
  }


def table(by_size: dict[str, Any]) -> str:
  """Returns the results as a table."""
  columns = ('size', 'tasks', 'peak', 'parameters and optimizer', *FIGURES)
  text = f'| {" | ".join(columns)} |\n{"| --- " * len(columns)}|\n'
  for size, topology, _, numbers in SIZES:
    for number in numbers:
      step = by_size.get(size, {}).get(str(number))
      if step is None:
        continue
      cells = [f'{size}, {topology}', f'{number:,}', f'{step["peak"] / GIB:.2f} GiB']
      cells.append(f'{step["held"] / GIB:.2f} GiB')
      if step['fits']:
        cells += [
          f'{step["flops"] / 1e12:.2f}',
          f'{step["traffic"] / 1e9:.1f} GB',
          f'{step["communicated"] / 1e9:.2f} GB',
          f'{1000 * step["estimate"]:.0f} ms',
        ]
      else:
        cells += ['does not fit', '', '', '']
      text += f'| {" | ".join(cells)} |\n'
  return text


def broken(by_size: dict[str, Any]) -> list[str]:
  """Names what does not hold, of the results that are there."""
  faults = [
    f'{size} with {number} tasks does not fit'
    for size, steps in by_size.items()
    if size != 'about'
    for number, step in steps.items()
    if not step['fits']
  ]
  few, many = (by_size.get('base', {}).get(number) for number in ('8', '1616'))
  if few and many and few['fits'] and many['fits']:
    for figure in COMPARED:
      ratio = many[figure] / few[figure]
      print(f'{figure}: 1,616 tasks cost {ratio:.2f} times 8 tasks')
      if ratio > MOST:
        faults.append(f'{figure} of 1,616 tasks is over {MOST} times that of 8 tasks')
  return faults


def main(arguments: Sequence[str]) -> None:
  """Makes the plans, prints the table and compares."""
  chosen = arguments[0] if arguments else None
  numbers_of_tasks = [int(number) for number in arguments[1:]]
  by_size = results.read('plan_many_tasks') or {}
  for size, topology, partitions, numbers in SIZES:
    if chosen not in (None, size):
      continue
    for number in numbers_of_tasks or numbers:
      step = plan(size, topology, partitions, number)
      by_size.setdefault(size, {})[str(number)] = step
      results.write('plan_many_tasks', by_size)
  print(table(by_size))
  if faults := broken(by_size):
    raise SystemExit('; '.join(faults))


if __name__ == '__main__':
  main(sys.argv[1:])
