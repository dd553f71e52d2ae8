"""Compares a network of study C with its int8: by XLA, and exported to ONNX Runtime.

    STUDY_TEXT_DIR=… python -m studies.language.rounding

A network with HyperPrompt-Global is tuned on the twelve tasks, at its tuned rate, and then
answers 2,048 rows of validation: by XLA with kernels in float32 and in int8 (8 bits), and
by ONNX Runtime in float32 and in int8 (7 bits, and activations in 8). Prints one JSON
object.
"""

import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.lazy import in_memory, unrolled
from hyperprompt_jax.checkpoints.source import Source
from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.inference.engine import Engine
from hyperprompt_jax.inference.loading import read_params
from hyperprompt_jax.inference.programs import Programs
from hyperprompt_jax.nn.int8 import FLOAT32, INT8
from hyperprompt_jax.onnx import folder
from hyperprompt_jax.onnx.engine import OnnxEngine
from hyperprompt_jax.onnx.network import Network
from studies import records
from studies.language import data, experiment
from studies.language.design import SEEDS, Experiment, tuned_rate

METHOD, ROWS, BATCH = 'global', 2048, 64
Results = list[np.ndarray]


def main() -> None:
  """Tunes, exports and compares."""
  model = experiment.model(METHOD)
  rate = tuned_rate(records.read(records.path('language')), METHOD)
  assert rate is not None  # its results are in the repository
  (params,) = experiment.tuned([Experiment(METHOD, rate, SEEDS[0])])
  network = Network.from_params(model, params)
  arrays = unrolled({path: in_memory(np.asarray(x)) for path, x in by_path(params).items()})
  source = Source('memory', 'study C', 0, arrays)
  rows = data.rows('validation')
  chosen = np.random.default_rng(0).permutation(len(rows['task_ids']))[:ROWS]
  batches = [
    {name: np.asarray(values)[part] for name, values in rows.items()}
    for part in np.split(chosen, ROWS // BATCH)
  ]
  by_xla = [
    _computed(Programs(model, read_params(model, source, None, weights), None), batches)
    for weights in (FLOAT32, INT8)
  ]
  exported = [_exported(network, batches, int8=int8) for int8 in (False, True)]
  targets = np.concatenate([batch['decoder_target_tokens'] for batch in batches])
  right = lambda results: round(100 * float((results[1] == targets).all(1).mean()), 1)

  def compared(float32: Results, int8: Results) -> dict[str, Any]:
    return {
      'sum of scores, int8 / float32': float(int8[0].sum() / float32[0].sum()),
      'log likelihood of answers, int8 / float32': float(int8[2].sum() / float32[2].sum()),
      'equal answers, percent': round(
        100 * float((int8[1] == float32[1]).all(1).mean()), 1
      ),
      'right answers, percent': {'float32': right(float32), 'int8': right(int8)},
    }

  difference = np.abs(exported[0][0] - by_xla[0][0]).max()
  report = {
    'largest difference of scores, XLA and ONNX in float32': float(difference),
    'XLA': compared(*by_xla),
    'ONNX Runtime': compared(*exported),
  }
  print(json.dumps(report, indent=1))


def _exported(network: Network, batches: list[Any], *, int8: bool) -> Results:
  """Computes with an export of a network."""
  with tempfile.TemporaryDirectory() as place:
    folder.write(pathlib.Path(place), network, int8=int8)
    config = network.config
    engine = OnnxEngine(place, config.eos_id, config.num_decoder_layers)
    return _computed(engine, batches)


def _computed(engine: Engine, batches: list[Any]) -> Results:
  """Returns scores `[B]`, answers `[B, Q]` and their log likelihoods `[B]`."""
  results = []
  for batch in batches:
    length, places = batch['decoder_target_tokens'].shape[1], np.zeros(BATCH, np.int64)
    tokens, likelihoods = engine.generate(batch, Generation(), length, places)
    results.append((engine.score(batch), tokens[:, 0, :length], likelihoods[:, 0]))
  return [np.concatenate(column) for column in zip(*results, strict=True)]


if __name__ == '__main__':
  main()
