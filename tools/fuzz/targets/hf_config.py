"""Hugging Face's `config.json`, beside valid weights."""

import pathlib

import numpy as np
from safetensors.numpy import save_file

from hyperprompt_jax.checkpoints.formats import huggingface, huggingface_config
from hyperprompt_jax.checkpoints.source import open_source
from tools.fuzz.case import Target

_GOLDEN = pathlib.Path(__file__).parents[3] / 'tests' / 'golden' / 'huggingface'
SEEDS = tuple(path.read_bytes() for path in sorted(_GOLDEN.glob('*/config.json')))
# One array of each layer that the seeds have.
WEIGHTS = {
  f'{side}.block.{number}.layer.0.layer_norm.weight': np.ones(2, 'f4')
  for side in ('encoder', 'decoder')
  for number in range(3)
}


def _run(case: bytes, folder: pathlib.Path) -> None:
  weights = folder / huggingface.WEIGHTS_FILE
  if not weights.exists():
    save_file(WEIGHTS, weights)
  (folder / huggingface_config.CONFIG_FILE).write_bytes(case)
  source = open_source(str(folder))
  assert source.config is not None
  source.check_depth(source.config)


TARGET = Target(SEEDS, _run, is_json=True)
