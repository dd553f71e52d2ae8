"""`hyperprompt plan`: reports the needs of a step on a TPU slice, by the TPU's compiler.

The step is compiled ahead of time from shapes alone, on any machine: no TPU is needed, and
no weights are made. For GPUs (--topology=h100:8) a training step is counted, and not
compiled.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import checks
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.planning import sweep, topology
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import OptimisationSettings

NEEDS = ('tensorflow', 'hyperprompt_jax.planning.planner')
RUN_FILE = 'runs/plan.gin'
SIZES = {
  'batch_size': (128, 'rows over all chips'),
  'inputs_length': (512, 'tokens of an input'),
  'targets_length': (64, 'tokens of a target'),
  'num_partitions': (1, 'chips that share one copy of the model and one batch'),
  'fsdp': (1, 'chips that share one copy of the model, each with its own batch'),
  'num_tasks': (8, 'conditioned tasks'),
  'num_decodes': (1, 'beams of each row with --step=decode; 1 is greedy search'),
  'slices': (1, 'slices like --topology that divide each batch among them'),
}


def _parser() -> arguments.Parser:
  parser = arguments.Parser('plan', __doc__)
  parser.add_argument(
    '--topology',
    help='a slice such as v4:2x2x2, v5e:4x4, v5p:4x4x4, v6e:8x8 or tpu7x:2x2x1; with '
    '--sweep, a generation; or GPUs of one machine, such as h100:8',
  )
  parser.add_argument(
    '--sweep',
    action='store_true',
    help='find the smallest slice that the step fits on, and its best meshes, in one '
    'generation (--topology=v5p) or in all; or the best meshes of one slice',
  )
  parser.add_argument('--step', choices=('train', 'decode'), default='train')
  arguments.add_weights(parser, 'float32')
  for name, (default, text) in SIZES.items():
    parser.add_argument(
      f'--{name}', type=int, default=default, help=f'{text} (default: %(default)s)'
    )
  parser.add_argument(
    '--share',
    action='store_true',
    help='compile mtl, too, and show the needs that the method adds',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  arguments.add_initial(parser)
  arguments.add_settings(parser, (OptimisationSettings, ObjectSettings))
  return parser


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parsed = _parser().parse(words)
  flags = parsed.flags
  for name in SIZES:
    if getattr(flags, name) < 1:
      raise UserError(f'--{name} must be a positive integer, not {getattr(flags, name)}')
  if flags.num_decodes > 1 and flags.step != 'decode':
    raise UserError(f'--num_decodes={flags.num_decodes}: beams are for --step=decode')
  if flags.weights == 'int8' and flags.step != 'decode':
    raise UserError('--weights=int8: int8 is for --step=decode')
  if flags.sweep and (flags.share or (flags.num_partitions, flags.fsdp) != (1, 1)):
    raise UserError('--sweep chooses the mesh: leave out --num_partitions, --fsdp, --share')
  if not flags.sweep and flags.topology is None:
    raise UserError('name a slice, --topology=v4:2x2x2, or let --sweep find one')
  if _is_of_gpus(flags):
    topology.Box.parse(flags.topology)
    if flags.sweep or flags.share or flags.num_partitions * flags.slices > 1:
      raise UserError(
        f'--topology={flags.topology}: GPUs are counted without --sweep, --share, '
        '--num_partitions and --slices; --fsdp spreads a model over them'
      )
    if flags.step != 'train':
      raise UserError(f'--step={flags.step}: of GPUs the training step alone is counted')
  elif flags.sweep:
    if flags.slices > 1:
      raise UserError('--sweep plans one slice: leave out --slices')
    sweep.slices(flags.topology)
  else:
    topology.Slice.parse(flags.topology, flags.slices)
  checks.check([*flags.gin_file, RUN_FILE], parsed.bindings)
  return parsed


def _is_of_gpus(flags: Any) -> bool:
  return (flags.topology or '').partition(':')[0] in topology.GPUS


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt plan`."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.planning import tables
  from hyperprompt_jax.planning.planner import Planner
  from hyperprompt_jax.planning.steps import Batch

  flags = parsed.flags
  arguments.parse_gin([*flags.gin_file, RUN_FILE], parsed.bindings)
  planner: Planner = gin_files.call(Planner)
  planner = dataclasses.replace(planner, weights=flags.weights)
  mesh = sweep.Mesh(flags.num_partitions, flags.fsdp)
  batch = Batch(
    flags.batch_size, flags.inputs_length, flags.targets_length, flags.num_decodes
  )
  if _is_of_gpus(flags):
    _estimate(planner, batch, flags)
    return
  with terminal.stages() as progress:
    if flags.sweep:
      options = {'step': flags.step, 'num_tasks': flags.num_tasks, 'progress': progress}
      done = lambda plan: progress.message(tables.line(plan))
      plans = planner.sweep(flags.topology, batch, **options, done=done)
    else:
      where = topology.Slice.parse(flags.topology, flags.slices)
      plan, share = _plan_and_share(planner, where, mesh, batch, flags, progress)
  if flags.sweep and flags.json:
    print(json.dumps({'plans': [one.report() for one in plans]}))
  elif flags.sweep:
    tables.print_sweep(plans)
  elif flags.json:
    print(json.dumps({**plan.report(), 'share': share}))
  else:
    tables.print_plan(plan, share)


def _estimate(planner: Any, batch: Any, flags: Any) -> None:
  """Prints the estimate of a step on GPUs."""
  from hyperprompt_jax.planning import gpus, tables

  box = topology.Box.parse(flags.topology)
  counted = gpus.estimate(planner, box, flags.fsdp, batch, flags.num_tasks)
  if flags.json:
    print(json.dumps(counted.report()))
  else:
    tables.print_estimate(counted)


def _plan_and_share(
  planner: Any,
  where: Any,
  mesh: Any,
  batch: Any,
  flags: Any,
  progress: Callable[[str], None],
) -> tuple[Any, Mapping[str, float] | None]:
  """Plans a step, and if asked the same step without the method."""
  from hyperprompt_jax.methods import MultiTaskLearning
  from hyperprompt_jax.planning.planner import added_share, say_where

  given = (where, mesh, batch, flags.step, flags.num_tasks)
  plan = planner.plan(*given, functools.partial(say_where, progress, where.name))
  if not (flags.share and plan.fits):
    return plan, None
  plain = dataclasses.replace(planner, method=MultiTaskLearning())
  without = plain.plan(*given, functools.partial(say_where, progress, f'{where.name}, mtl'))
  return plan, added_share(plan, without) if without.fits else None
