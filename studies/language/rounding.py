"""Compares a network of study C with its exports to ONNX Runtime, in float32 and int8.

    STUDY_TEXT_DIR=… python -m studies.language.rounding

A network with HyperPrompt-Global is tuned on the twelve tasks, at its tuned rate, and then
answers 2,048 rows of validation. Prints one JSON object.
"""

import functools
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.onnx import folder
from hyperprompt_jax.onnx.engine import OnnxEngine
from hyperprompt_jax.onnx.network import Network
from studies import records
from studies.language import data, experiment
from studies.language.design import SEEDS, Experiment, tuned_rate

METHOD, ROWS, BATCH = 'global', 2048, 64


def main() -> None:
  """Tunes, exports and compares."""
  model = experiment.model(METHOD)
  rate = tuned_rate(records.read(records.path('language')), METHOD)
  assert rate is not None  # its results are in the repository
  (params,) = experiment.tuned([Experiment(METHOD, rate, SEEDS[0])])
  network = Network.from_params(model, params)
  rows = data.rows('validation')
  chosen = np.random.default_rng(0).permutation(len(rows['task_ids']))[:ROWS]
  batches = [
    {name: np.asarray(values)[part] for name, values in rows.items()}
    for part in np.split(chosen, ROWS // BATCH)
  ]
  score = functools.partial(jax.jit(model.score), params, network.conditioning)
  scores = np.concatenate([np.asarray(score(batch)) for batch in batches])
  float32, int8 = (_computed(network, batches, int8=int8) for int8 in (False, True))
  targets = np.concatenate([batch['decoder_target_tokens'] for batch in batches])
  right = lambda results: round(100 * float((results[1] == targets).all(1).mean()), 1)
  report = {
    'largest difference of scores, float32': float(np.abs(float32[0] - scores).max()),
    'sum of scores, int8 / float32': float(int8[0].sum() / float32[0].sum()),
    'log likelihood of answers, int8 / float32': float(int8[2].sum() / float32[2].sum()),
    'equal answers, percent': round(100 * float((int8[1] == float32[1]).all(1).mean()), 1),
    'right answers, percent': {'float32': right(float32), 'int8': right(int8)},
  }
  print(json.dumps(report, indent=1))


def _computed(network: Network, batches: list[Any], *, int8: bool) -> list[np.ndarray]:
  """Returns scores `[B]`, answers `[B, Q]` and their log likelihoods `[B]`."""
  with tempfile.TemporaryDirectory() as place:
    folder.write(pathlib.Path(place), network, int8=int8)
    config = network.config
    engine = OnnxEngine(place, config.eos_id, config.num_decoder_layers)
    results = []
    for batch in batches:
      length, places = batch['decoder_target_tokens'].shape[1], np.zeros(BATCH, np.int64)
      tokens, likelihoods = engine.generate(batch, Generation(), length, places)
      results.append((engine.score(batch), tokens[:, 0, :length], likelihoods[:, 0]))
  return [np.concatenate(column) for column in zip(*results, strict=True)]


if __name__ == '__main__':
  main()
