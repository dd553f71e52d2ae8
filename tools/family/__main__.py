"""Compares every class of the T5 family with Transformers, in both directions.

    python -m tools.family --output=tools/results/family.json

It needs torch 2.13.0 and transformers 5.23.0. For each class, a small random model that
Transformers has saved is loaded here, converted to T5X and back to Hugging Face, and loaded
by Transformers again. Logits and greedy generations are compared at each end.
"""

import argparse
import functools
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
import torch
import transformers

from hyperprompt_jax.checkpoints.convert import convert
from hyperprompt_jax.checkpoints.initial import open_for
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import InitialCheckpoint
from hyperprompt_jax.training.train_step import abstract_params
from tools.family import networks

TOLERANCE = 1e-4


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model: Model, params: Any, inputs: Any, decoder_inputs: Any) -> Any:
  """Logits by teacher forcing, and the tokens of greedy decoding."""
  task_ids = jax.numpy.zeros((len(inputs), 1), int)
  logits = model.module.apply(
    {'params': params},
    inputs,
    decoder_inputs,
    jax.numpy.ones_like(decoder_inputs),
    task_ids,
    enable_dropout=False,
  )
  rows = {'encoder_input_tokens': inputs, 'task_ids': task_ids}
  tokens = model.predict(params, model.condition(params), rows, networks.LENGTH)
  return logits, tokens


def ours(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Returns the logits and the tokens of a checkpoint, by our network."""
  config = open_source(str(path)).backbone_config()
  model = Model(config, MultiTaskLearning(), ('task',))
  like = abstract_params(model, Partitioner())
  initial = open_for(InitialCheckpoint(str(path)), like)
  assert initial is not None
  logits, tokens = _outputs(model, initial.load(like), *networks.batch(config.vocab_size))
  return np.asarray(logits), np.asarray(tokens)


def difference(got: np.ndarray, want: np.ndarray) -> float:
  """Returns the largest difference, relative to the largest logit."""
  return float(np.abs(got - want).max() / np.abs(want).max())


def compare(network: networks.Network, folder: pathlib.Path, seed: int) -> dict[str, Any]:
  """Returns the differences for one network; greedy generations that differ are an error.

  Args:
    network: is the network.
    folder: is empty.
    seed: seeds the weights.
  """
  networks.save(network, folder / 'theirs', seed)
  want, want_tokens = networks.outputs(folder / 'theirs')
  got, tokens = ours(folder / 'theirs')
  native = convert(str(folder / 'theirs'), str(folder / 't5x'), 't5x')
  of_t5x, _ = ours(pathlib.Path(native['checkpoint']))
  convert(native['checkpoint'], str(folder / 'back'), 'huggingface')
  again, again_tokens = networks.outputs(folder / 'back')
  result: dict[str, Any] = {
    'here': difference(got, want / network.factor),
    't5x': difference(of_t5x, got),
    'back': difference(again, want),
    'generation': bool((tokens == want_tokens).all()),
    'generation_back': bool((again_tokens == want_tokens).all()),
    'lengths': sorted({int((row > 0).sum()) for row in want_tokens}),
  }
  result['holds'] = (
    result['generation']
    and result['generation_back']
    and max(result[name] for name in ('here', 't5x', 'back')) <= TOLERANCE
  )
  return result


def main() -> int:
  """Compares all networks, and writes the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', required=True, help='the JSON file to write')
  parser.add_argument('--only', help='compare one network')
  flags = parser.parse_args()
  transformers.logging.set_verbosity_error()
  output = pathlib.Path(flags.output)
  rows = json.loads(output.read_text())['classes'] if output.exists() else {}
  versions = {'torch': torch.__version__, 'transformers': transformers.__version__}
  for seed, (name, network) in enumerate(networks.NETWORKS.items()):
    if flags.only not in (None, name):
      continue
    with tempfile.TemporaryDirectory() as folder:
      rows[name] = compare(network, pathlib.Path(folder), seed)
    print(name, rows[name], flush=True)
    report = {'versions': versions, 'tolerance': TOLERANCE, 'classes': rows}
    output.write_text(json.dumps(report, indent=1) + '\n')
  return 0 if all(row['holds'] for row in rows.values()) else 1


if __name__ == '__main__':
  raise SystemExit(main())
