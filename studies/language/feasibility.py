"""Looks for a set-up in which plain multi-task training learns, for study C.

    STUDY_TEXT_DIR=/path/to/tasks python -m studies.language.feasibility --rate=1e-3

It pretrains a small T5 by span corruption, tunes it on twelve tasks together, and adds a
line to feasibility.jsonl: each task's accuracy beside that of its most frequent label.
"""

import argparse
import dataclasses
import os
import pathlib
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false'

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.demonstration import side_by_side
from hyperprompt_jax.demonstration.side_by_side import Params, Recipe, Rows
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from studies import records
from studies.language import data
from studies.networks import Size

PATH = pathlib.Path(__file__).parent / 'feasibility.jsonl'
SPANS, HELD_OUT_SPANS = 40_000, 512
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Trial:
  """A set-up.

  Attributes:
    width: Is d.
    encoder_layers: Counts the layers of the encoder.
    decoder_layers: Counts the layers of the decoder.
    pretraining_steps: Counts the steps of span corruption; 0 for a random start.
    pretraining_rate: Is the highest rate of pretraining.
    steps: Counts the steps of tuning.
    rate: Is the highest rate of tuning.
    seed: Gives initialisation, spans and order.
  """

  width: int = 64
  encoder_layers: int = 2
  decoder_layers: int = 1
  pretraining_steps: int = 1600
  pretraining_rate: float = 3e-3
  steps: int = 1600
  rate: float = 1e-3
  seed: int = 0

  def model(self) -> Model:
    """The network of plain multi-task training."""
    size = Size(self.width, self.encoder_layers, self.decoder_layers, extra_parameters=0)
    config = size.config(data.vocabulary_size())
    return Model(config, MultiTaskLearning(), data.TASKS, z_loss=0.0)


def run(trial: Trial) -> records.Record:
  """Pretrains, tunes and scores."""
  start = time.process_time()
  model = trial.model()
  params = model.init(jax.random.key(trial.seed))
  spans_right = None
  if trial.pretraining_steps:
    spans = data.spans(trial.seed, SPANS)
    recipe = Recipe(trial.pretraining_rate, trial.pretraining_steps, BATCH)
    params = _train(model, params, spans, recipe, trial.seed)
    spans_right = _spans_right(model, params)
  recipe = Recipe(trial.rate, trial.steps, BATCH)
  params = _train(model, params, data.rows('train'), recipe, trial.seed)
  accuracies, majorities = _accuracies(model, params)
  return {
    'trial': dataclasses.asdict(trial),
    'spans_right': spans_right,
    'average': round(float(np.mean(accuracies)), 2),
    'majority': round(float(np.mean(majorities)), 2),
    'tasks': dict(zip(data.TASKS, records.rounded(accuracies, 1), strict=True)),
    'majorities': dict(zip(data.TASKS, records.rounded(majorities, 1), strict=True)),
    'cpu_seconds': round(time.process_time() - start),
  }


def _train(model: Model, params: Params, rows: Rows, recipe: Recipe, seed: int) -> Params:
  order = side_by_side.epochs(np.arange(len(rows['task_ids'])), recipe, seed)
  alone = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)

  def look(step: int, _: Params) -> None:
    print(f'step {step} of {recipe.steps}', flush=True)

  trained = side_by_side.train(
    model, alone(params), alone(rows), order[None], recipe.rates()[None], look
  )
  return jax.tree.map(lambda x: x[0], trained)


def _spans_right(model: Model, params: Params) -> float:
  """The share of the tokens of unseen spans that are right, in percent."""
  held_out = data.spans(10**6, HELD_OUT_SPANS)
  _, sums = model.loss(params, held_out, None)
  return round(100 * float(sums['correct'] / sums['tokens']), 1)


def _accuracies(model: Model, params: Params) -> tuple[list[float], list[float]]:
  """Accuracy and that of the most frequent label, of each task, in percent."""
  validation = data.rows('validation')
  logits = np.asarray(model.logits(params, validation))[:, 0]
  gold = validation['decoder_target_tokens'][:, 0]
  accuracies, majorities = [], []
  for index, name in enumerate(data.TASKS):
    own = validation['task_ids'][:, 0] == index
    labels = np.array(data.labels_of(name))
    predicted = labels[np.argmax(logits[own][:, labels], axis=1)]
    accuracies.append(100 * float(np.mean(predicted == gold[own])))
    majorities.append(100 * float(np.bincount(gold[own]).max() / own.sum()))
  return accuracies, majorities


def main() -> None:
  """Runs one trial."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for field in dataclasses.fields(Trial):
    parser.add_argument(f'--{field.name}', type=type(field.default), default=field.default)
  record = run(Trial(**vars(parser.parse_args())))
  records.add(PATH, [record])
  print(record)


if __name__ == '__main__':
  main()
