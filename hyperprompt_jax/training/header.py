"""The first lines of a run, which describe it before anything slow begins."""

import collections

import jax

from hyperprompt_jax.checkpoints import has_checkpoints
from hyperprompt_jax.errors import listed
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import settings


def lines(
  model: Model,
  partitioner: Partitioner,
  data: settings.DataSettings,
  optimisation: settings.OptimisationSettings,
  evaluation: settings.EvaluationSettings,
  checkpoints: settings.CheckpointSettings,
) -> list[str]:
  """Returns the method, network, devices, tasks, steps and folder of a run, a line each."""
  config, lengths = model.config, data.task_feature_lengths
  kinds = collections.Counter(d.device_kind for d in partitioner.mesh.devices.flat)
  devices = ', '.join(f'{number} {kind}' for kind, number in kinds.items())
  mesh = ' x '.join(f'{axis} {size}' for axis, size in partitioner.mesh.shape.items())
  # The settings have been checked: one of the two is there.
  steps = (
    f'{optimisation.relative_steps} from the start'
    if optimisation.relative_steps is not None
    else f'to {optimisation.total_steps}'
  )
  resumes = has_checkpoints(checkpoints.model_dir)
  initial = checkpoints.initial.path or 'random parameters'
  return [
    f'method   {type(model.method).__name__}, which adds {_added(model)}',
    f'network  {config.num_encoder_layers} + {config.num_decoder_layers} layers of width '
    f'{config.emb_dim}, {config.vocab_size} rows of vocabulary, {config.dtype}',
    f'devices  {devices} ({jax.default_backend()}); mesh {mesh}',
    f'tasks    {listed(model.task_list)} ({data.mixture_or_task_name})',
    f'steps    {steps}, {data.batch_size} rows of {lengths["inputs"]} + '
    f'{lengths["targets"]} tokens; evaluates every {evaluation.period}, saves every '
    f'{checkpoints.period}',
    f'folder   {checkpoints.model_dir}, '
    + ('which has a run to resume' if resumes else f'from {initial}'),
  ]


def _added(model: Model) -> str:
  """Returns how many parameters the method adds to those of the backbone."""
  shapes = model.param_shapes()
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  added = size(shapes.get('method', {}))
  backbone = size(shapes) - added
  return f'{added:,} parameters to {backbone:,} ({added / backbone:.2%})'
