"""One run of study A."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.model import Model
from studies import networks, training
from studies.networks import Size
from studies.records import Record, rounded
from studies.synthetic import tasks
from studies.synthetic.design import Experiment
from studies.training import Params, Recipe, Rows

NUM_TASKS, LENGTH, ALPHABET = 16, 6, 8
TRAIN_ROWS, TEST_ROWS = 256, 128  # of each task
BATCH = 64
TEST_SEED = 10**6
SIZE = Size(width=8, encoder_layers=2, decoder_layers=2, extra_parameters=5248)
TASK_LIST = tuple(f'task_{i}' for i in range(NUM_TASKS))


def run(experiment: Experiment) -> Record:
  """Trains and scores a network, or one for each task."""
  start = time.monotonic()
  model = networks.model(
    SIZE,
    tasks.vocabulary_size(ALPHABET, NUM_TASKS),
    TASK_LIST,
    experiment.method,
    experiment.budget,
  )
  shape = (NUM_TASKS, LENGTH, ALPHABET)
  train = tasks.rows(shape, TRAIN_ROWS, experiment.seed)
  test = tasks.rows(shape, TEST_ROWS, TEST_SEED)
  alone = experiment.method == 'single_task'
  companies = [[task] for task in range(NUM_TASKS)] if alone else [range(NUM_TASKS)]
  recipe = Recipe(experiment.rate, experiment.steps, BATCH // len(companies))
  order = np.stack(
    [
      training.epochs(np.flatnonzero(np.isin(train['task_ids'][:, 0], company)), recipe, s)
      for s, company in enumerate(companies, start=experiment.seed * NUM_TASKS)
    ]
  )
  keys = jax.random.split(jax.random.key(experiment.seed), len(companies))
  copies = lambda x: np.broadcast_to(x, (len(companies), *x.shape))
  curve = []

  def look(_: int, params: Params) -> None:
    curve.append(_of_own_tasks(_right(model, params, test), test, companies))

  params = training.train(
    model,
    jax.vmap(model.init)(keys),
    {name: copies(value) for name, value in train.items()},
    order,
    copies(recipe.rates()),
    look,
  )
  fitted = _of_own_tasks(_right(model, params, train), train, companies)
  sizes = networks.parameters(model)
  sizes['parameters'] *= len(companies)
  return {
    'experiment': dataclasses.asdict(experiment),
    **sizes,
    'tokens': round(100 * float(curve[-1].mean()), 3),
    'tokens_of_tasks': rounded(100 * curve[-1].mean((1, 2)), 2),
    'tokens_curve': [round(100 * float(right.mean()), 2) for right in curve],
    'exact_match': round(100 * float(curve[-1].all(-1).mean()), 3),
    'train_tokens': round(100 * float(fitted.mean()), 3),
    'seconds': round(time.monotonic() - start, 1),
  }


@functools.partial(jax.jit, static_argnums=0)
def _right(model: Model, params: Params, rows: Rows) -> jax.Array:
  """Tells which targets are right, given those before: `[replicas, rows, LENGTH]`."""

  def of_replica(params: Params) -> jax.Array:
    logits = model.logits(params, rows)
    right = jnp.argmax(logits, axis=-1) == rows['decoder_target_tokens']
    return right[:, :LENGTH]

  return jax.vmap(of_replica)(params)


def _of_own_tasks(right: jax.Array, rows: Rows, companies: list) -> np.ndarray:
  """By task, of the replica that is trained on it: `[tasks, rows, LENGTH]`."""
  right, task_of_row = np.asarray(right), rows['task_ids'][:, 0]
  return np.stack(
    [
      right[replica][task_of_row == task]
      for replica, company in enumerate(companies)
      for task in company
    ]
  )
