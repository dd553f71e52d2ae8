"""The runs of study A."""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.demonstration import conflict, side_by_side
from hyperprompt_jax.demonstration.side_by_side import Params, Recipe, Rows
from hyperprompt_jax.model import Model
from studies import networks
from studies.networks import Size
from studies.records import Record, rounded
from studies.synthetic.design import Experiment

NUM_TASKS, LENGTH, ALPHABET = 16, 6, 8
TRAIN_ROWS, TEST_ROWS = 256, 128  # of each task
BATCH = 64
TEST_SEED = 10**6
SIZE = Size(width=8, encoder_layers=2, decoder_layers=2, extra_parameters=5248)
SHAPE = (NUM_TASKS, LENGTH, ALPHABET)
TASK_LIST = tuple(f'task_{i}' for i in range(NUM_TASKS))


def run(experiments: Sequence[Experiment]) -> list[Record]:
  """Trains and scores the networks of several runs side by side.

  Args:
    experiments: are runs of one `design.program`, which differ in seed and rate only.

  Returns:
    A record for each run.
  """
  start = time.monotonic()
  first = experiments[0]
  model = networks.model(
    SIZE,
    conflict.vocabulary_size(ALPHABET, NUM_TASKS),
    TASK_LIST,
    first.method,
    first.budget,
  )
  alone = first.method == 'single_task'
  companies = [[task] for task in range(NUM_TASKS)] if alone else [[*range(NUM_TASKS)]]
  runs = [_Run(experiment, companies) for experiment in experiments]
  test = conflict.rows(SHAPE, TEST_ROWS, TEST_SEED)
  size = len(companies)
  replicas = lambda *x: np.repeat(np.stack(x), size, axis=0)
  train = jax.tree.map(replicas, *[run.rows for run in runs])
  curve = []

  def look(_: int, params: Params) -> None:
    curve.append(side_by_side.right_symbols_of_replicas(model, params, test))

  params = side_by_side.train(
    model,
    jax.vmap(model.init)(jnp.concatenate([run.keys for run in runs])),
    train,
    np.concatenate([run.order for run in runs]),
    replicas(*[run.rates for run in runs]),
    look,
  )
  fitted = np.asarray(_right_of_own_rows(model, params, train))
  sizes = networks.parameters(model)
  sizes['parameters'] *= size
  seconds = round((time.monotonic() - start) / len(runs), 1)
  return [
    {
      'experiment': dataclasses.asdict(run.experiment),
      **sizes,
      **_scores(
        [_of_own_tasks(right[part], test, companies) for right in curve],
        _of_own_tasks(fitted[part], run.rows, companies),
      ),
      'seconds': seconds,
    }
    for run, part in ((r, slice(i * size, (i + 1) * size)) for i, r in enumerate(runs))
  ]


class _Run:
  """Rows, order and rates of one run, whose single tasks have a replica each."""

  def __init__(self, experiment: Experiment, companies: list[list[int]]):
    rows = conflict.rows(SHAPE, TRAIN_ROWS, experiment.seed)
    recipe = Recipe(experiment.rate, experiment.steps, BATCH // len(companies))
    own = [np.flatnonzero(np.isin(rows['task_ids'][:, 0], names)) for names in companies]
    self.experiment = experiment
    self.keys = jax.random.split(jax.random.key(experiment.seed), len(companies))
    self.rows = rows
    self.rates = recipe.rates()
    self.order = np.stack(
      [
        side_by_side.epochs(numbers, recipe, seed)
        for seed, numbers in enumerate(own, start=experiment.seed * NUM_TASKS)
      ]
    )


def _scores(curve: list[np.ndarray], fitted: np.ndarray) -> Record:
  """The endpoints of a run, in percent.

  Args:
    curve: tells which test symbols are right after each part of the training, each
      `[tasks, rows, LENGTH]`.
    fitted: tells the same of the training rows at the end.
  """
  return {
    'tokens': round(100 * float(curve[-1].mean()), 3),
    'tokens_of_tasks': rounded(100 * curve[-1].mean((1, 2)), 2),
    'tokens_curve': [round(100 * float(right.mean()), 2) for right in curve],
    'exact_match': round(100 * float(curve[-1].all(-1).mean()), 3),
    'train_tokens': round(100 * float(fitted.mean()), 3),
  }


@functools.partial(jax.jit, static_argnums=0)
def _right_of_own_rows(model: Model, params: Params, rows: Rows) -> jax.Array:
  """Tells which symbols of its own rows each replica has right."""
  right = lambda both: side_by_side.right_symbols(model, *both)
  return jax.lax.map(right, (params, rows))


def _of_own_tasks(right: np.ndarray, rows: Rows, companies: list) -> np.ndarray:
  """Returns the entries of each task's own replica, `[tasks, rows, LENGTH]`."""
  task_of_row = rows['task_ids'][:, 0]
  return np.stack(
    [
      right[replica][task_of_row == task]
      for replica, company in enumerate(companies)
      for task in company
    ]
  )
