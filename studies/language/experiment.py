"""The runs of study C: a pretrained backbone is tuned on twelve tasks by one method."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import serialization
from sklearn import metrics

from hyperprompt_jax.demonstration import side_by_side
from hyperprompt_jax.demonstration.side_by_side import Params, Recipe, Rows
from hyperprompt_jax.model import Model
from hyperprompt_jax.runtime import files
from studies import networks
from studies.language import data
from studies.language.design import PRETRAINING_RATE, PRETRAINING_STEPS, STEPS, Experiment
from studies.networks import Size
from studies.records import Record, rounded

SIZE = Size(
  width=64, encoder_layers=2, decoder_layers=1, extra_parameters=23_040, prompt_length=6
)
SPANS, HELD_OUT_SPANS, HELD_OUT_SEED = 40_000, 512, 10**6
BATCH = 64
SINGLE_TASK_BATCH = 6  # 9,600 rows of its task, as many as a large task has in the mixture
BACKBONES = pathlib.Path('~/.cache/hyperprompt_studies/language').expanduser()


def run(experiments: Sequence[Experiment]) -> list[Record]:
  """Tunes and scores the networks of several runs side by side.

  Args:
    experiments: are runs of one `design.program`, which differ in rate and seed only.

  Returns:
    A record for each run.
  """
  start = time.monotonic()
  method = experiments[0].method
  network, groups = model(method), _groups(method)
  params = tuned(experiments)
  sizes = networks.parameters(network)
  sizes['parameters'] *= len(groups)
  new: list[Record] = [
    {
      'experiment': dataclasses.asdict(experiment),
      **sizes,
      'right_spans': _right_spans(*backbones([experiment.seed])),
      **_scores(network, params[len(groups) * i : len(groups) * (i + 1)], groups),
    }
    for i, experiment in enumerate(experiments)
  ]
  seconds = round((time.monotonic() - start) / len(new), 1)
  return [{**record, 'seconds': seconds} for record in new]


def tuned(experiments: Sequence[Experiment]) -> list[Params]:
  """Tunes the networks of several runs side by side.

  Args:
    experiments: are runs of one `design.program`.

  Returns:
    The parameters of the networks of each run: of one, or of one for each task.
  """
  method = experiments[0].method
  network, groups = model(method), _groups(method)
  train = data.rows('train')
  starts, orders, rates = [], [], []
  pretrained = backbones([experiment.seed for experiment in experiments])
  for experiment, backbone in zip(experiments, pretrained, strict=True):
    recipe = Recipe(
      experiment.rate, STEPS, BATCH if len(groups) == 1 else SINGLE_TASK_BATCH
    )
    starts += [network.init_from(jax.random.key(experiment.seed), backbone)] * len(groups)
    rates += [recipe.rates()] * len(groups)
    orders += [
      side_by_side.epochs(_rows_of(train, tasks), recipe, experiment.seed * 100 + tasks[0])
      for tasks in groups
    ]
  return _train(network, starts, [train] * len(starts), orders, rates)


@functools.cache
def model(method: str) -> Model:
  """The network of a method; that of plain multi-task training is the backbone's, too."""
  return networks.model(SIZE, data.vocabulary_size(), data.TASKS, method, networks.MATCHED)


def _groups(method: str) -> list[list[int]]:
  """The tasks of each network of a run."""
  tasks = range(len(data.TASKS))
  return [[task] for task in tasks] if method == 'single_task' else [[*tasks]]


def _rows_of(rows: Rows, tasks: list[int]) -> np.ndarray:
  """The numbers of the rows of some tasks."""
  return np.flatnonzero(np.isin(rows['task_ids'][:, 0], tasks))


def backbones(seeds: Sequence[int]) -> list[Params]:
  """Networks that are pretrained by span corruption, each from its own seed.

  They are kept in a folder of the user's, so that the methods share them.
  """
  plain = model('mtl')
  missing = [seed for seed in dict.fromkeys(seeds) if not _path(seed).exists()]
  if missing:
    recipe = Recipe(PRETRAINING_RATE, PRETRAINING_STEPS, BATCH)
    pretrained = _train(
      plain,
      [plain.init(jax.random.key(seed)) for seed in missing],
      [data.spans(seed, SPANS) for seed in missing],
      [side_by_side.epochs(np.arange(SPANS), recipe, seed) for seed in missing],
      [recipe.rates()] * len(missing),
    )
    BACKBONES.mkdir(parents=True, exist_ok=True)
    for seed, params in zip(missing, pretrained, strict=True):
      files.write_whole(epath.Path(_path(seed)), serialization.to_bytes(params))
  shapes = plain.param_shapes()
  return [serialization.from_bytes(shapes, _path(seed).read_bytes()) for seed in seeds]


def _path(seed: int) -> pathlib.Path:
  return BACKBONES / f'{seed}.msgpack'


def _train(
  network: Model,
  starts: list[Params],
  rows: list[Rows],
  orders: list[np.ndarray],
  rates: list[np.ndarray],
) -> list[Params]:
  """Trains networks side by side; each has its own start, rows, order and rates."""
  stacked = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)
  trained = side_by_side.train(
    network,
    stacked(starts),
    stacked(rows),
    np.stack(orders),
    np.stack(rates),
    lambda *_: None,
    looks=1,
  )
  return [
    jax.tree.map(lambda x, i=i: np.asarray(x[i]), trained) for i in range(len(starts))
  ]


def _right_spans(backbone: Params) -> float:
  """The share of the tokens of unseen spans that a backbone has right, in percent."""
  rows = jax.device_put(data.spans(HELD_OUT_SEED, HELD_OUT_SPANS))
  _, sums = model('mtl').loss(backbone, rows, None)
  return round(100 * float(sums['correct'] / sums['tokens']), 1)


def _scores(network: Model, tuned: list[Params], groups: list[list[int]]) -> Record:
  """The endpoints of a run on the validation rows.

  Args:
    network: is the network.
    tuned: are the parameters of each group's network.
    groups: are the tasks of each.
  """
  validation = data.rows('validation')
  gold = validation['decoder_target_tokens'][:, 0]
  task_of_row = validation['task_ids'][:, 0]
  logits = np.zeros((len(gold), data.vocabulary_size()), np.float32)
  numbers = [_rows_of(validation, tasks) for tasks in groups]
  most = max(map(len, numbers))
  for params, own in zip(tuned, numbers, strict=True):
    repeated = np.resize(own, most)  # so that one program fits all
    batch = {name: value[repeated] for name, value in validation.items()}
    logits[own] = np.asarray(_first_logits(network, params, batch))[: len(own)]
  accuracies, f1, majorities = [], [], []
  for task, name in enumerate(data.TASKS):
    labels = np.array(data.labels_of(name))
    own = task_of_row == task
    predicted = labels[np.argmax(logits[own][:, labels], axis=1)]
    accuracies.append(100 * float(np.mean(predicted == gold[own])))
    f1.append(100 * float(metrics.f1_score(gold[own], predicted, average='macro')))
    majorities.append(100 * float(np.bincount(gold[own]).max() / own.sum()))
  return {
    'average': round(float(np.mean(accuracies)), 3),
    'average_f1': round(float(np.mean(f1)), 3),
    'majority': round(float(np.mean(majorities)), 3),
    'accuracies': rounded(accuracies, 2),
    'majorities': rounded(majorities, 2),
  }


@functools.partial(jax.jit, static_argnums=0)
def _first_logits(network: Model, params: Params, rows: Any) -> jax.Array:
  """Logits of the first target, which is the label, `[rows, V]`."""
  return network.logits(params, rows)[:, 0]
