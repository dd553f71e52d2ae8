"""T5's attention, with task prompts before its keys and values.

`softmax(Q K'^T + bias) V'` with `K' = concat(P_key, K)` and `V' = concat(P_value, V)`
(HyperPrompt, section 3.1). Parameter names, shapes and logical axes are those of T5X's
`examples/t5/layers.py`. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn import backend, fused_attention, joined_heads, statistics
from hyperprompt_jax.nn.attention_inputs import (
  MASKED_LOGIT,
  AttentionInputs,
  DecodePosition,
  Keys,
)
from hyperprompt_jax.nn.config import SAVED
from hyperprompt_jax.nn.insertion import Prompts
from hyperprompt_jax.nn.kernel_layout import KernelLayout
from hyperprompt_jax.nn.layers import Dense, fan_in_normal, with_sharding_constraint
from hyperprompt_jax.nn.segments import Array, Segments, sees

# The collection of the encoder's keys and values, which decoding reads at each position and
# never changes.
ENCODER_CACHE = 'encoder_cache'


def attend_written_out(inputs: AttentionInputs) -> tuple[Array, Array]:
  """Attention as its equation reads, in float32 from the logits on.

  There is no 1/sqrt(k): T5 has it in the initializer of the queries.

  Returns:
    `[B, Q, h * k]` in the dtype of the values, and the logits of prompts and tokens,
    `[B, h, Q, S * l + K]` float32, in which `MASKED_LOGIT` stands for unseen keys.
  """
  query = _heads_apart(inputs.query, inputs.head_dim)  # [B, Q, h, k]
  key, value = _keys_and_values(inputs.tokens, inputs.head_dim)
  visible, bias = visible_tokens(inputs), inputs.bias

  # K' = concat(P_key, K), V' = concat(P_value, V); prompts take zero position bias.
  if (prompts := inputs.prompts) is not None:
    prompt_key, prompt_value = _keys_and_values(prompts, inputs.head_dim)
    key = jnp.concatenate([prompt_key, key], axis=1)  # [B, S * l + K, h, k]
    value = jnp.concatenate([prompt_value, value], axis=1)
    visible_prompts = sees(inputs.query_segments[:, :, None], prompts.segments[:, None, :])
    visible = jnp.concatenate([visible_prompts, visible], axis=2)
    if bias is not None:
      bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (prompt_key.shape[1], 0)))

  # softmax(Q K'^T + bias) V'
  logits = _logits(query, key)
  if bias is not None:
    logits += backend.bias_of_rows(bias, logits.shape[0])
  logits = jnp.where(visible[:, None], logits, MASKED_LOGIT)
  weights = jax.nn.softmax(logits).astype(value.dtype)
  x = _weighted_sum(weights, value)
  return x.reshape(*x.shape[:2], -1), logits


def _kernel_for(inputs: AttentionInputs) -> KernelLayout | None:
  """The layout of the TPU's kernel, where there is one for the sizes."""
  if inputs.first_query is not None:
    return None
  rows, query_length, _ = inputs.query.shape
  sizes = (inputs.head_dim, query_length, inputs.tokens.key.shape[1])
  return backend.kernel_layout(rows, inputs.num_heads, *sizes)


def _logits(query: Array, key: Array) -> Array:
  """`Q K'^T` of every head, `[B, h, Q, K]` float32."""
  if groups := backend.head_groups(*query.shape[1:3]):
    return joined_heads.logits(query, key, groups)
  return jnp.einsum('BQhk,BKhk->BhQK', query, key, preferred_element_type=jnp.float32)


def _weighted_sum(weights: Array, value: Array) -> Array:
  """The sum of values by weights, `[B, Q, h, k]`."""
  if groups := backend.head_groups(weights.shape[2], weights.shape[1]):
    return joined_heads.weighted_sum(weights, value, groups)
  return jnp.einsum('BhQK,BKhk->BQhk', weights, value)


def visible_tokens(inputs: AttentionInputs) -> Array:
  """Whether each query sees each token, `[B, Q, K]` bool."""
  if inputs.visible is not None:
    return inputs.visible
  positions: tuple[Array, ...] = ()
  if inputs.causal:
    first = 0 if inputs.first_query is None else inputs.first_query
    queries, keys = inputs.query.shape[1], inputs.tokens.segments.shape[1]
    positions = (first + jnp.arange(queries)[:, None], jnp.arange(keys))
  return sees(
    inputs.query_segments[:, :, None], inputs.tokens.segments[:, None, :], *positions
  )


def _heads_apart(x: Array, head_dim: int) -> Array:
  """`[B, P, h * k]` as `[B, P, h, k]`."""
  return x.reshape(*x.shape[:2], -1, head_dim)


def _keys_and_values(keys: Keys, head_dim: int) -> tuple[Array, Array]:
  """Keys, and values after dropout, `[B, K, h, k]`."""
  key, value = _heads_apart(keys.key, head_dim), _heads_apart(keys.value, head_dim)
  if keys.value_scale is None:
    return key, value
  scaled = value.astype(jnp.float32) * keys.value_scale[..., None]
  return key, scaled.astype(value.dtype)


def _with_offset(bias: Array | None, prompts: Prompts | None) -> Array | None:
  """Adds the prompts' logit offset `[h]`, by taking it off the bias of the tokens.

  Softmax ignores a common shift of all logits.
  """
  if prompts is None or prompts.logit_offset is None:
    return bias
  assert bias is not None
  return bias - prompts.logit_offset[:, None, None]


def _with_slots(inputs: AttentionInputs, slots: Array) -> AttentionInputs:
  """Lets the N candidates of a row attend to the slots of the row's cache that are theirs.

  Args:
    inputs: have a query for each candidate, `[B * N, 1, h * k]`, the segments of its own
      keys, `[B * N, K]`, and the keys of all slots, `[B, K * N, h * k]`.
    slots: are those of a `DecodePosition`. Prompts come before all positions, and each
      candidate has its own.

  Returns:
    Inputs with N queries for each row.
  """
  assert inputs.bias is not None
  rows = inputs.tokens.key.shape[0]
  number = inputs.query.shape[0] // rows
  own = jnp.tile(jnp.arange(number), rows)[:, None]
  num_prompts = inputs.tokens.segments.shape[1] - slots.shape[1]
  past = jnp.pad(slots, ((0, 0), (num_prompts, 0)))
  past = jnp.where(jnp.arange(past.shape[1]) < num_prompts, own, past)
  seen = visible_tokens(inputs)[:, 0, :, None]  # [B * N, K, 1]
  visible = seen & (past[..., None] == jnp.arange(number))
  return inputs.replace(
    query=inputs.query.reshape(rows, number, -1),
    query_segments=inputs.query_segments.reshape(rows, number),
    bias=jnp.repeat(inputs.bias, number, axis=-1),
    visible=visible.reshape(rows, number, -1),
  )


class MultiHeadDotProductAttention(nn.Module):
  """T5's multi-head attention, with task prompts before its keys and values.

  Attributes:
    num_heads: is the number of heads, h.
    head_dim: is the width of a head, k.
    causal: tells whether a query sees no later keys.
    dropout_rate: attention weights are dropped at this rate; 0 turns dropout off.
    dtype: is the dtype of the computation.
    cache_length: is the length of the cache of keys and values, for decoding one position
      at a time; None is for teacher forcing. The encoder's keys and values have a
      collection of their own, `ENCODER_CACHE`, which the first call makes and later calls
      read.
  """

  num_heads: int
  head_dim: int
  causal: bool = False
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  cache_length: int | None = None

  @nn.compact
  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array | None = None,
    *,
    segments: Segments,
    key_segments: Array | None = None,
    prompts: Prompts | None = None,
    bias: Array | None = None,
    position: DecodePosition | None = None,
  ) -> Array:
    """Attends from `inputs_q` to itself, or to `inputs_kv` (cross-attention).

    Args:
      inputs_q: has shape `[B, Q, d]`. While decoding, Q is 1, and cross-attention has B * N
        rows: the N beams of a row follow one another.
      inputs_kv: has shape `[B, K, d]` for cross-attention and is None for self-attention.
      segments: are the segments of the queries.
      key_segments: are the segments of the keys for cross-attention, `[B, K]` int32.
      prompts: are this layer's prompts of all tasks, `[t, l, h, k]`.
      bias: has shape `[C, h, Q, K]`; see `RelativePositionBiases`.
      position: is that of the query in the self-attention of decoding.

    Returns:
      `[B, Q, d]`.
    """
    query, key, value = self._project(inputs_q, inputs_kv)
    # While decoding, the beams of a row are as many queries of the row's keys.
    query_segments = segments.ids.reshape(query.shape[:2])
    if key_segments is None:
      key_segments = query_segments
    inputs = AttentionInputs(
      query,
      query_segments,
      Keys(key, value, key_segments),
      None if prompts is None else prompts.for_rows(segments, self.dtype),
      _with_offset(bias, prompts),
      head_dim=self.head_dim,
      causal=self.causal,
    )
    if position is not None:
      inputs = self._with_cache(inputs, position)
    if self.dropout_rate > 0.0:
      inputs = self._with_dropout(inputs)
    watched = inputs_kv is None and self._is_watched()
    project = Dense(
      inputs_q.shape[-1],
      kernel_axes=('joined_kv', 'embed'),
      dtype=self.dtype,
      kernel_init=fan_in_normal,
      name='out',
    )
    x = self._attend(inputs, project, watched)
    # Beams become rows again.
    return x.reshape(inputs_q.shape)

  def _attend(self, inputs: AttentionInputs, project: Dense, watched: bool) -> Array:
    """Attention and its output projection, by the TPU's kernel where there is one."""
    kernel = None if watched else _kernel_for(inputs)
    if kernel is not None:
      attend = functools.partial(fused_attention.attend_and_project, kernel, inputs)
      return project(inputs.query, attend)
    x, logits = attend_written_out(inputs)
    if watched:
      self._sow_statistics(logits, inputs.query_segments)
    return project(checkpoint_name(x, SAVED))

  def _project(
    self, inputs_q: Array, inputs_kv: Array | None
  ) -> tuple[Array, Array, Array]:
    """Projects to queries `[B, Q, h * k]`, and keys and values `[B, K, h * k]`."""
    project = functools.partial(
      Dense,
      self.num_heads * self.head_dim,
      kernel_axes=('embed', 'joined_kv'),
      dtype=self.dtype,
    )
    constrain = functools.partial(
      with_sharding_constraint, logical_axis_resources=('batch', 'length', 'joined_kv')
    )
    saved = functools.partial(
      backend.saved_projection,
      encoder_width=None if inputs_kv is None else inputs_kv.shape[-1],
    )
    # T5 has no 1/sqrt(k) in its logits; under Adafactor it is equivalent to have it in
    # the initializer of the queries.
    query_init = lambda *args: fan_in_normal(*args) / math.sqrt(self.head_dim)
    query = constrain(project(kernel_init=query_init, name='query')(inputs_q))

    def key_value(inputs: Array) -> tuple[Array, Array]:
      key = project(kernel_init=fan_in_normal, name='key')(inputs)
      value = project(kernel_init=fan_in_normal, name='value')(inputs)
      return constrain(key), constrain(value)

    if self.cache_length is None or inputs_kv is None:
      key, value = key_value(inputs_q if inputs_kv is None else inputs_kv)
      return saved(query), saved(key), saved(value)
    # The encoder's keys and values are the same for all positions: projected once.
    if not self.has_variable(ENCODER_CACHE, 'key'):
      for name, x in zip(('key', 'value'), key_value(inputs_kv), strict=True):
        self.put_variable(ENCODER_CACHE, name, backend.to_cache(x, self.head_dim))
    key = backend.from_cache(self.get_variable(ENCODER_CACHE, 'key'))
    value = backend.from_cache(self.get_variable(ENCODER_CACHE, 'value'))
    return query.reshape(key.shape[0], -1, query.shape[-1]), key, value

  def _with_dropout(self, inputs: AttentionInputs) -> AttentionInputs:
    """Draws T5's dropout of attention weights, as factors of the values.

    T5 drops a key for all queries of a row and head at once, which is the same as dropping
    that key's value in the head.
    """
    keep = 1.0 - self.dropout_rate

    def drop(keys: Keys) -> Keys:
      shape = (*keys.value.shape[:2], self.num_heads)  # [B, K, h]
      kept = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
      return keys.replace(value_scale=kept / keep)

    tokens = drop(inputs.tokens)
    prompts = None if inputs.prompts is None else drop(inputs.prompts)
    return inputs.replace(tokens=tokens, prompts=prompts)

  def _with_cache(
    self, inputs: AttentionInputs, position: DecodePosition
  ) -> AttentionInputs:
    """Writes one position's key and value into the cache, and attends to the whole cache.

    Prompts stand in the cache before the first position. The first call makes the cache
    with the prompts, and writes nothing else.

    Args:
      inputs: are the inputs of this position, with queries and keys `[B, 1, h * k]`.
      position: is the position, and its place in the cache.

    Returns:
      Inputs whose tokens are the cache, `[B, l + K, h * k]`. The positions that are not
      written yet come after the query, so that causal attention does not see them.
    """
    assert self.cache_length is not None and inputs.bias is not None
    prompts, num_prompts = inputs.prompts, 0
    segments = jnp.broadcast_to(
      inputs.tokens.segments, (inputs.query.shape[0], self.cache_length)
    )
    if prompts is not None:
      num_prompts = prompts.key.shape[1]
      segments = jnp.concatenate([prompts.segments, segments], axis=1)
    index = num_prompts + position.index

    def cached(name: str) -> Array:
      new = getattr(inputs.tokens, name)
      own = [] if prompts is None else [getattr(prompts, name)]
      is_made = self.has_variable('cache', f'cached_{name}')
      cache = self.variable('cache', f'cached_{name}', self._empty_cache, new, *own)
      if is_made:
        cache.value = backend.write_cache(
          cache.value, position.layer, index, new, self.head_dim
        )
      return backend.from_cache(cache.value, position.layer)

    inputs = inputs.replace(
      tokens=Keys(cached('key'), cached('value'), segments),
      prompts=None,
      bias=jnp.pad(inputs.bias, ((0, 0), (0, 0), (0, 0), (num_prompts, 0))),
      first_query=index,
    )
    return inputs if position.slots is None else _with_slots(inputs, position.slots)

  def _empty_cache(self, new: Array, *prompts: Array) -> Array:
    """A cache for positions like `new`, `[B, 1, h * k]`, with prompts before them."""
    positions = jnp.zeros((new.shape[0], self.cache_length, new.shape[-1]), new.dtype)
    cache = jnp.concatenate([*prompts, positions], axis=1)
    return backend.to_cache(cache, self.head_dim)

  def _is_watched(self) -> bool:
    """Whether the caller asks for statistics of self-attention."""
    mutable = self.is_mutable_collection(statistics.COLLECTION)
    return mutable and not self.is_initializing()

  def _sow_statistics(self, logits: Array, query_segments: Array) -> None:
    num_prompts = logits.shape[-1] - logits.shape[-2]
    reduced = statistics.from_logits(logits, num_prompts, query_segments > 0)
    keep_last = lambda _, new: new
    self.sow(statistics.COLLECTION, statistics.NAME, reduced, keep_last, lambda: None)
