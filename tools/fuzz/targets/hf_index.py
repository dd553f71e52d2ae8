"""Hugging Face's index of shards."""

import pathlib
import shutil

from hyperprompt_jax.checkpoints.formats import huggingface, huggingface_config
from hyperprompt_jax.checkpoints.source import open_source
from tools.fuzz.case import Target

_GOLDEN = pathlib.Path(__file__).parents[3] / 'tests' / 'golden' / 'huggingface' / 'flan'
SEEDS = ((_GOLDEN / huggingface.INDEX_FILE).read_bytes(),)


def _run(case: bytes, folder: pathlib.Path) -> None:
  if not (folder / huggingface_config.CONFIG_FILE).exists():
    shutil.copytree(_GOLDEN, folder, dirs_exist_ok=True)
  (folder / huggingface.INDEX_FILE).write_bytes(case)
  for array in open_source(str(folder)).arrays.values():
    array.read()


WORDS = (b'model-00001-of-00002.safetensors', b'"weight_map"', b'../model.safetensors')
TARGET = Target(SEEDS, _run, WORDS, is_json=True)
