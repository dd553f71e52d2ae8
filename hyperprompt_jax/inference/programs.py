"""The compiled programs of a loaded model; the prompts of all tasks are made once."""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax import decoding
from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.inference.engine import Features
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.int8 import Int8Params
from hyperprompt_jax.partitioning import Partitioner


@dataclasses.dataclass(frozen=True)
class Shape:
  """The part of a `Generation` that a program is compiled for.

  Attributes:
    num_decodes: is the number of candidates, N.
    samples: says whether tokens are drawn.
    length: is the length of the cache, P.
    most: is the largest `top_k`; None where nothing narrows the draws.
    alpha: is the exponent of the length penalty of a beam search.
  """

  num_decodes: int
  samples: bool
  length: int
  most: int | None
  alpha: float

  @classmethod
  def from_generation(cls, generation: Generation, limit: int) -> 'Shape':
    """Returns the shape that serves a generation, and others like it.

    Args:
      generation: holds the options of answers.
      limit: is the most tokens of an answer.
    """
    length = 1 << (limit - 1).bit_length()
    most = None
    if generation.top_k or 0 < generation.top_p < 1:
      most = 1 << (generation.top_k - 1).bit_length() if generation.top_k else 0
    searches = generation.num_decodes > 1 and not generation.samples
    alpha = generation.alpha if searches else 0.0
    return cls(generation.num_decodes, generation.samples, length, most, alpha)


class Programs:
  """The programs of XLA, an `Engine`.

  Args:
    model: is the network.
    params: are its parameters, on the devices.
    partitioner: is the mesh over which they are spread; None for one device.
  """

  def __init__(self, model: Model, params: Any, partitioner: Partitioner | None):
    self.model = model
    self._params = params
    self._partitioner = partitioner
    # The batches that have been computed, as their callers describe them: others like them
    # need no compilation.
    self.compiled: set[Hashable] = set()
    # The mesh that is active belongs to the whole process.
    self._lock = threading.RLock()
    placed: Any = {'out_shardings': partitioner.replicated} if partitioner else {}
    self._generate = jax.jit(
      functools.partial(_generate, model), static_argnames='shape', **placed
    )
    self._score = jax.jit(model.score, **placed)
    self._rank = jax.jit(model.rank, **placed)
    self._encode = jax.jit(functools.partial(_encode, model), **placed)
    self._attention = jax.jit(functools.partial(_attention, model), **placed)
    with self._active():
      # The hypernetworks run here and never again, unless there are thousands of tasks.
      self._conditioning = jax.jit(model.fold)(params)

  @property
  def least_rows(self) -> int:
    """The number of rows that a batch has at least, and a divisor of every other."""
    if self._partitioner is None:
      return 1
    copies, fsdp, _ = self._partitioner.mesh.devices.shape
    return copies * fsdp

  def adopt(self, other: Any) -> bool:
    """Takes over the compiled programs of other parameters of the same network.

    Returns:
      Whether the networks, their meshes and the dtypes of their kernels are the same. If
      not, no program is taken over.
    """
    if not isinstance(other, Programs) or self._program != other._program:
      return False
    for name in ('_generate', '_score', '_rank', '_encode', '_attention', 'compiled'):
      setattr(self, name, getattr(other, name))
    return True

  @property
  def _program(self) -> tuple[Any, ...]:
    """The things that programs are compiled for, beside the shapes of a batch."""
    return self.model, self._partitioner, isinstance(self._params, Int8Params)

  @contextlib.contextmanager
  def _active(self) -> Iterator[None]:
    if self._partitioner is None:
      yield
      return
    with self._lock, self._partitioner.activate():
      yield

  def _put(self, features: Features) -> dict[str, Any]:
    return self._partitioner.put(features) if self._partitioner else dict(features)

  def generate(
    self, features: Features, generation: Generation, limit: int, places: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Generates answers; see `Engine.generate`."""
    shape = Shape.from_generation(generation, limit)
    numbers = numbers_of(generation, limit, places)
    with self._active():
      tokens, likelihoods = self._generate(
        self._params, self._conditioning, self._put(features), numbers, shape=shape
      )
      return np.asarray(tokens), np.asarray(likelihoods)

  def score(self, features: Features) -> np.ndarray:
    """Returns the log likelihoods of targets, `[B]` float32."""
    with self._active():
      return np.asarray(self._score(self._params, self._conditioning, self._put(features)))

  def rank(self, features: Features, labels: np.ndarray) -> np.ndarray:
    """Returns the log likelihoods of each row's labels `[B, N, Q]`, as `[B, N]` float32."""
    with self._active():
      placed = self._put({**features, 'labels': labels})
      labels = placed.pop('labels')
      return np.asarray(self._rank(self._params, self._conditioning, placed, labels))

  def encode(self, features: Features) -> np.ndarray:
    """Returns the encoder's outputs for the inputs' tokens, `[B, K, d]` float32."""
    with self._active():
      return np.asarray(self._encode(self._params, self._conditioning, self._put(features)))

  def attention(self, features: Features) -> np.ndarray:
    """Returns the attention mass on prompts in the encoder, `[B, m]` float32."""
    with self._active():
      return np.asarray(
        self._attention(self._params, self._conditioning, self._put(features))
      )


def _attention(model: Model, params: Any, conditioning: Any, features: Features) -> Any:
  if conditioning is None:
    conditioning = model.condition(params, features['task_ids'])
  measured = model.attention_statistics(params, conditioning, features)
  return jnp.mean(measured.prompt_mass, axis=-1).T


def _encode(model: Model, params: Any, conditioning: Any, features: Features) -> Any:
  if conditioning is None:
    conditioning = model.condition(params, features['task_ids'])
  encoded = model.encode(params, conditioning, features)
  length = features['encoder_input_tokens'].shape[1]
  # Input prompts, where a method has them, stand before the tokens.
  return encoded.activations[:, -length:].astype(jnp.float32)


def _generate(
  model: Model,
  params: Any,
  conditioning: Any,
  features: Features,
  numbers: Mapping[str, Any],
  *,
  shape: Shape,
) -> tuple[Any, Any]:
  step, state = model.start_search(params, conditioning, features, shape.length)
  is_padding = jnp.all(features['encoder_input_tokens'] == 0, axis=1)
  step = decoding.end_at_once(step, is_padding, model.config.eos_id)
  settings = decoding.DecodeSettings(
    batch_size=features['task_ids'].shape[0],
    max_decode_len=shape.length,
    eos_id=model.config.eos_id,
    batch_axis=model.cache_batch_axis,
    limit=numbers['limit'],
  )
  return search(step, state, settings, shape, numbers)


def numbers_of(generation: Generation, limit: int, places: np.ndarray) -> dict[str, Any]:
  """Returns the part of a `Generation` that no program is compiled for.

  Args:
    generation: holds the options of answers.
    limit: is the most tokens of an answer.
    places: are the places of the rows in their call, `[B]`.
  """
  return {
    'limit': np.int32(limit),
    'seed': np.uint32(generation.seed),
    'places': places.astype(np.uint32),
    'temperature': np.float32(generation.temperature),
    'top_k': np.int32(generation.top_k),
    'top_p': np.float32(generation.top_p),
  }


def search(
  step: decoding.StepFn,
  cache: Any,
  settings: decoding.DecodeSettings,
  shape: Shape,
  numbers: Mapping[str, Any],
) -> tuple[jax.Array, jax.Array]:
  """Decodes by greedy search, by sampling or by beam search.

  Args:
    step: is the step function; see `hyperprompt_jax.decoding`.
    cache: is its state before the first token.
    settings: are the settings that all decoders share.
    shape: chooses the decoder.
    numbers: are the result of `numbers_of`.

  Returns:
    Tokens `[B, N, P]` int32, and log likelihoods `[B, N]` float32.
  """
  if shape.samples:
    narrowing = decoding.Narrowing(numbers['temperature'])
    if shape.most is not None:
      narrowing = decoding.Narrowing(
        numbers['temperature'], numbers['top_k'], numbers['top_p'], shape.most
      )
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold(jax.random.key(numbers['seed']), numbers['places'])
    return decoding.sample(
      step, cache, settings, rng=keys, narrowing=narrowing, num_decodes=shape.num_decodes
    )
  if shape.num_decodes == 1:
    tokens, likelihoods = decoding.greedy(step, cache, settings)
    return tokens[:, None], likelihoods[:, None]
  tokens, scores = decoding.beam_search(
    step, cache, settings, num_decodes=shape.num_decodes, alpha=shape.alpha
  )
  # A search's score of a finished sequence is divided by the penalty of its length.
  ends = tokens == settings.eos_id
  ended = jnp.any(ends, axis=-1) & (scores > decoding.IMPOSSIBLE / 2)
  penalty = decoding.length_penalty(jnp.argmax(ends, axis=-1) + 1, shape.alpha)
  return tokens, jnp.where(ended, scores * penalty, scores)
