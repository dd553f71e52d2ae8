"""Plans all sizes with the TPU's compiler, and writes docs/reference/sizing.md.

    python -m benchmarks.plan_all docs/reference/sizing.md        (make plan-all)

Two programs are compiled at a time; with two cores it takes about twenty minutes.
"""

import concurrent.futures
import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hyperprompt_jax.planning.topology import GIB

# Size, slice, chips that share a model, whether to compare with mtl.
PLANS = [
  ('xxl', 'v4:4x4x8', 8, True),
  ('xl', 'v4:4x4x4', 4, False),
  ('large', 'v4:2x2x4', 2, False),
  ('base', 'v4:2x2x2', 1, True),
  ('base', 'v5e:2x4', 1, False),
  ('small', 'v5e:2x2', 1, False),
  ('base', 'v6e:2x4', 1, False),
  ('xl', 'v5p:2x2x4', 4, False),
  ('xxl', 'tpu7x:2x4x4', 8, False),
]
BASE = ('base', 'v4:2x2x2')
UNROLLED = '--gin.config.Config.scan_layers=False'

# The largest increases over `mtl`. Prompts add the same bytes to every peak, and the peak
# of `mtl` has become smaller twice.
MOST = {'flops': 0.02, 'peak_bytes': 0.05}
# Largest relative differences between a loop and unrolled layers: a loop gathers the
# encoder's kernels in both passes, and its stacks are in HBM, while unrolled layers keep on
# the chip what fits there.
MOST_OF_UNROLLED = {'flops': 0.01, 'link_bytes': 0.15, 'hbm_bytes': 0.35}
# A layer's matrix is used forward, again to recompute the layer, and backward.
USES = 3
SHARED = '--fsdp=16'

FIGURES = (
  'peak',
  'parameters',
  'TFLOP',
  'traffic',
  'communicated',
  "compiler's estimate",
  'compiled in',
)
HEAD = """\
# Sizes and slices

The needs of one training step on each chip, by the TPU's own compiler: HyperPrompt-Global,
eight tasks, batches of 128, 512 + 64 tokens, bfloat16 activations, dropout 0.1, Adafactor,
remat `minimal`, layers scanned. `make plan-all` writes this file ({date}); `hyperprompt
plan` does the same for any run.

- **Peak** is the compiler's, in the chip's main memory (HBM).
- **TFLOP** counts matrix products, recomputation included. **Traffic** is the bytes that
  instructions read from and write to HBM; a slice of a stack of layers counts as the slice.
  Both multiply the body of a loop by its trip count, as the compiler's own cost analysis
  does not.
- **Communicated** is the bytes that a chip sends over its links. An all-reduce counts
  twice.
- **Compiler's estimate** adds up the compiler's estimates of single instructions. It
  leaves out attention kernels and collectives, which the estimate of `hyperprompt plan`
  adds. A chip of TPU7x is two devices, and its rows are those of one. On a real chip some
  instructions overlap. Both serve to compare programs, not to predict the time of a step.
- **Compiled in** depends on what else the machine does.

"""


CAUTION = """
The bytes that XXL sends on TPU7x look too few beside those on v4. Whether the planner knows
all collectives of that compiler was not checked, so do not rely on this figure.
"""


def run(size: str, topology: str, partitions: int, *more: str) -> dict[str, Any]:
  """Makes one plan in its own process."""
  command = [
    *(sys.executable, '-m', 'hyperprompt_jax', 'plan'),
    *(f'--gin_file=models/{size}.gin', '--gin_file=methods/hyperprompt_global.gin'),
    *(f'--topology={topology}', f'--num_partitions={partitions}', *more, '--json'),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(f'{size} on {topology}: {done.stderr.strip()[-500:]}')
  return json.loads(done.stdout)


def row(*named: str, plan: dict[str, Any]) -> str:
  """Returns a row of a table: its names, and the plan's `FIGURES`."""
  cells = [
    *named,
    f'{plan["peak_bytes"] / GIB:.2f} of {plan["hbm_bytes"] / GIB:.0f} GiB',
    f'{plan["params_bytes"] / GIB:.2f} GiB',
  ]
  if plan['cost'] is None:
    cells += ['does not fit', '', '', '']
  else:
    cells += [
      f'{plan["cost"]["flops"] / 1e12:.2f}',
      f'{plan["cost"]["hbm_bytes"] / 1e9:.1f} GB',
      f'{plan["cost"]["link_bytes"] / 1e9:.2f} GB',
      f'{1000 * plan["compiler_seconds"]:.0f} ms',
    ]
  cells.append(f'{plan["compile_seconds"]:.0f} s')
  return f'| {" | ".join(cells)} |\n'


def head(*columns: str) -> str:
  """Returns the first two lines of a table."""
  return f'| {" | ".join(columns)} |\n{"| --- " * len(columns)}|\n'


def mesh_of(plan: dict[str, Any]) -> str:
  """Returns the chips along the data axis and the model axis."""
  return f'{plan["mesh"]["data"]} x {plan["mesh"]["model"]}'


GATHERED = """
## Whole parameters in collectives

XXL on v4:4x4x8 has matrices that no chip holds whole. The table counts the collectives of
one step that carry one of them whole. A step uses each matrix three times: forward, once
more to recompute its layer, and backward.

"""


def gathered(plan: dict[str, Any]) -> tuple[str, bool]:
  """Returns rows of that table, and whether each matrix is carried once per use at most."""
  mesh = ' x '.join(str(size) for size in plan['mesh'].values())
  if not plan['carried_whole']:
    return f'| {mesh} | all that are shared | | none | 0 |\n', True
  rows, within = '', True
  for shape, (number, times) in plan['carried_whole'].items():
    rows += f'| {mesh} | {shape} | {number} | {times} | {times / number:.2f} |\n'
    within = within and times <= USES * number
  return rows, within


def main(arguments: Sequence[str]) -> None:
  """Plans all sizes and writes the file."""
  (path,) = arguments
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    unrolled = pool.submit(run, 'base', 'v4:2x2x2', 1, UNROLLED)
    shared = pool.submit(run, 'xxl', 'v4:4x4x8', 8, SHARED)
    plans = [
      pool.submit(run, size, topology, partitions, *(['--share'] if share else []))
      for size, topology, partitions, share in PLANS
    ]
  planned = [(size, plan.result()) for (size, *_), plan in zip(PLANS, plans, strict=True)]
  text = HEAD.format(date=datetime.date.today().isoformat())
  text += head('size', 'slice', 'mesh (data x model)', *FIGURES)
  for size, plan in planned:
    text += row(size, plan['topology'], mesh_of(plan), plan=plan)
  text += CAUTION + '\n## What hyper-prompts add to `mtl`\n\n'
  text += head('size', 'slice', 'FLOP', 'traffic', 'peak')
  for size, plan in planned:
    if share := plan['share']:
      cells = [f'{100 * share[k]:+.2f} %' for k in ('flops', 'hbm_bytes', 'peak_bytes')]
      text += f'| {size} | {plan["topology"]} | {" | ".join(cells)} |\n'
  text, ungathered = text + GATHERED, True
  text += head(
    'mesh (data x fsdp x model)', 'matrices', 'number', 'carried whole', 'for each'
  )
  for plan in (planned[0][1], shared.result()):
    rows, within = gathered(plan)
    text, ungathered = text + rows, ungathered and within
  straight = unrolled.result()
  looped = next(plan for size, plan in planned if (size, plan['topology']) == BASE)
  text += """
## Scanned against unrolled

Base on v4:2x2x2, the same step with its layers in loops and one after another. Arithmetic
is the same. A loop gathers the encoder's kernels in both passes, and writes the arrays that
the backward pass needs to a stack in HBM, while unrolled layers keep on the chip what fits
there. Unrolling is `--gin.config.Config.scan_layers=False`; compilation then takes longer
with each layer.

"""
  text += head('layers', *FIGURES)
  text += row('scanned', plan=looped) + row('unrolled', plan=straight)
  change = {
    key: looped['cost'][key] / straight['cost'][key] - 1
    for key in ('flops', 'link_bytes', 'hbm_bytes')
  }
  with open(path, 'w', encoding='utf-8') as file:
    file.write(text)
  differences = ', '.join(f'{key} {by:+.2%}' for key, by in change.items())
  print(f'{path}: scanned by unrolled: {differences}')
  kept = {
    'a loop costs little more than unrolled layers': all(
      change[key] < most for key, most in MOST_OF_UNROLLED.items()
    ),
    'each matrix is carried whole at most once per use': ungathered,
    'the cost of hyper-prompts is within its limit': all(
      plan['share'][key] <= most
      for _, plan in planned
      if plan['share']
      for key, most in MOST.items()
    ),
  }
  if broken := [promise for promise, holds in kept.items() if not holds]:
    raise SystemExit(f'no longer true: {"; ".join(broken)}')


if __name__ == '__main__':
  main(sys.argv[1:])
