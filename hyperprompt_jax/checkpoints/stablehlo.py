"""A run as StableHLO programs, which a process runs that imports JAX and NumPy alone.

The programs are those of `jax.export`: versioned, and lowered for CPU, CUDA and TPU at
once. They take weights as arguments, so that they share one copy, and batches of any size.
The method is folded: weights are the arrays that it makes of all tasks, whatever these are.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.folded import condition
from hyperprompt_jax.checkpoints.identity import method_of, network_of
from hyperprompt_jax.checkpoints.lazy import LazyArray, arranged, in_memory
from hyperprompt_jax.checkpoints.source import METHOD, Source
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.attention import ENCODER_CACHE
from hyperprompt_jax.nn.stacks import Encoded
from hyperprompt_jax.nn.transformer import Transformer

FORMAT = 1
MANIFEST = 'manifest.json'
PLATFORMS = ('cpu', 'cuda', 'tpu')
_WEIGHTS = 'weights'
_PARAMS, _CONDITIONING = 'params/', 'conditioning/'

Array = jax.Array
Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Programs:
  """The functions that are exported; all take weights by name.

  Attributes:
    model: is the network.
    conditioning: has the structure of the network's conditioning, in which shapes stand
      for the weights; the other arrays, which are small, are constants of the programs.
    length: is the most tokens of an answer, the length of the cache.
  """

  model: Model
  conditioning: Any
  length: int

  def encode(self, weights: Arrays, inputs: Array, task_ids: Array) -> dict[str, Array]:
    """Encodes inputs `[B, K]`, of tasks `[B]`."""
    params, conditioning = self._split(weights)
    batch = {'encoder_input_tokens': inputs, 'task_ids': task_ids[:, None]}
    encoded = self.model.encode(params, conditioning, batch)
    return {'activations': encoded.activations, 'segment_ids': encoded.segment_ids}

  def start_decoding(
    self, weights: Arrays, encoded: Arrays, task_ids: Array
  ) -> dict[str, Array]:
    """Returns the cache before the first token."""
    start = jnp.zeros(task_ids.shape, jnp.int32)
    variables = {'cache', ENCODER_CACHE}
    _, cache = self._apply(weights, encoded, start, task_ids, {}, jnp.int32(0), variables)
    return cache

  def decode_step(
    self,
    weights: Arrays,
    encoded: Arrays,
    tokens: Array,
    task_ids: Array,
    cache: Arrays,
    position: Array,
  ) -> tuple[Array, dict[str, Array]]:
    """Returns the logits `[B, V]` after tokens `[B]` at a position, and the next cache."""
    logits, changed = self._apply(
      weights, encoded, tokens, task_ids, cache, position, {'cache'}
    )
    return logits, {**cache, **changed}

  def score(self, weights: Arrays, inputs: Array, task_ids: Array, targets: Array) -> Array:
    """Returns the log likelihoods `[B]` of targets `[B, Q]`."""
    params, conditioning = self._split(weights)
    batch = {
      'encoder_input_tokens': inputs,
      'task_ids': task_ids[:, None],
      'decoder_target_tokens': targets,
      'decoder_input_tokens': jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_loss_weights': (targets > 0).astype(jnp.float32),
    }
    return self.model.score(params, conditioning, batch)

  def _split(self, weights: Arrays) -> tuple[Any, Any]:
    """Returns parameters and conditioning of weights by name."""
    params = {
      tuple(name.removeprefix(_PARAMS).split('/')): array
      for name, array in weights.items()
      if name.startswith(_PARAMS)
    }
    conditioning = jax.tree_util.tree_map_with_path(
      lambda path, leaf: weights.get(_name(path), leaf), self.conditioning
    )
    return traverse_util.unflatten_dict(params), conditioning

  def _apply(
    self,
    weights: Arrays,
    encoded: Arrays,
    tokens: Array,
    task_ids: Array,
    cache: Arrays,
    position: Array,
    mutable: set[str],
  ) -> tuple[Array, dict[str, Array]]:
    params, conditioning = self._split(weights)
    logits, changed = self.model.module.apply(
      {'params': params, **traverse_util.unflatten_dict(dict(cache), sep='/')},
      Encoded(encoded['activations'], encoded['segment_ids']),
      tokens[:, None],
      task_ids[:, None],
      conditioning,
      position,
      max_decode_length=self.length,
      method=Transformer.decode_step,
      mutable=[*mutable],
    )
    return logits, traverse_util.flatten_dict(dict(changed), sep='/')


def _name(path: Any) -> str:
  """Returns the name of a leaf of the conditioning among the weights."""
  return _CONDITIONING + jax.tree_util.keystr(path, simple=True, separator='/')


@dataclasses.dataclass(frozen=True)
class Exportable:
  """A checkpoint that is ready to be exported.

  Attributes:
    programs: are its functions.
    arrays: are its weights by name.
    record: is the record of the run.
    step: is the training step.
  """

  programs: Programs
  arrays: Mapping[str, LazyArray]
  record: RecordedRun
  step: int

  def write(self, folder: pathlib.Path) -> Iterator[str]:
    """Writes weights, programs and manifest into an empty folder.

    Yields:
      The name of each weight that is done.

    Raises:
      OSError: if the folder cannot be written.
    """
    (folder / _WEIGHTS).mkdir()
    weights = {}
    for name, array in self.arrays.items():
      file = f'{_WEIGHTS}/{name.replace("/", ".")}.npy'
      np.save(folder / file, array.read())
      weights[name] = {'file': file, **_described(array)}
      yield name
    described = {}
    for name, (exported, entry) in self._exported().items():
      file = f'{name}.bin'
      (folder / file).write_bytes(exported.serialize())
      described[name] = {'file': file, **entry}
    manifest = {
      'format': FORMAT,
      'jax': jax.__version__,
      'platforms': PLATFORMS,
      'step': self.step,
      'tasks': list(self.record.task_list),
      'labels': {task: self.record.labels(task) for task in self.record.task_list},
      'lengths': self.record.lengths,
      'vocabulary': self.record.vocabulary,
      'eos_id': self.programs.model.config.eos_id,
      'programs': described,
      'weights': weights,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n')

  def _exported(self) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Returns the exported programs, and their descriptions."""
    rows, length, targets = export.symbolic_shape('B, K, Q')
    shaped = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    weights = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in self.arrays.items()}
    inputs, tasks = shaped(rows, length), shaped(rows)
    programs = self.programs
    encoded = jax.eval_shape(programs.encode, weights, inputs, tasks)
    cache = jax.eval_shape(programs.start_decoding, weights, encoded, tasks)
    arguments: dict[Callable[..., Any], dict[str, Any]] = {
      programs.encode: {'inputs': inputs, 'task_ids': tasks},
      programs.start_decoding: {'encoded': encoded, 'task_ids': tasks},
      programs.decode_step: {
        'encoded': encoded,
        'tokens': tasks,
        'task_ids': tasks,
        'cache': cache,
        'position': shaped(),
      },
      programs.score: {
        'inputs': inputs,
        'task_ids': tasks,
        'targets': shaped(rows, targets),
      },
    }
    result = {}
    for function, given in arguments.items():
      make = export.export(jax.jit(function), platforms=PLATFORMS)
      outputs = jax.eval_shape(function, weights, *given.values())
      entry = {
        'arguments': ['weights', *given],
        'inputs': jax.tree.map(_described, given),
        'outputs': jax.tree.map(_described, outputs),
      }
      result[function.__name__] = make(weights, *given.values()), entry
    return result


def _described(array: Any) -> dict[str, Any]:
  """Describes an array; sizes that differ from call to call are names."""
  shape = [size if isinstance(size, int) else str(size) for size in array.shape]
  return {'shape': shape, 'dtype': np.dtype(array.dtype).name}


def prepare(source: Source, record: RecordedRun) -> Exportable:
  """Makes the prompts and adapters of all tasks, and names all weights.

  Args:
    source: is the checkpoint of a run, or a bundle.
    record: is its record.

  Raises:
    UserError: if the parameters are not those of the network that the record describes.
  """
  network = network_of(source.path, record.network)
  assert network is not None  # a record describes one
  method = method_of(source.path, record.network)
  model = Model(network, method, tuple(record.task_list))
  paths = [p for p in by_path(model.param_shapes()) if not p.startswith(METHOD)]
  params = arranged(source.without_method().arrays, paths)
  arrays = {_PARAMS + path: params[path] for path in paths}

  def keep(path: Any, leaf: Array) -> Any:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return np.asarray(leaf)
    arrays[_name(path)] = in_memory(np.asarray(leaf))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

  shapes = jax.tree_util.tree_map_with_path(keep, condition(source, record))
  return Exportable(
    Programs(model, shapes, record.lengths['targets']), arrays, record, source.step
  )
