"""What the study runs: every question, and the runs that answer it."""

import dataclasses
from collections.abc import Iterator

from benchmarks.interference import tasks
from benchmarks.interference.experiment import EVALUATIONS, TEST_ROWS, Experiment
from hyperprompt_jax.model import Model
from hyperprompt_jax.planning import steps

__all__ = [
  'BASE',
  'EVALUATIONS',
  'METHODS',
  'SEEDS',
  'TEST_ROWS',
  'controls',
  'experiments',
]
SEEDS = range(5)
METHODS = (
  *('mtl', 'global', 'single_task', 'share', 'sep'),
  *('prompt_tuning', 'adapter', 'hyperformer'),
)
BASE = Experiment('mtl')


def _model(experiment: Experiment) -> Model:
  names = tasks.NAMES[: experiment.num_tasks]
  return Model(experiment.config(), experiment.make_method(), names, z_loss=0.0)


def _parameters(experiment: Experiment) -> int:
  import jax

  return sum(leaf.size for leaf in jax.tree.leaves(_model(experiment).param_shapes()))


def _flops(experiment: Experiment) -> int:
  batch = steps.Batch(experiment.batch_size, tasks.LENGTH + 2, tasks.LENGTH + 1)
  return steps.train_flops(_model(experiment), batch)


def _wider(measure) -> Experiment:
  """MTL with the MLP widened until it has as much as HyperPrompt-Global of something."""
  wanted = measure(dataclasses.replace(BASE, method='global'))
  mlp_dim = 2 * BASE.width
  while measure(dataclasses.replace(BASE, mlp_dim=mlp_dim)) < wanted:
    mlp_dim += 1
  return dataclasses.replace(BASE, mlp_dim=mlp_dim)


def controls() -> dict[str, Experiment]:
  """What might explain a gain besides what the method is meant for."""
  prompted = dataclasses.replace(BASE, method='global')
  return {
    'MTL, as many parameters': _wider(_parameters),
    'MTL, as many FLOP': _wider(_flops),
    'prompts shared by all tasks': dataclasses.replace(prompted, shared_prompts=True),
    'prompts random and frozen': dataclasses.replace(prompted, frozen_prompts=True),
  }


def experiments() -> list[Experiment]:
  """All runs, each once, the most important first; those of one program together."""
  change = dataclasses.replace
  one_seed: list[Experiment] = [change(BASE, method=method) for method in METHODS]
  one_seed += controls().values()
  for num_tasks in (2, 4, 8):
    one_seed += [
      change(BASE, method=method, num_tasks=num_tasks)
      for method in ('mtl', 'global', 'single_task')
    ]
  for prompt_length in (0, 1, 2, 8, 16, 32):
    one_seed.append(change(BASE, method='global', prompt_length=prompt_length))
  for stacks in ('decoder', 'both'):
    one_seed.append(change(BASE, method='global', stacks=stacks))
  for width in (16, 48, 64):
    one_seed += [change(BASE, method=method, width=width) for method in ('mtl', 'global')]
  one_seed += [change(BASE, method=method, layers=4) for method in ('mtl', 'global')]
  one_seed += [
    change(BASE, start='mtl'),
    change(BASE, method='global', start='mtl'),
    change(BASE, method='global', start='mtl', tuned='task'),
  ]
  unique = dict.fromkeys(one_seed)
  return list(_seeded(unique))


def _seeded(of) -> Iterator[Experiment]:
  for experiment in of:
    for seed in SEEDS:
      yield dataclasses.replace(experiment, seed=seed)
