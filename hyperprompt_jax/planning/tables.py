"""Plans as tables and lines of text."""

from collections.abc import Mapping, Sequence

from hyperprompt_jax.planning.gpus import Estimate
from hyperprompt_jax.planning.plan import Plan
from hyperprompt_jax.planning.topology import GIB
from hyperprompt_jax.runtime import terminal


def print_plan(plan: Plan, share: Mapping[str, float] | None) -> None:
  """Prints the memory and time of each chip.

  Args:
    plan: is the plan of a step.
    share: gives the method's part of each quantity, relative to `mtl`.
  """
  rows = [
    ('parameters', _bytes(plan.params_bytes)),
    ('optimizer', _bytes(plan.optimizer_bytes)),
    ('activations, gradients, batch', _bytes(plan.other_bytes)),
    ('peak', f'{_bytes(plan.peak_bytes)} of {_bytes(plan.hbm_bytes)}'),
    ('fits', 'yes' if plan.fits else 'NO'),
  ]
  if plan.cost is not None:
    rows += [
      ('arithmetic', f'{plan.cost.flops / 1e12:.2f} TFLOP'),
      ('   at peak rate', _milliseconds(plan.compute_seconds)),
      ('traffic of HBM', f'{plan.cost.hbm_bytes / 1e9:.1f} GB'),
      ('   at full bandwidth', _milliseconds(plan.memory_seconds)),
      *(
        (f'{kind} ({plan.cost.collectives[kind]})', f'{nbytes / 1e9:.3f} GB')
        for kind, nbytes in sorted(plan.cost.collective_bytes.items())
      ),
      ('   at full bandwidth', _milliseconds(plan.communication_seconds)),
      *(
        (f'whole {shape} ({number})', f'carried {times} times')
        for shape, (number, times) in (plan.carried_whole or {}).items()
      ),
      ("compiler's estimate", _milliseconds(plan.compiler_seconds)),
    ]
    if plan.cost.unknown_loops:
      rows.append(('   counted once', f'{plan.cost.unknown_loops} loops'))
    if plan.cost.unestimated:
      kernels = f'   {plan.cost.unestimated} opaque kernels, by a model'
      rows.append((kernels, _milliseconds(plan.kernels_seconds)))
    if plan.slices > 1:
      rows.append(('network between slices', f'{plan.network_bytes / 1e9:.3f} GB'))
      rows.append(('   at full bandwidth', _milliseconds(plan.network_seconds)))
    rows.append(('   with communication', _milliseconds(plan.step_seconds)))
    if plan.utilisation is not None:
      rows.append(('   model FLOP utilisation', f'{100 * plan.utilisation:.0f} %'))
  if plan.tokens_per_second is not None:
    rows.append(('tokens of answers, at most', f'{plan.tokens_per_second:,.0f} a second'))
  if plan.chip_hours is not None:
    hours = plan.chip_hours
    text = f'{hours:,.1f}' if hours >= 10 else f'{hours:.3g}'
    rows.append(('steps of the run, at least', f'{text} chip-hours'))
  if share:
    rows += [(f'the method adds to {k}', f'{100 * v:.2f} %') for k, v in share.items()]
  rows.append(('compiled in', f'{plan.compile_seconds:.0f} s'))
  times = f'{plan.slices} x ' if plan.slices > 1 else ''
  title = f'{plan.step} step on {times}{plan.topology} ({_mesh(plan.mesh)})'
  terminal.print_table(title, ('', f'each {_unit(plan)}'), rows)


def print_estimate(estimate: Estimate) -> None:
  """Prints the estimate of a training step on GPUs."""
  rows = [
    ('parameters', _bytes(estimate.params_bytes)),
    ('optimizer', _bytes(estimate.optimizer_bytes)),
    ('working copy and gradients', _bytes(estimate.copy_bytes)),
    ('activations for the backward pass', _bytes(estimate.saved_bytes)),
    ('largest products', _bytes(estimate.largest_bytes)),
    ('in all', f'{_bytes(estimate.peak_bytes)} of {_bytes(estimate.memory_bytes)}'),
    ('fits', 'yes' if estimate.fits else 'NO'),
    ('arithmetic', f'{estimate.flops / 1e12:.2f} TFLOP'),
    ('   at peak rate', _milliseconds(estimate.compute_seconds)),
    ('read and written by products', f'{estimate.product_bytes / 1e9:.1f} GB'),
    ('   at full bandwidth', _milliseconds(estimate.memory_seconds)),
    ('sent to other GPUs', f'{estimate.link_bytes / 1e9:.3f} GB'),
    ('   at full bandwidth', _milliseconds(estimate.communication_seconds)),
    ('a step takes more than', _milliseconds(estimate.step_seconds)),
  ]
  title = f'train step on {estimate.topology} ({_mesh(estimate.mesh)})'
  terminal.print_table(f'{title}, counted and not compiled', ('', 'each GPU'), rows)


def print_sweep(plans: Sequence[Plan]) -> None:
  """Prints the plans of the meshes that fit, in the order given."""
  first = plans[0]
  rows = [
    [
      _mesh(plan.mesh),
      _bytes(plan.peak_bytes),
      _milliseconds(plan.step_seconds),
      '-' if plan.utilisation is None else f'{100 * plan.utilisation:.0f} %',
      _milliseconds(plan.communication_seconds),
    ]
    for plan in plans
  ]
  size = f'each {_unit(first)} of {_bytes(first.hbm_bytes)}'
  terminal.print_table(
    f'{first.step} step on {first.topology}, {size}',
    ('mesh', 'peak', 'estimate', 'utilisation', 'of it communication'),
    rows,
  )
  best = first.mesh
  print(
    f'best: --topology={first.topology} --num_partitions={best["model"]} '
    f'--fsdp={best["fsdp"]}'
  )


def line(plan: Plan) -> str:
  """Describes a plan in one line."""
  how = _milliseconds(plan.step_seconds) if plan.fits else 'does not fit'
  return (
    f'{plan.topology}  {_mesh(plan.mesh)}  {_bytes(plan.peak_bytes)} of '
    f'{_bytes(plan.hbm_bytes)}  {how}  (compiled in {plan.compile_seconds:.0f} s)'
  )


def _unit(plan: Plan) -> str:
  return 'chip' if plan.devices_per_chip == 1 else 'half of a chip'


def _mesh(mesh: Mapping[str, int]) -> str:
  return ' x '.join(f'{name} {size}' for name, size in mesh.items())


def _bytes(nbytes: int) -> str:
  return f'{nbytes / GIB:.2f} GiB'


def _milliseconds(seconds: float | None) -> str:
  return '-' if seconds is None else f'{1000 * seconds:.1f} ms'
