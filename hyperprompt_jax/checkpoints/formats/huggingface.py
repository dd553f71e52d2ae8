"""Hugging Face's folders of T5 models: `config.json` and safetensors.

T5 1.0, T5 1.1, the LM-adapted and Flan-T5 have these names. A linear layer's weight is
`[out, in]` there and `[in, out]` here, so most arrays are transposed.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hyperprompt_jax.checkpoints.lazy import Index, LazyArray, transposed
from hyperprompt_jax.checkpoints.storage import (
  Folder,
  check_file,
  check_memory,
  check_name,
)
from hyperprompt_jax.errors import UserError, reason_of, shown
from hyperprompt_jax.nn.config import Config
from hyperprompt_tasks import plain_json

CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
PICKLE_FILES = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
# The most bytes of a JSON file; the index of a model of a thousand shards has a few MB.
_LARGEST_JSON = 2**26
# A shard is held in memory twice while it is written.
_SHARD_BYTES = 10**9

EMBEDDING = 'token_embedder/embedding'
OUTPUT_LAYER = 'decoder/logits_dense/kernel'

_TOP = {
  EMBEDDING: ('shared.weight', False),
  OUTPUT_LAYER: ('lm_head.weight', True),
  'encoder/encoder_norm/scale': ('encoder.final_layer_norm.weight', False),
  'decoder/decoder_norm/scale': ('decoder.final_layer_norm.weight', False),
  **{
    f'{side}/relpos_bias/rel_embedding': (
      f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      True,
    )
    for side in ('encoder', 'decoder')
  },
}
# What a layer has, in order: our modules' names and theirs, and the norm before.
_LAYERS = {
  'encoder': (
    ('attention', 'SelfAttention', 'pre_attention_layer_norm'),
    ('mlp', 'DenseReluDense', 'pre_mlp_layer_norm'),
  ),
  'decoder': (
    ('self_attention', 'SelfAttention', 'pre_self_attention_layer_norm'),
    ('encoder_decoder_attention', 'EncDecAttention', 'pre_cross_attention_layer_norm'),
    ('mlp', 'DenseReluDense', 'pre_mlp_layer_norm'),
  ),
}
_PROJECTIONS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
# Copies of `shared.weight`, and a bias that the first T5s were saved with and do not use.
_IGNORED = re.compile(
  r'(encoder|decoder)\.embed_tokens\.weight'
  r'|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight'
)
# What `feed_forward_proj` is for `Config.mlp_activations`. Their `gelu` is the exact one,
# which is not ours.
_FEED_FORWARD = {
  ('relu',): 'relu',
  ('gelu', 'linear'): 'gated-gelu',
  ('gelu',): 'gelu_new',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
}
_FIXED = {
  'layer_norm_epsilon': 1e-6,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
}


def their_name(path: str) -> tuple[str, bool]:
  """Returns the name of one of our parameters in a Hugging Face model.

  Args:
    path: is its path in the unrolled backbone.

  Returns:
    The name, and whether the array is transposed.
  """
  if path in _TOP:
    return _TOP[path]
  side, layer, module, *rest = path.split('/')
  block = f'{side}.block.{layer.removeprefix("layers_")}'
  for number, (ours, theirs, norm) in enumerate(_LAYERS[side]):
    if module == norm:
      return f'{block}.layer.{number}.layer_norm.weight', False
    if module == ours:
      name = _PROJECTIONS.get(rest[0], rest[0])
      return f'{block}.layer.{number}.{theirs}.{name}.weight', True
  raise KeyError(path)


def _our_path(name: str) -> tuple[str, bool]:
  """Inverts `their_name`; a name that T5 does not have is returned unchanged."""
  for path, (theirs, transpose) in _TOP.items():
    if name == theirs:
      return path, transpose
  match = re.fullmatch(
    r'(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(\w+)(?:\.(\w+))?\.weight', name
  )
  if match is None:
    return name, False
  side, block, number, module, projection = match.groups()
  if int(number) < len(_LAYERS[side]):
    ours, theirs, norm = _LAYERS[side][int(number)]
    if (module, projection) == ('layer_norm', None):
      return f'{side}/layers_{block}/{norm}/scale', False
    if module == theirs and projection:
      names = {short: long for long, short in _PROJECTIONS.items()}
      projection = names.get(projection, projection)
      return f'{side}/layers_{block}/{ours}/{projection}/kernel', True
  return name, False


def read(folder: Folder) -> tuple[dict[str, LazyArray], Config]:
  """Opens the parameters of a Hugging Face T5, by our paths, and its configuration.

  Raises:
    UserError: if it is a network that ours cannot be, or a file is missing or damaged.
  """
  if folder.is_remote:
    raise UserError(f'{folder}: safetensors are read from local folders: download it first')
  described = _read_json(pathlib.Path(folder.path) / CONFIG_FILE)
  weights = _open_files(pathlib.Path(folder.path))
  arrays = {}
  for name, array in weights.items():
    if not _IGNORED.fullmatch(name):
      path, transpose = _our_path(name)
      if path in arrays:
        raise UserError(f'{folder} has two arrays for {path}, of which one is {name}')
      arrays[path] = transposed(array) if transpose and len(array.shape) == 2 else array
  # Transformers 5 has an option for the scaling, which tying implied before.
  tied = described.get('tie_word_embeddings', True)
  scaled = described.get('scale_decoder_outputs', tied)
  if not isinstance(scaled, bool):
    raise UserError(
      f'{folder}/{CONFIG_FILE}: tie_word_embeddings and scale_decoder_outputs are true or '
      f'false, not {shown(scaled)}'
    )
  if scaled and OUTPUT_LAYER in arrays:
    if EMBEDDING in arrays and not _equal(arrays[OUTPUT_LAYER], arrays[EMBEDDING]):
      raise UserError(
        f'{folder}: {CONFIG_FILE} ties the output layer to the embedding, and the weights '
        'have two that differ: set "tie_word_embeddings": false in it if the model is '
        'T5 1.1 or Flan-T5'
      )
    del arrays[OUTPUT_LAYER]  # a copy of the embedding
  elif not scaled and OUTPUT_LAYER not in arrays and EMBEDDING in arrays:
    # transformers 5 saves no output layer that equals the embedding.
    arrays[OUTPUT_LAYER] = transposed(arrays[EMBEDDING])
  return arrays, _config(str(folder), described, tied=scaled)


def _equal(kernel: LazyArray, embedding: LazyArray) -> bool:
  return kernel.shape == embedding.shape[::-1] and np.array_equal(
    kernel.read().T, embedding.read()
  )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  check_file(str(path), _LARGEST_JSON)
  try:
    value = plain_json.parse(path.read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {reason_of(error)}') from error
  if not isinstance(value, dict):
    raise UserError(f'{path} holds no JSON object')
  return value


def _config(where: str, described: Mapping[str, Any], *, tied: bool) -> Config:
  kind = described.get('model_type')
  if kind not in ('t5', 'mt5'):
    raise UserError(f"{where} is of model_type {shown(kind)}; expected 't5' or 'mt5'")
  for name, only in _FIXED.items():
    if described.get(name, only) != only:
      raise UserError(
        f'{where}: {name} is {shown(described[name])}; only {only} is supported'
      )
  feed_forward = described.get('feed_forward_proj', 'relu')
  activations = next((a for a, name in _FEED_FORWARD.items() if name == feed_forward), None)
  if activations is None:
    raise UserError(
      f'{where}: feed_forward_proj {shown(feed_forward)} is not supported; it may be '
      f'{", ".join(_FEED_FORWARD.values())}'
    )
  layers = described.get('num_layers')
  decoder_layers = described.get('num_decoder_layers')
  sizes: Any = {
    'vocab_size': described.get('vocab_size'),
    'emb_dim': described.get('d_model'),
    'num_heads': described.get('num_heads'),
    'num_encoder_layers': layers,
    'num_decoder_layers': layers if decoder_layers is None else decoder_layers,
    'head_dim': described.get('d_kv'),
    'mlp_dim': described.get('d_ff'),
  }
  try:
    return Config(**sizes, mlp_activations=activations, logits_via_embedding=tied)
  except UserError as error:
    raise UserError(f'{where}/{CONFIG_FILE} does not describe a T5: {error}') from error


def _open_files(folder: pathlib.Path) -> dict[str, LazyArray]:
  """Opens all arrays of the folder's safetensors, sharded or not, by their own names."""
  index = folder / INDEX_FILE
  if (folder / WEIGHTS_FILE).exists():
    return _open_file(folder / WEIGHTS_FILE)
  if not index.exists():
    pickles = [name for name in PICKLE_FILES if (folder / name).is_file()]
    if pickles:
      raise UserError(
        f'{folder / pickles[0]} is not read, as unpickling it runs whatever code it holds: '
        'where you trust it, turn it into safetensors with '
        "transformers.T5ForConditionalGeneration.from_pretrained(…).save_pretrained('…')"
      )
    raise UserError(f'{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}')
  places = _read_json(index).get('weight_map')
  if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
    raise UserError(f'{index} has no weight_map of names to files')
  shards = {}
  for file in sorted(set(places.values())):
    check_name(str(index), file)
    if pathlib.PurePath(file).name != file:
      raise UserError(f'{index} names {file!r}, which is outside of its folder: not read')
    if not (folder / file).is_file():
      raise UserError(f'{folder / file} is missing, a shard of {index}: download it again')
    shards[file] = _open_file(folder / file)
  for name, file in places.items():
    check_name(str(index), name)
    if name not in shards[file]:
      raise UserError(f'{folder / file} lacks {name}, which {index} says is there')
  return {name: shards[file][name] for name, file in places.items()}


def _open_file(path: pathlib.Path) -> dict[str, LazyArray]:
  """Opens the arrays of one safetensors file."""
  check_file(str(path))
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      for name in slices:
        check_name(str(path), name)
      return {
        name: _lazy(path, name, tuple(part.get_shape()), part.get_dtype())
        for name, part in slices.items()
      }
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(
      f'{path} is damaged or incomplete: {reason_of(error)}; download it again'
    ) from error


def _lazy(path: pathlib.Path, name: str, shape: tuple[int, ...], dtype: str) -> LazyArray:
  if dtype not in _DTYPES:
    raise UserError(f'{path}: {name} is of dtype {dtype}; expected floats')

  def read(index: Index) -> np.ndarray:
    check_memory(f'{path}: {name}', math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize)
    # The file is mapped into memory: left open, everything read would stay there.
    with safetensors.safe_open(path, framework='numpy') as file:
      return file.get_slice(name)[index or ...]

  return LazyArray(shape, np.dtype(_DTYPES[dtype]), read)


_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'F64': 'float64'}


def write(
  folder: pathlib.Path, arrays: Mapping[str, LazyArray], config: Config
) -> Iterator[str]:
  """Writes a backbone as a folder that `transformers` loads.

  Args:
    folder: is empty.
    arrays: are keyed by their paths in the unrolled backbone.
    config: configures the network.

  Yields:
    The path of each array that is done.

  Raises:
    OSError: if the folder cannot be written, say because the disk is full.
  """
  shards: list[list[str]] = [[]]
  size = 0
  for path, array in arrays.items():
    if shards[-1] and size + array.nbytes > _SHARD_BYTES:
      shards.append([])
      size = 0
    shards[-1].append(path)
    size += array.nbytes
  places = {}
  for number, paths in enumerate(shards, 1):
    file = WEIGHTS_FILE
    if len(shards) > 1:
      file = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
    tensors = {}
    for path in paths:
      name, transpose = their_name(path)
      read = arrays[path].read()
      tensors[name] = np.ascontiguousarray(read.T if transpose else read)
      places[name] = file
      yield path
    try:
      safetensors.numpy.save_file(tensors, folder / file, metadata={'format': 'pt'})
    except safetensors.SafetensorError as error:
      raise OSError(reason_of(error)) from error
  if len(shards) > 1:
    total = sum(array.nbytes for array in arrays.values())
    _write_json(
      folder / INDEX_FILE, {'metadata': {'total_size': total}, 'weight_map': places}
    )
  dtype = arrays[EMBEDDING].dtype.name
  _write_json(folder / CONFIG_FILE, described(config, dtype))


def check_writable(config: Config) -> None:
  """Checks that `transformers` has a network like it.

  Raises:
    UserError: if not.
  """
  if config.mlp_activations not in _FEED_FORWARD:
    raise UserError(
      f'transformers has no T5 with mlp_activations={config.mlp_activations!r}: '
      'use --to=t5x'
    )


def described(config: Config, dtype: str) -> dict[str, Any]:
  """The contents of `config.json` for a network whose weights are of a dtype."""
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'is_encoder_decoder': True,
    'vocab_size': config.vocab_size,
    'd_model': config.emb_dim,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'feed_forward_proj': _FEED_FORWARD[config.mlp_activations],
    'tie_word_embeddings': config.logits_via_embedding,
    'dropout_rate': config.dropout_rate,
    **_FIXED,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
    'torch_dtype': dtype,
  }


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n', encoding='utf-8')
