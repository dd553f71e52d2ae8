"""HyperPrompt beside multi-task learning on tasks in conflict, over several seeds.

It is study A in small (docs/study.md): the same tasks, networks, recipe and tuned rates,
with seeds of its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.demonstration import conflict, side_by_side
from hyperprompt_jax.demonstration.side_by_side import Params, Recipe
from hyperprompt_jax.methods import (
  HyperPromptGlobal,
  Method,
  MultiTaskLearning,
  within_budget,
)
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

TASKS, LENGTH, SYMBOLS = 16, 6, 8
SHAPE = (TASKS, LENGTH, SYMBOLS)
TRAIN_ROWS, TEST_ROWS = 256, 128  # of each task
TEST_SEED, FIRST_SEED = 10**6, 3000  # that no run of the studies has
BATCH = 64
LOOKS = 8
EXTRA_PARAMETERS = 5248


@dataclasses.dataclass(frozen=True)
class Contestant:
  """A network with its method and learning rate.

  Attributes:
    label: names it in the table and the picture.
    method: conditions the network on the task.
    rate: is the highest learning rate, the best of study A's grid.
    extra_mlp_dim: is added to the width of the MLP of every layer.
    alone: tells whether every task has a network of its own.
  """

  label: str
  method: Method
  rate: float
  extra_mlp_dim: int = 0
  alone: bool = False

  def model(self) -> Model:
    """The network of 2 + 2 layers, too narrow for sixteen tasks and wide enough for one."""
    config = Config(
      vocab_size=conflict.vocabulary_size(SYMBOLS, TASKS),
      emb_dim=8,
      num_heads=1,
      head_dim=8,
      num_encoder_layers=2,
      num_decoder_layers=2,
      mlp_dim=16 + self.extra_mlp_dim,
      mlp_activations=('relu',),
      dropout_rate=0.0,
      scan_layers=False,
    )
    method = self.method
    if not isinstance(method, MultiTaskLearning):
      method = within_budget(method, config, TASKS, EXTRA_PARAMETERS)
    return Model(config, method, tuple(map(str, range(TASKS))), z_loss=0.0)


CONTESTANTS: Mapping[str, Contestant] = {
  'mtl': Contestant('MTL', MultiTaskLearning(), 0.012),
  'wide_mtl': Contestant('MTL, wider', MultiTaskLearning(), 0.012, extra_mlp_dim=82),
  'hyperprompt_global': Contestant(
    'HyperPrompt-Global', HyperPromptGlobal(8, 8, task_embed_dim=8), 0.006
  ),
  'single_task': Contestant(
    'a network for each task', MultiTaskLearning(), 0.024, alone=True
  ),
}


def train(name: str, steps: int, seeds: int) -> dict[str, Any]:
  """Trains a contestant from several seeds, side by side.

  A seed gives the strings, their order and the initialisation. The networks of single
  tasks are trained from one seed; each sees as many rows of its task as the others do.

  Args:
    name: is one of `CONTESTANTS`.
    steps: counts the steps of training.
    seeds: counts the seeds.

  Returns:
    The contestant's `label`, the number of its `parameters`, the `steps` at which it was
    tested, and the test symbols that were right there, in percent: `right`, a list for
    each seed.
  """
  contestant = CONTESTANTS[name]
  model = contestant.model()
  numbers = range(FIRST_SEED, FIRST_SEED + (1 if contestant.alone else seeds))
  sizes = [leaf.size for leaf in jax.tree.leaves(model.param_shapes())]
  right = _curves(contestant, model, steps, numbers)
  return {
    'label': contestant.label,
    'parameters': sum(sizes) * (TASKS if contestant.alone else 1),
    'steps': [steps // LOOKS * look for look in range(1, LOOKS + 1)],
    'right': [[round(value, 2) for value in curve] for curve in right],
  }


def _curves(
  contestant: Contestant, model: Model, steps: int, seeds: Sequence[int]
) -> list[list[float]]:
  """Trains a contestant's networks; returns the right symbols of each seed's curve."""
  parts = TASKS if contestant.alone else 1  # networks of a seed
  recipe = Recipe(contestant.rate, steps, BATCH // parts)
  rows = [conflict.rows(SHAPE, TRAIN_ROWS, seed) for seed in seeds]
  own_rows = np.arange(TASKS * TRAIN_ROWS).reshape(parts, -1)
  order = [
    side_by_side.epochs(numbers, recipe, seed * TASKS + part)
    for seed in seeds
    for part, numbers in enumerate(own_rows)
  ]
  keys = [jax.random.split(jax.random.key(seed), parts) for seed in seeds]
  test = jax.tree.map(jnp.asarray, conflict.rows(SHAPE, TEST_ROWS, TEST_SEED))
  networks = len(seeds) * parts
  looks = []

  def look(_: int, params: Params) -> None:
    # [seeds, parts, tasks, rows, LENGTH]: a part's networks answer for their own tasks.
    right = np.asarray(side_by_side.right_symbols_of_replicas(model, params, test))
    right = right.reshape(len(seeds), parts, TASKS, -1)
    if contestant.alone:
      right = np.diagonal(right, axis1=1, axis2=2)
    looks.append(100 * right.reshape(len(seeds), -1).mean(axis=1))

  side_by_side.train(
    model,
    jax.vmap(model.init)(jnp.concatenate(keys)),
    jax.tree.map(lambda *x: np.repeat(np.stack(x), parts, axis=0), *rows),
    np.stack(order),
    np.stack([recipe.rates()] * networks),
    look,
    LOOKS,
  )
  return np.transpose(looks).tolist()
