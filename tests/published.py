"""Small checkpoints in the formats that others publish; training starts from them."""

import dataclasses
import pathlib

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.formats import huggingface
from hyperprompt_jax.checkpoints.formats import t5x as t5x_format
from hyperprompt_jax.checkpoints.lazy import LazyArray, cast, in_memory
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.stacking import stack_layers
from tests import tiny

STEP = 1000
# The network of `models/tiny.gin` with `NETWORK`.
CONFIG = Config(
  vocab_size=384,
  emb_dim=16,
  num_heads=2,
  num_encoder_layers=2,
  num_decoder_layers=3,
  head_dim=4,
  mlp_dim=24,
  scan_layers=False,
)
NETWORK = {
  f'config.Config.{name}': getattr(CONFIG, name)
  for name in (
    'emb_dim',
    'num_heads',
    'num_encoder_layers',
    'num_decoder_layers',
    'head_dim',
    'mlp_dim',
  )
}


# Edits that turn the arrays of `CONFIG` into those of another network, and the line of the
# table that reports each.
DIFFERENCES = [
  (
    lambda a: a.pop('decoder/layers_1/mlp/wo/kernel'),
    'decoder/layers_1/mlp/wo/kernel: wanted [24, 16], found absent',
  ),
  (
    lambda a: a.update({'encoder/more/kernel': a['encoder/encoder_norm/scale']}),
    'encoder/more/kernel: wanted absent, found [16]',
  ),
  (
    lambda a: a.update(
      {'decoder/layers_1/mlp/wo/kernel': a['decoder/layers_1/mlp/wi_0/kernel']}
    ),
    'decoder/layers_1/mlp/wo/kernel: wanted [24, 16], found [16, 24]',
  ),
]


def arrays(config: Config = CONFIG, seed: int = 0) -> dict[str, LazyArray]:
  """Returns random parameters of a backbone, by path."""
  params = tiny.init(Model(config, tiny.mtl(), ('task',)), seed)
  return {path: in_memory(np.asarray(x)) for path, x in by_path(params).items()}


def values(lazy_arrays: dict[str, LazyArray]) -> dict[str, np.ndarray]:
  """Reads all arrays."""
  return {path: array.read() for path, array in lazy_arrays.items()}


def t5x(folder: pathlib.Path, contents=None, dtype='float32') -> pathlib.Path:
  """A native T5X checkpoint."""
  checkpoint = folder / f'checkpoint_{STEP}'
  checkpoint.mkdir(parents=True)
  contents = contents or arrays()
  saved = {path: cast(array, dtype) for path, array in contents.items()}
  assert list(t5x_format.write_native(checkpoint, saved, STEP)) == list(contents)
  return checkpoint


def t5x_orbax(folder: pathlib.Path, stacked: bool = False, **options) -> pathlib.Path:
  """The same checkpoint as T5X writes it with Orbax: the training state in one item."""
  flat = {tuple(path.split('/')): x for path, x in values(arrays()).items()}
  params = traverse_util.unflatten_dict(flat)
  state = {
    'target': stack_layers(params) if stacked else params,
    'state': {'step': np.int32(STEP), 'param_states': {'v': np.zeros(3)}},
  }
  checkpoint = folder / f'checkpoint_{STEP}'
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
    checkpointer.save(checkpoint / 'state', state)
  return checkpoint


def hugging_face(folder: pathlib.Path, config: Config = CONFIG) -> pathlib.Path:
  """A Hugging Face folder with the same parameters."""
  folder.mkdir(parents=True)
  contents = arrays(dataclasses.replace(config, scan_layers=False))
  assert set(huggingface.write(folder, contents, config)) == set(contents)
  return folder


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
  """Compares arrays to the byte."""
  assert got.keys() == want.keys()
  for path, array in want.items():
    assert got[path].dtype == array.dtype, path
    assert got[path].tobytes() == array.tobytes(), path
