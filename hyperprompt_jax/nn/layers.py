"""The layers of T5: norm, dense, embedding, relative position bias, attention, MLP.

Parameter names, shapes and logical axes are those of T5X's `examples/t5/layers.py`, so
that its checkpoints load as they are. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning

from hyperprompt_jax.nn import statistics
from hyperprompt_jax.nn.insertion import Prompts, Segments, prepend_prompts

Array = jax.Array
Initializer = Callable[..., Array]

param_with_axes = nn_partitioning.param_with_axes
with_sharding_constraint = nn_partitioning.with_sharding_constraint

fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
fan_in_truncated_normal = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal'
)

# What a masked logit becomes. Finite, so that a row with no key left (a padding
# query) gives a uniform distribution and not NaN.
MASKED_LOGIT = -1e10


class LayerNorm(nn.Module):
  """T5's layer norm: scales by the root mean square; no mean, no bias.

  Attributes:
    dtype: of the output; the statistics are computed in float32.
  """

  dtype: Any = jnp.float32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises `[..., e]` over its last axis."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    y = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
    scale = param_with_axes(
      'scale', nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=('embed',)
    )
    return y * scale.astype(self.dtype)


class DenseGeneral(nn.Module):
  """A linear map without bias, from the last `num_input_axes` axes to `features`.

  The kernel is stored as a matrix, `[product of inputs, product of features]`, which is
  T5X's layout (and what makes Adafactor factor it along inputs and outputs).

  Attributes:
    features: the output axes' sizes.
    num_input_axes: how many trailing axes of the input are contracted.
    kernel_axes: the two logical axes of the kernel.
    dtype: of the computation and the output.
  """

  features: Sequence[int]
  kernel_axes: tuple[str, str]
  num_input_axes: int = 1
  dtype: Any = jnp.float32
  kernel_init: Initializer = fan_in_truncated_normal

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[..., *inputs]` to `[..., *features]`."""
    inputs = inputs.astype(self.dtype)
    contracted = inputs.shape[-self.num_input_axes :]
    kernel = param_with_axes(
      'kernel',
      self.kernel_init,
      (math.prod(contracted), math.prod(self.features)),
      jnp.float32,
      axes=self.kernel_axes,
    )
    kernel = kernel.astype(self.dtype).reshape(*contracted, *self.features)
    return jnp.tensordot(inputs, kernel, axes=self.num_input_axes)


class Embed(nn.Module):
  """The token embedding, and its transpose as output layer where the two are tied.

  Attributes:
    num_embeddings: rows, v.
    features: width, e.
    dtype: of the embedded tokens; `attend` computes in float32.
  """

  num_embeddings: int
  features: int
  dtype: Any = jnp.float32

  def setup(self):
    """Declares the table."""
    self.embedding = param_with_axes(
      'embedding',
      nn.initializers.normal(stddev=1.0),
      (self.num_embeddings, self.features),
      jnp.float32,
      axes=('vocab', 'embed'),
    )

  def __call__(self, tokens: Array) -> Array:
    """Embeds int32 tokens `[...]` as `[..., e]`."""
    return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0, mode='clip')

  def attend(self, x: Array) -> Array:
    """Logits `[..., v]`, float32, of activations `[..., e]`."""
    return jnp.einsum('...e,ve->...v', x.astype(jnp.float32), self.embedding)


def relative_position_bucket(
  relative_position: np.ndarray,
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> np.ndarray:
  """T5's bucket of a key position relative to the query's.

  Half of the buckets are for exact distances, the rest grow logarithmically up to
  `max_distance`; all that is farther shares the last bucket (Raffel et al. 2020, 2.1).

  Args:
    relative_position: int array, key position minus query position.
    bidirectional: whether keys after the query have buckets of their own; if not, they
      fall into bucket 0.
    num_buckets: how many buckets there are in all.
    max_distance: the distance from which on all keys share a bucket.

  Returns:
    int32 array of the same shape, in `[0, num_buckets)`.
  """
  bucket = np.zeros_like(relative_position, dtype=np.int32)
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    bucket += (distance < 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(distance, 0)
  max_exact = num_buckets // 2
  # float32 and the epsilon are T5X's: another rounding would move bucket borders.
  log_ratio = np.log(
    distance.astype(np.float32) / max_exact + np.finfo(np.float32).eps
  ) / np.log(max_distance / max_exact)
  far = max_exact + (log_ratio * (num_buckets - max_exact)).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  return (bucket + np.where(distance < max_exact, distance, far)).astype(np.int32)


class RelativePositionBiases(nn.Module):
  """T5's relative position bias, shared by the layers of a stack.

  Attributes:
    num_heads: heads, h.
    bidirectional: True in the encoder, False in the decoder.
    dtype: of the bias.
  """

  num_heads: int
  bidirectional: bool
  dtype: Any = jnp.float32
  num_buckets: int = 32
  max_distance: int = 128

  @nn.compact
  def __call__(
    self, query_length: int, key_length: int, query_index: Array | None = None
  ) -> Array:
    """The bias of every key for every query.

    Args:
      query_length: q.
      key_length: k.
      query_index: int32 scalar; if given, the bias of this one query position alone.

    Returns:
      `[1, h, q, k]`, or `[1, h, 1, k]` with `query_index`.
    """
    relative_position = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
    bucket: Any = relative_position_bucket(
      relative_position,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    if query_index is not None:
      bucket = jax.lax.dynamic_slice_in_dim(jnp.asarray(bucket), query_index, 1, axis=0)
    embedding = param_with_axes(
      'rel_embedding',
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )
    # A product with a one-hot matrix and not a gather: its gradient is a product too,
    # where a gather's is a slow scatter of q * k entries into 32 buckets.
    one_hot = jax.nn.one_hot(bucket, self.num_buckets, axis=0, dtype=self.dtype)
    return jnp.einsum('hn,nqk->hqk', embedding.astype(self.dtype), one_hot)[None]


def attention_weights(
  query: Array, key: Array, bias: Array | None = None, mask: Array | None = None
) -> Array:
  """The softmax of attention, float32 `[b, h, q, k]`; see `dot_product_attention`."""
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    logits += bias.astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED_LOGIT)
  return jax.nn.softmax(logits)


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  *,
  bias: Array | None = None,
  mask: Array | None = None,
  dropout_rng: Array | None = None,
  dropout_rate: float = 0.0,
) -> Array:
  """Attention without 1/sqrt(d), which T5 folds into the query's initializer.

  Logits and softmax are in float32 whatever the dtype of the inputs.

  Args:
    query: `[b, q, h, d]`.
    key: `[b, k, h, d]`.
    value: `[b, k, h, d]`.
    bias: broadcastable to `[b, h, q, k]`, added to the logits.
    mask: bool, broadcastable to `[b, h, q, k]`; False hides a key from a query.
    dropout_rng: key of the dropout of attention weights; None for none.
    dropout_rate: share of the keys that are dropped.

  Returns:
    `[b, q, h, d]` in the value's dtype.
  """
  weights = attention_weights(query, key, bias, mask).astype(value.dtype)
  if dropout_rng is not None and dropout_rate > 0.0:
    # T5 broadcasts this dropout over the queries: a key is dropped for all of them.
    batch, heads, _, keys = weights.shape
    keep = jax.random.bernoulli(dropout_rng, 1.0 - dropout_rate, (batch, heads, 1, keys))
    weights *= keep.astype(weights.dtype) / (1.0 - dropout_rate)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, value)


class MultiHeadDotProductAttention(nn.Module):
  """T5's multi-head attention, with task prompts before its keys and values.

  Attributes:
    num_heads: h.
    head_dim: d.
    dropout_rate: of the attention weights; 0 where the caller is deterministic.
    dtype: of the computation.
    cache_length: None for teacher forcing; else the length of the cache of keys and
      values for decoding one position at a time.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  cache_length: int | None = None

  @nn.compact
  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array | None = None,
    *,
    prompts: Prompts | None = None,
    segments: Segments | None = None,
    bias: Array | None = None,
    mask: Array | None = None,
    decode_index: Array | None = None,
  ) -> Array:
    """Attends from `inputs_q` to itself, or to `inputs_kv` (cross-attention).

    Args:
      inputs_q: `[b, q, e]`; q is 1 while decoding.
      inputs_kv: `[b, k, e]` for cross-attention; None for self-attention.
      prompts: this layer's, of all tasks, `[t, p, h, d]`.
      segments: of the queries; needed for prompts alone.
      bias: `[1, h, q, k]`.
      mask: bool `[b, 1, q, k]`.
      decode_index: int32 scalar, the position while decoding.

    Returns:
      `[b, q, e]`.
    """
    project = functools.partial(
      DenseGeneral,
      features=(self.num_heads, self.head_dim),
      kernel_axes=('embed', 'joined_kv'),
      dtype=self.dtype,
    )
    # T5 has no 1/sqrt(d) in its logits; under Adafactor it is equivalent to have it in
    # the initializer of the queries.
    query_init = lambda *args: fan_in_normal(*args) / math.sqrt(self.head_dim)
    query = project(kernel_init=query_init, name='query')(inputs_q)
    query = with_sharding_constraint(query, ('batch', 'length', 'heads', 'kv'))

    def key_value(inputs: Array) -> tuple[Array, Array]:
      key = project(kernel_init=fan_in_normal, name='key')(inputs)
      value = project(kernel_init=fan_in_normal, name='value')(inputs)
      axes = ('batch', 'length', 'heads', 'kv')
      return with_sharding_constraint(key, axes), with_sharding_constraint(value, axes)

    if self.cache_length is None:
      key, value = key_value(inputs_q if inputs_kv is None else inputs_kv)
    elif inputs_kv is None:
      assert decode_index is not None
      key, value = self._append_to_cache(*key_value(inputs_q), decode_index)
      mask = (jnp.arange(self.cache_length) <= decode_index)[None, None, None, :]
    else:
      # The encoder's keys and values are the same at every step: projected once.
      filled = self.has_variable('cache', 'cached_key')
      fresh: Any = None if filled else key_value(inputs_kv)
      key = self.variable('cache', 'cached_key', lambda: fresh[0]).value
      value = self.variable('cache', 'cached_value', lambda: fresh[1]).value

    if prompts is not None:
      assert segments is not None and mask is not None
      key, value, bias, mask = prepend_prompts(prompts, segments, key, value, bias, mask)
    if inputs_kv is None:
      self._sow_statistics(query, key, bias, mask, segments)
    x = dot_product_attention(
      query,
      key,
      value,
      bias=bias,
      mask=mask,
      dropout_rng=self.make_rng('dropout') if self.dropout_rate > 0.0 else None,
      dropout_rate=self.dropout_rate,
    )
    return DenseGeneral(
      features=(inputs_q.shape[-1],),
      num_input_axes=2,
      kernel_axes=('joined_kv', 'embed'),
      dtype=self.dtype,
      kernel_init=fan_in_normal,
      name='out',
    )(x)

  def _sow_statistics(
    self, query: Array, key: Array, bias: Any, mask: Any, segments: Segments | None
  ) -> None:
    """Keeps what self-attention looks at, where somebody asks for it."""
    asked = self.is_mutable_collection(statistics.COLLECTION)
    if asked and segments is not None and not self.is_initializing():
      num_prompts = key.shape[1] - query.shape[1]
      found = statistics.of_attention(
        attention_weights(query, key, bias, mask), num_prompts, segments.ids > 0
      )
      last = lambda _, new: new
      self.sow(statistics.COLLECTION, statistics.NAME, found, last, lambda: None)

  def _append_to_cache(self, key: Array, value: Array, index: Array) -> tuple[Array, Array]:
    """Writes one position's key and value `[b, 1, h, d]`; returns `[b, k, h, d]`."""
    batch, _, heads, width = key.shape
    shape = (batch, self.cache_length, heads, width)
    cached_key = self.variable('cache', 'cached_key', jnp.zeros, shape, key.dtype)
    cached_value = self.variable('cache', 'cached_value', jnp.zeros, shape, value.dtype)
    for cached, new in ((cached_key, key), (cached_value, value)):
      cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new, index, axis=1)
    return cached_key.value, cached_value.value


def broadcast_dropout(rate: float, deterministic: bool, name=None) -> nn.Dropout:
  """T5's dropout of activations `[b, length, e]`: one mask for all positions of a row."""
  return nn.Dropout(rate, broadcast_dims=(-2,), deterministic=deterministic, name=name)


class MlpBlock(nn.Module):
  """T5's feed-forward block: one activation (1.0), or a product of several (1.1).

  Attributes:
    intermediate_dim: f.
    activations: names of functions of `flax.linen`, or 'linear'.
    dropout_rate: of the intermediate activations.
    deterministic: whether dropout is off.
    dtype: of the computation.
  """

  intermediate_dim: int
  activations: Sequence[str]
  dropout_rate: float = 0.0
  deterministic: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[b, length, e]` to the same shape."""

    def branch(index: int, activation: str) -> Array:
      x = DenseGeneral(
        features=(self.intermediate_dim,),
        kernel_axes=('embed', 'mlp'),
        dtype=self.dtype,
        name='wi' if len(self.activations) == 1 else f'wi_{index}',
      )(inputs)
      return x if activation == 'linear' else getattr(nn, activation)(x)

    x = functools.reduce(
      operator.mul, [branch(i, name) for i, name in enumerate(self.activations)]
    )
    x = broadcast_dropout(self.dropout_rate, self.deterministic)(x)
    x = with_sharding_constraint(x, ('batch', 'length', 'mlp'))
    return DenseGeneral(
      features=(inputs.shape[-1],),
      kernel_axes=('mlp', 'embed'),
      dtype=self.dtype,
      name='wo',
    )(x)
