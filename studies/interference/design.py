"""What the study runs: every question, and the runs that answer it."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from hyperprompt_jax.planning import steps
from studies.interference import tasks
from studies.interference.experiment import Experiment

SEEDS = range(5)
METHODS = (
  *('mtl', 'global', 'single_task', 'share', 'sep'),
  *('prompt_tuning', 'adapter', 'hyperformer'),
)
BASE = Experiment('mtl')
# What varies, each by itself from BASE.
NUM_TASKS = (4, 8, 16)
PROMPT_LENGTHS = (0, 2, 4, 8, 16, 32)
STACKS = ('encoder', 'decoder', 'both')
WIDTHS = (16, 32, 64)
LEARNING_RATES = (1.5e-3, 3e-3, 6e-3)
DEEP = 4  # layers


def parameters(experiment: Experiment) -> int:
  """How many its network has."""
  shapes = experiment.model().param_shapes()
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def flops(experiment: Experiment) -> int:
  """Of a training step."""
  batch = steps.Batch(experiment.batch_size, tasks.LENGTH + 2, tasks.LENGTH + 1)
  return steps.train_flops(experiment.model(), batch)


def _wider(measure: Callable[[Experiment], int]) -> Experiment:
  """MTL with an MLP so wide that it has as much as HyperPrompt-Global of something."""
  wanted = measure(dataclasses.replace(BASE, method='global'))
  narrow = 2 * BASE.width  # as `mlp_dim` is by itself
  of = lambda mlp_dim: measure(dataclasses.replace(BASE, mlp_dim=mlp_dim))
  for_one = of(narrow + 1) - of(narrow)  # each more takes as much
  return dataclasses.replace(BASE, mlp_dim=narrow - (of(narrow) - wanted) // for_one)


@functools.cache
def controls() -> dict[str, Experiment]:
  """What might explain a gain besides what the method is meant for."""
  prompted = dataclasses.replace(BASE, method='global')
  return {
    'MTL, as many parameters': _wider(parameters),
    'MTL, as many FLOP': _wider(flops),
    'prompts shared by all tasks': dataclasses.replace(prompted, shared_prompts=True),
    'prompts random and frozen': dataclasses.replace(prompted, frozen_prompts=True),
  }


def configurations() -> list[Experiment]:
  """Everything that is trained, with seed 0: the most important first."""
  change = dataclasses.replace
  mtl_and_global = (BASE, change(BASE, method='global'))
  found = [change(BASE, method=method) for method in METHODS]
  found += controls().values()
  for num_tasks in reversed(NUM_TASKS):
    found += [
      change(BASE, method=method, num_tasks=num_tasks)
      for method in ('mtl', 'global', 'single_task')
    ]
  for stacks in STACKS:
    found.append(change(BASE, method='global', stacks=stacks))
  found += [
    change(BASE, start='mtl'),
    change(BASE, method='global', start='mtl'),
    change(BASE, method='global', start='mtl', tuned='task'),
  ]
  found += [change(of, layers=DEEP) for of in mtl_and_global]
  for prompt_length in PROMPT_LENGTHS:
    found.append(change(BASE, method='global', prompt_length=prompt_length))
  for width in WIDTHS:
    found += [change(of, width=width) for of in mtl_and_global]
  for rate in LEARNING_RATES:
    found += [change(of, learning_rate=rate) for of in mtl_and_global]
  return list(dict.fromkeys(found))


def groups() -> list[list[Experiment]]:
  """All runs, in groups that share a compiled program or a backbone."""
  found = []
  for experiment in configurations():
    seeds = [dataclasses.replace(experiment, seed=seed) for seed in SEEDS]
    if experiment.start == 'random':
      found.append(seeds)
    elif experiment.method == 'mtl':
      shared = [[one] for one in seeds]
      found += shared
    else:
      for group, one in zip(shared, seeds, strict=True):
        group.append(one)
  return found
