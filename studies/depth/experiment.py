"""One run of study B: a backbone is pretrained, and tuned by each method."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.model import Model
from studies import networks, training
from studies.depth.design import (
  METHODS,
  PRETRAINING_RATE,
  PRETRAINING_STEPS,
  STEPS,
  Experiment,
)
from studies.networks import Size
from studies.records import Record, rounded
from studies.synthetic import tasks
from studies.training import Params, Recipe

SHAPE = (16, 6, 8)  # tasks, length, symbols
OTHER, TUNED = 1, 0  # families of tasks
ROWS, TEST_ROWS, LOOKED_AT = 256, 128, 100
BATCH, TEST_SEED = 64, 10**6
SIZE = Size(width=16, encoder_layers=6, decoder_layers=2, extra_parameters=12_000)
TASK_LIST = tuple(f'task_{i}' for i in range(SHAPE[0]))


def run(experiment: Experiment) -> Record:
  """Pretrains on other tasks than those that are tuned; looks at attention thereafter."""
  start = time.monotonic()
  seed = experiment.backbone
  plain = _model('mtl')
  backbone = plain.init(jax.random.key(seed))
  pretraining = Recipe(PRETRAINING_RATE, PRETRAINING_STEPS, BATCH)
  backbone = _train(plain, backbone, OTHER, pretraining, seed)
  record: Record = {
    'experiment': dataclasses.asdict(experiment),
    'pretrained_tokens': _score(plain, backbone, OTHER),
    'backbone': _attention(plain, backbone),
  }
  for method, rate in zip(METHODS, experiment.rates, strict=True):
    model = _model(method)
    params = model.init_from(jax.random.key(seed + 1), backbone)
    first = _attention(model, params)
    params = _train(model, params, TUNED, Recipe(rate, STEPS, BATCH), seed + 100)
    record[method] = {
      **networks.parameters(model),
      'tokens': _score(model, params, TUNED),
      'start': first,
      'end': _attention(model, params),
    }
  return {**record, 'seconds': round(time.monotonic() - start, 1)}


@functools.cache
def _model(method: str) -> Model:
  vocab_size = tasks.vocabulary_size(SHAPE[2], 2 * SHAPE[0])
  return networks.model(SIZE, vocab_size, TASK_LIST, method, networks.MATCHED)


def _train(model: Model, params: Params, family: int, recipe: Recipe, seed: int) -> Params:
  rows = tasks.rows(SHAPE, ROWS, seed, family)
  order = training.epochs(np.arange(len(rows['task_ids'])), recipe, seed)
  alone = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  trained = training.train(
    model, alone(params), alone(rows), order[None], recipe.rates()[None], _pass, looks=1
  )
  return jax.tree.map(lambda x: x[0], trained)


def _pass(*_: Any) -> None:
  """Looks at nothing."""


def _score(model: Model, params: Params, family: int) -> float:
  """The share of right tokens on unseen strings, in percent."""
  rows = tasks.rows(SHAPE, TEST_ROWS, TEST_SEED, family)
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
  rows = tasks.rows(SHAPE, TEST_ROWS, TEST_SEED, TUNED)
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
