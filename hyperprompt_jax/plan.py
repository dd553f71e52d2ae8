"""`hyperprompt plan`: what a step needs on a TPU slice, by the TPU's own compiler.

The step is compiled ahead of time from shapes alone, on any machine: no TPU is needed, no
weights are made.
"""

import dataclasses
import json
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from hyperprompt_jax import configuration, terminal, tuning
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import Method, MultiTaskLearning
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning import cost, hlo, steps
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.planning.topology import GIB, Slice
from hyperprompt_jax.train_step import abstract_state


@dataclasses.dataclass(frozen=True)
class Plan:
  """What one step needs on one chip of a slice.

  Attributes:
    topology: name of the slice.
    mesh: sizes of its axes, by name.
    step: 'train' or 'decode'.
    fits: whether it runs.
    hbm_bytes: the chip's main memory.
    peak_bytes: the most that is held at once; what the compiler asked for if it does not
      fit.
    params_bytes: of it, parameters.
    optimizer_bytes: of it, the optimizer's state.
    cost: arithmetic, traffic and communication; None if it does not fit.
    compute_seconds: of the arithmetic, at the chip's peak rate.
    memory_seconds: of the traffic, at the memory's bandwidth.
    compiler_seconds: the compiler's estimates of all instructions, one after another.
    utilisation: of the arithmetic units, if a step takes `compiler_seconds`.
    compile_seconds: that compiling took here.
  """

  topology: str
  mesh: Mapping[str, int]
  step: str
  fits: bool
  hbm_bytes: int
  peak_bytes: int
  params_bytes: int
  optimizer_bytes: int
  cost: cost.Cost | None
  compute_seconds: float | None
  memory_seconds: float | None
  compiler_seconds: float | None
  utilisation: float | None
  compile_seconds: float

  @property
  def other_bytes(self) -> int:
    """What is neither parameters nor optimizer: activations, gradients, the batch."""
    return self.peak_bytes - self.params_bytes - self.optimizer_bytes


def plan(
  config: Config,
  method: Method,
  optimizer: optax.GradientTransformation,
  topology: str,
  batch: Batch,
  step: str = steps.TRAIN,
  num_partitions: int = 1,
  fsdp: int = 1,
  num_tasks: int = 8,
  num_microbatches: int = 1,
  tuned: str = tuning.ALL,
) -> Plan:
  """Compiles a step for a slice, and adds up what it needs.

  Args:
    config: of the network.
    method: of task-conditioning.
    optimizer: of the training step.
    topology: name of the slice.
    batch: its shape.
    step: 'train' or 'decode'.
    num_partitions: chips that share one copy of the model and one batch.
    fsdp: chips that share one copy, each with a batch of its own.
    num_tasks: t.
    num_microbatches: parts that a batch is worked through in.
    tuned: which parameters are trained.

  Raises:
    UserError: if there is no such slice, or the mesh does not divide what is laid out.
  """
  where = Slice.parse(topology)
  if where.num_chips % (num_partitions * fsdp):
    raise UserError(
      f'{topology} has {where.num_chips} chips, which num_partitions={num_partitions} '
      f'times fsdp={fsdp} does not divide'
    )
  partitioner = Partitioner(num_partitions, fsdp, devices=where.devices())
  tasks = tuple(f'task_{number}' for number in range(num_tasks))
  model = Model(config, method, tasks)
  tuning.check(model.param_shapes(), tuned)
  if batch.size % num_microbatches:
    raise UserError(
      f'--batch_size={batch.size} is not divided by num_microbatches={num_microbatches}'
    )
  partitioner.check(
    batch_size=batch.size // num_microbatches,
    emb_dim=config.emb_dim,
    num_heads=config.num_heads,
    mlp_dim=config.mlp_dim,
    vocab_size=config.vocab_size,
  )
  like = abstract_state(model, optimizer, partitioner, tuned)
  start = time.monotonic()
  if step == steps.TRAIN:
    lowered = steps.lower_train(
      model,
      optimizer,
      partitioner,
      batch,
      num_microbatches=num_microbatches,
      tuned=tuned,
    )
    optimizer_bytes = steps.bytes_per_chip(like.opt_state)
  else:
    lowered, optimizer_bytes = steps.lower_decode(model, partitioner, batch), 0
  known: dict[str, Any] = {
    'topology': topology,
    'mesh': dict(partitioner.mesh.shape),
    'step': step,
    'hbm_bytes': where.chip.hbm_bytes,
    'params_bytes': steps.bytes_per_chip(like.params),
    'optimizer_bytes': optimizer_bytes,
  }
  nothing: dict[str, Any] = dict.fromkeys(
    ('cost', 'compute_seconds', 'memory_seconds', 'compiler_seconds', 'utilisation')
  )
  try:
    with warnings.catch_warnings():
      # Where JAX has a cache, it cannot read back programs of machines that are not here.
      warnings.filterwarnings('ignore', 'Error reading persistent compilation cache')
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _needed_bytes(str(error))
    if needed is None:
      raise
    took = time.monotonic() - start
    return Plan(**known, **nothing, fits=False, peak_bytes=needed, compile_seconds=took)
  took = time.monotonic() - start
  found = cost.analyse(hlo.parse(compiled.as_text()))
  compute = found.flops / where.chip.flops_per_second
  by_compiler = found.cycles / where.chip.clock_hz
  return Plan(
    **known,
    fits=True,
    peak_bytes=compiled.memory_analysis().peak_memory_in_bytes,
    cost=found,
    compute_seconds=compute,
    memory_seconds=found.hbm_bytes / where.chip.hbm_bytes_per_second,
    compiler_seconds=by_compiler,
    utilisation=compute / by_compiler if by_compiler else None,
    compile_seconds=took,
  )


def _needed_bytes(message: str) -> int | None:
  """How much memory the compiler says that is needed; None if that is not what it says."""
  found = re.search(
    r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm'
    r'|HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds',
    message,
  )
  if found is None:
    return None
  number, unit = found[1] or found[3], found[2] or found[4]
  return int(float(number) * 1024 ** ' KMGT'.index(unit or ' '))


def report(of: Plan) -> dict[str, Any]:
  """A plan as JSON."""
  return {**dataclasses.asdict(of), 'other_bytes': of.other_bytes}


def _share(of: Plan, without: Plan) -> dict[str, float]:
  """What a method adds to a plan of `mtl`, relative to it."""
  assert of.cost and without.cost
  return {
    'flops': of.cost.flops / without.cost.flops - 1,
    'hbm_bytes': of.cost.hbm_bytes / without.cost.hbm_bytes - 1,
    'peak_bytes': of.peak_bytes / without.peak_bytes - 1,
  }


def _print(of: Plan, share: Mapping[str, float] | None) -> None:
  mesh = ' x '.join(f'{name} {size}' for name, size in of.mesh.items())
  title = f'{of.step} step on {of.topology} ({mesh})'
  show_bytes = lambda n: f'{n / GIB:.2f} GiB'
  rows = [
    ('parameters', show_bytes(of.params_bytes)),
    ('optimizer', show_bytes(of.optimizer_bytes)),
    ('activations, gradients, batch', show_bytes(of.other_bytes)),
    ('peak', f'{show_bytes(of.peak_bytes)} of {show_bytes(of.hbm_bytes)}'),
    ('fits', 'yes' if of.fits else 'NO'),
  ]
  if of.cost is not None:
    seconds = lambda s: f'{1000 * s:.1f} ms'
    rows += [
      ('arithmetic', f'{of.cost.flops / 1e12:.2f} TFLOP'),
      ('   at peak rate', seconds(of.compute_seconds)),
      ('traffic of HBM', f'{of.cost.hbm_bytes / 1e9:.1f} GB'),
      ('   at full bandwidth', seconds(of.memory_seconds)),
      *(
        (
          f'{kind} ({of.cost.collectives[kind]})',
          f'{nbytes / 1e9:.3f} GB',
        )
        for kind, nbytes in sorted(of.cost.collective_bytes.items())
      ),
      ("compiler's estimate", seconds(of.compiler_seconds)),
      ('   utilisation', f'{100 * (of.utilisation or 0):.0f} %'),
    ]
    if of.cost.unestimated:
      rows.append(('   without', f'{of.cost.unestimated} opaque kernels'))
    if of.cost.unknown_loops:
      rows.append(('   counted once', f'{of.cost.unknown_loops} loops'))
  if share:
    rows += [(f'the method adds to {k}', f'{100 * v:.2f} %') for k, v in share.items()]
  rows.append(('compiled in', f'{of.compile_seconds:.0f} s'))
  terminal.print_table(title, ('', 'each chip'), rows)


def main(arguments: Sequence[str]) -> None:
  """`hyperprompt plan`."""
  parser = configuration.Parser('plan', __doc__)
  configuration.add_arguments(parser)
  parser.add_argument(
    '--topology', required=True, help='a slice, as v4:2x2x2, v5e:4x4, v5p:4x4x4, v6e:8x8'
  )
  parser.add_argument('--step', choices=(steps.TRAIN, steps.DECODE), default=steps.TRAIN)
  sizes = {
    'batch_size': (128, 'rows over all chips'),
    'inputs_length': (512, 'of the inputs'),
    'targets_length': (64, 'of the targets'),
    'num_partitions': (1, 'chips that share one copy of the model and one batch'),
    'fsdp': (1, 'chips that share one copy of the model, each with its own batch'),
    'num_tasks': (8, 'conditioned tasks'),
  }
  for name, (default, text) in sizes.items():
    parser.add_argument(
      f'--{name}', type=int, default=default, help=f'{text} (default: %(default)s)'
    )
  parser.add_argument(
    '--share',
    action='store_true',
    help='compile mtl, too, and show what the method adds to it',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  flags, bindings = configuration.parse_arguments(parser, arguments)
  for name in sizes:
    if getattr(flags, name) < 1:
      raise UserError(f'--{name} must be a positive integer, not {getattr(flags, name)}')
  configuration.parse([*flags.gin_file, 'runs/plan.gin'], bindings)
  given: dict[str, Any] = {
    'topology': flags.topology,
    'step': flags.step,
    'batch': Batch(flags.batch_size, flags.inputs_length, flags.targets_length),
    'num_partitions': flags.num_partitions,
    'fsdp': flags.fsdp,
    'num_tasks': flags.num_tasks,
  }
  with terminal.waiting(f'compiling for {flags.topology}'):
    found = configuration.call(plan, **given)
    share = None
    if flags.share and found.fits:
      without = configuration.call(plan, **given, method=MultiTaskLearning())
      share = _share(found, without) if without.fits else None
  if flags.json:
    print(json.dumps({**report(found), 'share': share}))
  else:
    _print(found, share)


if __name__ == '__main__':
  from hyperprompt_jax import cli

  cli.run('plan')
