"""The runs of study B: a backbone is pretrained, and tuned by each method."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hyperprompt_jax.demonstration import conflict, side_by_side
from hyperprompt_jax.demonstration.side_by_side import Params, Recipe
from hyperprompt_jax.model import Model
from studies import networks
from studies.depth.design import (
  METHODS,
  PRETRAINING_RATE,
  PRETRAINING_STEPS,
  STEPS,
  Experiment,
)
from studies.networks import Size
from studies.records import Record, rounded

SHAPE = (16, 6, 8)  # tasks, length, symbols
OTHER, TUNED = 1, 0  # families of tasks
ROWS, TEST_ROWS, LOOKED_AT = 256, 128, 100
BATCH, TEST_SEED = 64, 10**6
SIZE = Size(width=16, encoder_layers=6, decoder_layers=2, extra_parameters=12_000)
TASK_LIST = tuple(f'task_{i}' for i in range(SHAPE[0]))


def run(experiments: Sequence[Experiment]) -> list[Record]:
  """Pretrains on other tasks than those that are tuned; looks at attention thereafter.

  Args:
    experiments: are runs of one `design.program`, which differ in their backbone only.

  Returns:
    A record for each run.
  """
  start = time.monotonic()
  seeds = [experiment.backbone for experiment in experiments]
  plain = _model('mtl')
  pretraining = Recipe(PRETRAINING_RATE, PRETRAINING_STEPS, BATCH)
  backbones = [plain.init(jax.random.key(seed)) for seed in seeds]
  backbones = _train(plain, backbones, OTHER, pretraining, seeds)
  new: list[Record] = [
    {
      'experiment': dataclasses.asdict(experiment),
      'pretrained_tokens': _score(plain, backbone, OTHER),
      'backbone': _attention(plain, backbone),
    }
    for experiment, backbone in zip(experiments, backbones, strict=True)
  ]
  for method, rate in zip(METHODS, experiments[0].rates, strict=True):
    model = _model(method)
    pairs = zip(seeds, backbones, strict=True)
    first = [model.init_from(jax.random.key(seed + 1), params) for seed, params in pairs]
    order_seeds = [seed + 100 for seed in seeds]
    last = _train(model, first, TUNED, Recipe(rate, STEPS, BATCH), order_seeds)
    for record, before, after in zip(new, first, last, strict=True):
      record[method] = {
        **networks.parameters(model),
        'tokens': _score(model, after, TUNED),
        'start': _attention(model, before),
        'end': _attention(model, after),
      }
  seconds = round((time.monotonic() - start) / len(new), 1)
  return [{**record, 'seconds': seconds} for record in new]


@functools.cache
def _model(method: str) -> Model:
  vocab_size = conflict.vocabulary_size(SHAPE[2], 2 * SHAPE[0])
  return networks.model(SIZE, vocab_size, TASK_LIST, method, networks.MATCHED)


def _train(
  model: Model, params: list[Params], family: int, recipe: Recipe, seeds: list[int]
) -> list[Params]:
  """Trains networks side by side, each on strings and in an order of its own seed."""
  rows = [conflict.rows(SHAPE, ROWS, seed, family) for seed in seeds]
  order = [
    side_by_side.epochs(np.arange(len(own['task_ids'])), recipe, seed)
    for own, seed in zip(rows, seeds, strict=True)
  ]
  stacked = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)
  rates = np.stack([recipe.rates()] * len(seeds))
  trained = side_by_side.train(
    model, stacked(params), stacked(rows), np.stack(order), rates, _pass, looks=1
  )
  return [jax.tree.map(lambda x, i=i: x[i], trained) for i in range(len(seeds))]


def _pass(*_: Any) -> None:
  """Looks at nothing."""


def _score(model: Model, params: Params, family: int) -> float:
  """The share of right tokens on unseen strings, in percent."""
  rows = conflict.rows(SHAPE, TEST_ROWS, TEST_SEED, family)
  logits = _logits(model, params, rows)
  right = np.argmax(logits, axis=-1) == rows['decoder_target_tokens']
  return round(100 * float(right[:, : SHAPE[1]].mean()), 3)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Params, rows: Any) -> jax.Array:
  return model.logits(params, rows)


def _attention(model: Model, params: Params) -> dict[str, list[float]]:
  """Mass on prompts and entropy over tokens of each encoder layer.

  They are means over heads and over 100 unseen rows, as many of each task as can be.
  """
  rows = conflict.rows(SHAPE, TEST_ROWS, TEST_SEED, TUNED)
  every = len(rows['task_ids']) // LOOKED_AT
  rows = {name: value[::every][:LOOKED_AT] for name, value in rows.items()}
  numbers = _statistics(model, params, rows)
  return {
    'mass': rounded(np.mean(numbers.prompt_mass, axis=(1, 2))),
    'entropy': rounded(np.mean(numbers.entropy, axis=(1, 2))),
  }


@functools.partial(jax.jit, static_argnums=0)
def _statistics(model: Model, params: Params, rows: Any) -> Any:
  return model.attention_statistics(params, model.condition(params), rows)
