"""T5's attention, with task prompts before its keys and values.

Parameter names, shapes and logical axes are those of T5X's `examples/t5/layers.py`.
Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn import statistics
from hyperprompt_jax.nn.config import AUTO, SAVED
from hyperprompt_jax.nn.fused_attention import MASKED_LOGIT
from hyperprompt_jax.nn.fusion import Fusion
from hyperprompt_jax.nn.insertion import (
  EVERY_SEGMENT,
  Mask,
  Prompts,
  RowPrompts,
  Segments,
  prepend_prompts,
  seen,
)
from hyperprompt_jax.nn.layers import (
  Array,
  Dense,
  fan_in_normal,
  platform,
  with_sharding_constraint,
)

# Keys and values of the encoder, which decoding reads at each position and never changes.
ENCODER_CACHE = 'encoder_cache'
# How a cache has the axes b, k, h, d on CPUs: as products with one query want them, where
# all would be moved for each position. Elsewhere it is `[b, k, h * d]`.
_CACHE_ORDER = (0, 2, 3, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeated(bias: Array, rows: int) -> Array:
  """A bias `[1, h, q, k]` for each row, `[b, h, q, k]`.

  XLA's sum over the rows of its gradient takes CPUs as long as a product of matrices.
  """
  return jnp.broadcast_to(bias, (rows, *bias.shape[1:]))


def _sum_of_rows(rows: int, _: None, gradient: Array) -> tuple[Array]:
  while rows > 1:
    half, odd = divmod(rows, 2)
    halves = gradient[:half] + gradient[half : 2 * half]
    gradient = jnp.concatenate([halves, gradient[-1:]]) if odd else halves
    rows = half + odd
  return (gradient,)


_repeated.defvjp(lambda bias, rows: (_repeated(bias, rows), None), _sum_of_rows)


def attend(
  arrays: dict[str, Array], query_segments: Array | None, mask: Array, *, head_dim: int
) -> tuple[Array, Array]:
  """Attention written out; there is no 1/sqrt(d), which T5 has in queries' initializer.

  Args:
    arrays: of `fused_attention.attend`, without the segments of queries and keys; the bias
      of each copy, `[c, h, q, k]`.
    query_segments: `[b, q]` int32; needed for prompts alone.
    mask: bool, broadcastable to `[b, h, q, k]`; False hides a key from a query.
    head_dim: d.

  Returns:
    `[b, q, h * d]`, and the softmax over prompts and keys, `[b, h, q, p + k]`; from the
    logits on in float32, whatever the dtype of the arrays.
  """
  split = lambda name: arrays[name].reshape(*arrays[name].shape[:2], -1, head_dim)

  def scaled(name: str) -> Array:
    value = split(name)
    if f'{name}_scale' not in arrays:
      return value
    by = arrays[f'{name}_scale'][..., None]
    return (value.astype(jnp.float32) * by).astype(value.dtype)

  query, key, value = split('query'), split('key'), scaled('value')
  bias = arrays['bias'][:1] if 'bias' in arrays else None
  if 'prompt_key' in arrays:
    assert query_segments is not None
    visible = seen(query_segments, arrays['prompt_segments'])[:, None]
    prompts = (split('prompt_key'), scaled('prompt_value'), visible)
    key, value, bias, mask = prepend_prompts(*prompts, key, value, bias, mask)
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    bias = bias.astype(jnp.float32)
    # Halves of rows that are spread over devices would be moved between them.
    if platform() == 'cpu' and jax.sharding.get_abstract_mesh().size <= 1:
      bias = _repeated(bias, len(logits))
    logits += bias
  weights = jax.nn.softmax(jnp.where(mask, logits, MASKED_LOGIT))
  x = jnp.einsum('bhqk,bkhd->bqhd', weights.astype(value.dtype), value)
  return x.reshape(*x.shape[:2], -1), weights


class MultiHeadDotProductAttention(nn.Module):
  """T5's multi-head attention, with task prompts before its keys and values.

  Heads stay side by side, `h * d`, until logits are made: axes of their own would be
  padded to a TPU's tiles, and moved.

  Attributes:
    num_heads: h.
    head_dim: d.
    dropout_rate: of the attention weights; 0 where the caller is deterministic.
    dtype: of the computation.
    cache_length: None for teacher forcing; else the length of the cache of keys and
      values for decoding one position at a time. The encoder's are in a collection of their
      own, `ENCODER_CACHE`, which the first call makes and others read.
    attention: of `Config`.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  cache_length: int | None = None
  attention: str = AUTO

  @nn.compact
  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array | None = None,
    *,
    prompts: Prompts | None = None,
    segments: Segments | None = None,
    bias: Array | None = None,
    mask: Mask | None = None,
    decode_index: Array | None = None,
  ) -> Array:
    """Attends from `inputs_q` to itself, or to `inputs_kv` (cross-attention).

    Args:
      inputs_q: `[b, q, e]`; q is 1 while decoding, where in cross-attention there are
        `b * n` rows, the n beams of a row after one another.
      inputs_kv: `[b, k, e]` for cross-attention; None for self-attention.
      prompts: this layer's, of all tasks, `[t, p, h, d]`.
      segments: of the queries; for self-attention alone.
      bias: `[c, h, q, k]`; see `RelativePositionBiases`.
      mask: of queries and keys, in cross-attention the n beams' queries of a row; None for
        self-attention while decoding, where a position sees those before.
      decode_index: int32 scalar, the position while decoding.

    Returns:
      `[b, q, e]`.
    """
    query, key, value = self._project(inputs_q, inputs_kv)
    of_rows = None
    if prompts is not None:
      assert segments is not None
      of_rows = RowPrompts.of(prompts, segments, self.dtype)
    visible = None
    if decode_index is not None:
      assert bias is not None
      key, value, visible = self._append_to_cache(key, value, of_rows, decode_index)
      bias = jnp.pad(bias, (*[(0, 0)] * 3, (visible.shape[-1] - bias.shape[-1], 0)))
    projected = {'query': query, 'key': key, 'value': value}
    arrays = {name: _saved(x, inputs_kv) for name, x in projected.items()}
    if of_rows is not None and decode_index is None:  # else they are in the cache
      arrays |= of_rows.arrays()
    if self.dropout_rate > 0.0:
      arrays |= self._dropout(arrays)
    if bias is not None:
      arrays['bias'] = bias
    length, watched = inputs_q.shape[1], segments is not None and self._is_watched()
    fusion = None
    if mask is not None and not watched:
      sizes = (self.num_heads, self.head_dim, length, arrays['key'].shape[1])
      fusion = Fusion.of(self.attention, inputs_q.shape[0], *sizes)
    if fusion is not None:
      assert mask is not None
      x = fusion.attend(arrays, mask, self.head_dim)
    else:
      queries = None if segments is None else segments.ids
      dense = visible if mask is None else mask.dense
      assert dense is not None
      x, weights = attend(arrays, queries, dense, head_dim=self.head_dim)
      if watched:
        self._sow_statistics(weights, queries)
    return Dense(
      inputs_q.shape[-1],
      kernel_axes=('joined_kv', 'embed'),
      dtype=self.dtype,
      kernel_init=fan_in_normal,
      name='out',
    )(checkpoint_name(x, SAVED).reshape(*inputs_q.shape[:2], -1))

  def _project(
    self, inputs_q: Array, inputs_kv: Array | None
  ) -> tuple[Array, Array, Array]:
    """Queries, keys and values, `[b, q or k, h * d]`."""
    project = functools.partial(
      Dense,
      self.num_heads * self.head_dim,
      kernel_axes=('embed', 'joined_kv'),
      dtype=self.dtype,
    )
    constrain = functools.partial(
      with_sharding_constraint, logical_axis_resources=('batch', 'length', 'joined_kv')
    )
    # T5 has no 1/sqrt(d) in its logits; under Adafactor it is equivalent to have it in
    # the initializer of the queries.
    query_init = lambda *args: fan_in_normal(*args) / math.sqrt(self.head_dim)
    query = constrain(project(kernel_init=query_init, name='query')(inputs_q))

    def key_value(inputs: Array) -> tuple[Array, Array]:
      key = project(kernel_init=fan_in_normal, name='key')(inputs)
      value = project(kernel_init=fan_in_normal, name='value')(inputs)
      return constrain(key), constrain(value)

    if self.cache_length is None or inputs_kv is None:
      key, value = key_value(inputs_q if inputs_kv is None else inputs_kv)
      return query, key, value
    # The encoder's are the same for all positions: projected once.
    if not self.has_variable(ENCODER_CACHE, 'key'):
      key, value = key_value(inputs_kv)
      self.put_variable(ENCODER_CACHE, 'key', self._to_cache(key))
      self.put_variable(ENCODER_CACHE, 'value', self._to_cache(value))
    key = self._from_cache(self.get_variable(ENCODER_CACHE, 'key'))
    value = self._from_cache(self.get_variable(ENCODER_CACHE, 'value'))
    # The beams of a row are as many queries of the row's keys.
    return query.reshape(key.shape[0], -1, query.shape[-1]), key, value

  def _dropout(self, arrays: dict[str, Array]) -> dict[str, Array]:
    """T5's dropout of attention weights: by what the values are multiplied.

    T5 broadcasts it over the queries: a key is dropped for all of them, which is a
    dropout of that key's value in a head. `[b, k or p, h]` float32.
    """
    keep = 1.0 - self.dropout_rate
    return {
      f'{name}_scale': jax.random.bernoulli(
        self.make_rng('dropout'), keep, (*arrays[name].shape[:2], self.num_heads)
      )
      / keep
      for name in ('value', 'prompt_value')
      if name in arrays
    }

  def _sow_statistics(self, weights: Array, queries: Any) -> None:
    num_prompts = weights.shape[-1] - weights.shape[-2]
    found = statistics.of_attention(weights, num_prompts, queries > 0)
    last = lambda _, new: new
    self.sow(statistics.COLLECTION, statistics.NAME, found, last, lambda: None)

  def _is_watched(self) -> bool:
    """Whether somebody asks what self-attention looks at."""
    asked = self.is_mutable_collection(statistics.COLLECTION)
    return asked and not self.is_initializing()

  def _append_to_cache(
    self, key: Array, value: Array, prompts: RowPrompts | None, index: Array
  ) -> tuple[Array, Array, Array]:
    """Writes one position's key and value; prompts stand before the first.

    The first call makes the cache, with the prompts, and writes nothing else.

    Args:
      key: `[b, 1, h * d]`.
      value: `[b, 1, h * d]`.
      prompts: of the rows.
      index: int32 scalar, the position.

    Returns:
      Keys and values, `[b, p + k, h * d]`, and which of them are seen, `[b, 1, 1, p + k]`.
    """
    assert self.cache_length is not None
    visible = jnp.broadcast_to(
      jnp.arange(self.cache_length) <= index, (key.shape[0], self.cache_length)
    )
    if prompts is not None:
      visible = jnp.concatenate([prompts.segments == EVERY_SEGMENT, visible], axis=1)
    before = visible.shape[1] - self.cache_length
    is_made, found = self.has_variable('cache', 'cached_key'), []
    for name, new in {'key': key, 'value': value}.items():
      own = [] if prompts is None else [getattr(prompts, name)]
      cached = self.variable('cache', f'cached_{name}', self._empty_cache, new, *own)
      if is_made:
        cached.value = jax.lax.dynamic_update_slice_in_dim(
          cached.value,
          self._to_cache(new),
          before + index,
          axis=_CACHE_ORDER.index(1) if cached.value.ndim == 4 else 1,
        )
      found.append(self._from_cache(cached.value))
    return found[0], found[1], visible[:, None, None]

  def _empty_cache(self, new: Array, *prompts: Array) -> Array:
    """A cache for positions like `new`, `[b, 1, h * d]`, with prompts before them."""
    shape = (new.shape[0], self.cache_length, new.shape[-1])
    positions = jnp.zeros(shape, new.dtype)
    return self._to_cache(jnp.concatenate([*prompts, positions], axis=1))

  def _to_cache(self, x: Array) -> Array:
    """Keys or values `[b, k, h * d]` as they are kept."""
    if platform() != 'cpu':
      return x
    x = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)
    return x.transpose(_CACHE_ORDER)

  def _from_cache(self, x: Array) -> Array:
    """`[b, k, h * d]` of what `_to_cache` made."""
    if x.ndim == 3:
      return x
    x = x.transpose(np.argsort(_CACHE_ORDER))
    return x.reshape(*x.shape[:2], -1)


def _saved(x: Array, inputs_kv: Array | None) -> Array:
  """A projection, to be kept for the backward pass; of cross-attention, as `[1, ...]`.

  A loop over layers writes what is kept into a stack. Were the stacks of encoder and
  decoder of one shape, XLA would make them both of one array of zeros, and a TPU write the
  zeros first, which at T5 1.1 Base is 8 % of the step's memory traffic.
  """
  if inputs_kv is None:
    return checkpoint_name(x, SAVED)
  return checkpoint_name(x[None], SAVED)[0]
