"""Hugging Face's folders of T5 models: `config.json` and safetensors.

T5 1.0, T5 1.1, the LM-adapted, Flan-T5, ByT5, UL2, MADLAD-400, mT5 and umT5 have these
names. A linear layer's weight is `[out, in]` there and `[in, out]` here, so most arrays are
transposed.
"""

import json
import math
import pathlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hyperprompt_jax.checkpoints.formats import huggingface_config
from hyperprompt_jax.checkpoints.formats.huggingface_config import (
  CONFIG_FILE,
  T5,
  Described,
  described,
  read_json,
)
from hyperprompt_jax.checkpoints.formats.huggingface_names import (
  EMBEDDING,
  OUTPUT_LAYER,
  our_path,
  their_name,
)
from hyperprompt_jax.checkpoints.lazy import Index, LazyArray, same_values, transposed
from hyperprompt_jax.checkpoints.storage import (
  Folder,
  check_file,
  check_memory,
  check_name,
)
from hyperprompt_jax.errors import UserError, reason_of
from hyperprompt_jax.nn.config import Config

WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
# Files of weights that are not read, and the reason.
_OTHER_WEIGHTS = {
  'pytorch_model.bin': 'unpickling it runs whatever code it holds',
  'pytorch_model.bin.index.json': 'unpickling its files runs whatever code they hold',
  'flax_model.msgpack': 'it is of Flax, which Transformers 5 has left',
  'flax_model.msgpack.index.json': 'its files are of Flax, which Transformers 5 has left',
  'tf_model.h5': 'it is of TensorFlow, which Transformers 5 has left',
}
# The argument by which Transformers 4 reads the last three.
_READ_BY = {'flax_model': 'from_flax=True', 'tf_model': 'from_tf=True'}
# A shard is held in memory twice while it is written.
_SHARD_BYTES = 10**9
# Names of the embedding's table: `shared` is one module with the two others, and
# Transformers saves it under one of the names.
_EMBEDDINGS = (
  'shared.weight',
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
)
# A bias that the first T5s were saved with; no version of Transformers has used it.
_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'


def read(folder: Folder) -> tuple[dict[str, LazyArray], Config]:
  """Opens the parameters of a Hugging Face T5, by our paths, and its configuration.

  Raises:
    UserError: if it is a network that ours cannot be, or a file is missing or damaged.
  """
  if folder.is_remote:
    raise UserError(f'{folder}: safetensors are read from local folders: download it first')
  path = pathlib.Path(folder.path)
  network = huggingface_config.read(path)
  weights = _with_one_embedding(str(folder), _open_files(path))
  weights.pop(_UNUSED, None)
  arrays: dict[str, LazyArray] = {}
  for name, array in weights.items():
    ours, transpose = our_path(name, bias_per_layer=network.config.position_bias_per_layer)
    if ours in arrays:
      raise UserError(f'{folder} has two arrays for {ours}, of which one is {name}')
    arrays[ours] = transposed(array) if transpose and len(array.shape) == 2 else array
  tied = _is_tied(network, arrays)
  if tied:
    arrays.pop(OUTPUT_LAYER, None)
  return arrays, network.resolved(tied=tied)


def _with_one_embedding(where: str, weights: dict[str, LazyArray]) -> dict[str, LazyArray]:
  """Renames the embedding to `shared.weight`, and leaves out its copies.

  Raises:
    UserError: if there are two that differ.
  """
  names = [name for name in _EMBEDDINGS if name in weights]
  if not names:
    return weights
  first, *others = names
  for other in others:
    if not same_values(weights[first], weights[other]):
      raise UserError(
        f'{where}: {other} differs from {first}, and T5 has one embedding: the network '
        'cannot have two'
      )
  rest = {name: array for name, array in weights.items() if name not in names}
  return {_EMBEDDINGS[0]: weights[first], **rest}


def _is_tied(network: Described, arrays: Mapping[str, LazyArray]) -> bool:
  """Tells whether the output layer is the embedding, as Transformers decides it.

  Transformers 5 ties the output layer wherever the weights lack one, and whatever the
  configuration says it keeps one that differs from the embedding.

  Raises:
    UserError: if versions 4 and 5 would read two networks.
  """
  if OUTPUT_LAYER not in arrays or EMBEDDING not in arrays:
    return OUTPUT_LAYER not in arrays
  if network.tie_word_embeddings is False:
    return False
  if same_values(transposed(arrays[OUTPUT_LAYER]), arrays[EMBEDDING]):
    return True
  # Version 5 writes this setting. Its other two classes always tie.
  if network.kind == T5 and network.scale_decoder_outputs is None:
    raise UserError(
      f'{network.where}: {CONFIG_FILE} ties the output layer to the embedding, and the '
      'weights have two that differ: set "tie_word_embeddings": false in it if the model '
      'is T5 1.1 or Flan-T5'
    )
  return False


def _open_files(folder: pathlib.Path) -> dict[str, LazyArray]:
  """Opens all arrays of the folder's safetensors, sharded or not, by their own names."""
  index = folder / INDEX_FILE
  if (folder / WEIGHTS_FILE).exists():
    return open_file(folder / WEIGHTS_FILE)
  if not index.exists():
    raise UserError(_no_weights(folder))
  places = read_json(index).get('weight_map')
  if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
    raise UserError(f'{index} has no weight_map of names to files')
  shards = {}
  for file in sorted(set(places.values())):
    check_name(str(index), file)
    if pathlib.PurePath(file).name != file:
      raise UserError(f'{index} names {file!r}, which is outside of its folder: not read')
    if not (folder / file).is_file():
      raise UserError(f'{folder / file} is missing, a shard of {index}: download it again')
    shards[file] = open_file(folder / file)
  for name, file in places.items():
    check_name(str(index), name)
    if name not in shards[file]:
      raise UserError(f'{folder / file} lacks {name}, which {index} says is there')
  return {name: shards[file][name] for name, file in places.items()}


def _no_weights(folder: pathlib.Path) -> str:
  """Returns the message for a folder without safetensors."""
  other = next((name for name in _OTHER_WEIGHTS if (folder / name).is_file()), None)
  if other is None:
    return f'{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}'
  argument = _READ_BY.get(other.partition('.')[0])
  version = 'Transformers 4, ' if argument else ''
  arguments = f"'…', {argument}" if argument else '…'
  return (
    f'{folder / other} is not read, as {_OTHER_WEIGHTS[other]}: where you trust it, '
    f'turn it into safetensors with {version}transformers.T5ForConditionalGeneration.'
    f"from_pretrained({arguments}).save_pretrained('…')"
  )


def open_file(path: pathlib.Path) -> dict[str, LazyArray]:
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


def in_shards(arrays: Mapping[str, LazyArray], most: int) -> list[list[str]]:
  """Divides arrays into files.

  Args:
    arrays: are the arrays by their paths.
    most: is the size of a file in bytes, unless a single array is larger.

  Returns:
    The paths of each file, in their order.
  """
  shards: list[list[str]] = [[]]
  size = 0
  for path, array in arrays.items():
    if shards[-1] and size + array.nbytes > most:
      shards.append([])
      size = 0
    shards[-1].append(path)
    size += array.nbytes
  return shards


def save_file(
  tensors: Mapping[str, np.ndarray],
  file: pathlib.Path,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a file of safetensors.

  Raises:
    OSError: if it cannot be written, say because the disk is full.
  """
  try:
    safetensors.numpy.save_file(
      dict(tensors), file, metadata=dict(metadata) if metadata else None
    )
  except safetensors.SafetensorError as error:
    raise OSError(reason_of(error)) from error


def write(
  folder: pathlib.Path,
  arrays: Mapping[str, LazyArray],
  config: Config,
  prompted: Mapping[str, Any] = types.MappingProxyType({}),
) -> Iterator[str]:
  """Writes a backbone as a folder that `transformers` loads.

  Args:
    folder: is empty.
    arrays: are keyed by their paths in the unrolled backbone, folded prompts under FOLDED.
    config: configures the network.
    prompted: are settings of `config.json` that describe folded prompts.

  Yields:
    The path of each array that is done.

  Raises:
    OSError: if the folder cannot be written, say because the disk is full.
  """
  shards = in_shards(arrays, _SHARD_BYTES)
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
    save_file(tensors, folder / file, metadata={'format': 'pt'})
  if len(shards) > 1:
    total = sum(array.nbytes for array in arrays.values())
    _write_json(
      folder / INDEX_FILE, {'metadata': {'total_size': total}, 'weight_map': places}
    )
  dtype = arrays[EMBEDDING].dtype.name
  _write_json(folder / CONFIG_FILE, {**described(config, dtype), **prompted})


def write_generation(folder: pathlib.Path, max_length: int) -> None:
  """Writes the settings of generation, in which `config.json` has no say.

  Args:
    folder: holds the model.
    max_length: is the most tokens of an answer.
  """
  config = read_json(folder / CONFIG_FILE)
  names = ('pad_token_id', 'eos_token_id', 'decoder_start_token_id', 'use_cache')
  values = {'max_new_tokens': max_length, **{n: config[n] for n in names if n in config}}
  _write_json(folder / huggingface_config.GENERATION_FILE, values)


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n', encoding='utf-8')
