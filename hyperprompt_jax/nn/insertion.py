"""What a method inserts into the network, and where it goes: prompts and adapters.

How they are generated is the methods' affair (`hyperprompt_jax.methods`); the
layers only insert them. A row may be packed with segments of several tasks: each segment
is given what its own task owns, and sees nothing of another's. Axis letters: see
`hyperprompt_jax.nn`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn.config import SAVED

Array = jax.Array

# The segment of a key that every query sees.
EVERY_SEGMENT = -1


@struct.dataclass
class Segments:
  """Which segment, and so which task, each position of a batch belongs to.

  Attributes:
    task_ids: the task of each segment, `[b, s]` int32; s is 1 unless rows are packed.
    ids: the segment of each position, from 1, `[b, length]` int32; 0 is padding.
  """

  task_ids: Array
  ids: Array

  @classmethod
  def of(cls, task_ids: Array, tokens: Array, segment_ids: Array | None) -> 'Segments':
    """The segments of tokens `[b, length]`, where 0 is padding; without ids, one a row."""
    if segment_ids is None:
      segment_ids = (tokens > 0).astype(jnp.int32)
    return cls(task_ids, segment_ids)

  @property
  def per_row(self) -> int:
    """The number of segments s that a row has room for."""
    return self.task_ids.shape[1]

  def membership(self) -> Array:
    """Whether each position is of each segment of its row, `[b, length, s]` bool."""
    return self.ids[:, :, None] == jnp.arange(1, self.per_row + 1)

  def position_tasks(self) -> Array:
    """The task of each position, `[b, length]` int32; of padding, that of segment 1."""
    return jnp.take_along_axis(self.task_ids, jnp.maximum(self.ids - 1, 0), axis=1)

  def select(self, of_tasks: Any) -> Any:
    """What each segment's task owns: from arrays `[t, ...]` to `[b, s, ...]`."""
    return jax.tree.map(lambda x: jnp.take(x, self.task_ids, axis=0, mode='clip'), of_tasks)


@struct.dataclass
class Mask:
  """Which keys each query sees: those of its own segment.

  Attributes:
    query_segments: segment of each query, `[b, q]` int32; 0 is padding.
    key_segments: segment of each key, `[b, k]` int32; 0 is padding.
    dense: the same written out, `[b, 1, q, k]` bool.
    causal: whether a query sees no later keys.
  """

  query_segments: Array
  key_segments: Array
  dense: Array
  causal: bool = struct.field(pytree_node=False, default=False)

  @classmethod
  def of(cls, queries: Array, keys: Array, *, causal: bool = False) -> 'Mask':
    """The mask of queries' and keys' segments."""
    dense = seen(queries, keys)[:, None]
    if causal:
      dense &= jnp.tril(jnp.ones(dense.shape[-2:], jnp.bool_))
    return cls(queries, keys, dense, causal)


def seen(query_segments: Array, key_segments: Array) -> Array:
  """Whether queries `[b, q]` see keys `[b, k]`, by their segments: `[b, q, k]` bool."""
  queries, keys = query_segments[:, :, None], key_segments[:, None, :]
  return (queries == keys) & (keys > 0) | (keys == EVERY_SEGMENT)


@struct.dataclass
class Prompts:
  """Prompts for keys and values, `[..., p, h, d]`; the leading axes say of what.

  Attributes:
    key: what is put before the keys.
    value: what is put before the values.
    active: of a stack, `[m]` bool: layers where it is False attend as if there were no
      prompts. None: all have them.
  """

  key: Array
  value: Array
  active: Array | None = None


@struct.dataclass
class RowPrompts:
  """The prompts of a batch's rows: those of a row's segments, in order.

  Attributes:
    key: `[b, p, h * d]`.
    value: `[b, p, h * d]`.
    segments: the segment whose queries see a prompt, `[b, p]` int32; EVERY_SEGMENT for
      all queries, 0 for none.
  """

  key: Array
  value: Array
  segments: Array

  @classmethod
  def of(cls, prompts: Prompts, segments: Segments, dtype: Any) -> 'RowPrompts':
    """Selects one layer's prompts, of all tasks `[t, p, h, d]`, for the rows of a batch.

    A query sees all prompts of its own segment; unless rows are packed, that is all.
    """
    batch, per_row = segments.task_ids.shape
    length = prompts.key.shape[1]

    def own(of_tasks: Array) -> Array:
      joined = of_tasks.astype(dtype).reshape(*of_tasks.shape[:2], -1)
      return segments.select(joined).reshape(batch, per_row * length, -1)

    numbers = jnp.arange(1, per_row + 1) if per_row > 1 else jnp.array([EVERY_SEGMENT])
    ids = jnp.repeat(numbers.astype(jnp.int32), length)
    if prompts.active is not None:
      ids = jnp.where(prompts.active, ids, 0)
    ids = jnp.broadcast_to(ids, (batch, per_row * length))
    return cls(own(prompts.key), own(prompts.value), ids)

  def arrays(self) -> dict[str, Array]:
    """By the names that attention has for them."""
    return {f'prompt_{name}': getattr(self, name) for name in ('key', 'value', 'segments')}


def prepend_prompts(
  prompt_key: Array,
  prompt_value: Array,
  visible: Array,
  key: Array,
  value: Array,
  bias: Array | None,
  mask: Array,
) -> tuple[Array, Array, Array | None, Array]:
  """`K' = concat(P_key, K)`, `V' = concat(P_value, V)` (HyperPrompt, section 3.1).

  Prompts take zero position bias.

  Args:
    prompt_key: `[b, p, h, d]`.
    prompt_value: `[b, p, h, d]`.
    visible: whether queries see prompts, `[b, 1, q, p]` bool.
    key: `[b, k, h, d]`.
    value: `[b, k, h, d]`.
    bias: `[1, h, q, k]` or None.
    mask: bool, `[b or 1, 1, q or 1, k]`.

  Returns:
    key, value, bias and mask over `p + k` keys.
  """
  key = jnp.concatenate([prompt_key, key], axis=1)
  value = jnp.concatenate([prompt_value, value], axis=1)
  if bias is not None:
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (prompt_key.shape[1], 0)))
  mask = jnp.broadcast_to(mask, (*visible.shape[:-1], mask.shape[-1]))
  return key, value, bias, jnp.concatenate([visible, mask], axis=-1)


def insert_input_prompts(
  prompts: Array, segments: Segments, x: Array
) -> tuple[Array, Segments]:
  """Puts prompts before the embedded input, as tokens of its own (Lester et al. 2021).

  In a packed row each segment's prompts stand just before its tokens, so that their
  relative positions are those of the segment alone.

  Args:
    prompts: of all tasks, `[t, p, e]`.
    segments: of the positions of `x`.
    x: `[b, k, e]`; padding stands at the end.

  Returns:
    `[b, s * p + k, e]`, and its segments.
  """
  per_row, length = segments.per_row, prompts.shape[1]
  own = segments.select(prompts).reshape(x.shape[0], per_row * length, -1)
  joined = jnp.concatenate([own.astype(x.dtype), x], axis=1)
  # The prompts of a segment that a row does not have are padding.
  present = segments.membership().any(axis=1)  # [b, s]
  ids = jnp.where(present, jnp.arange(1, per_row + 1), 0)
  ids = jnp.concatenate([jnp.repeat(ids, length, axis=1), segments.ids], axis=1)
  if per_row > 1:
    # By segment; sorting is stable, so prompts stay before tokens. Padding goes last.
    order = jnp.argsort(jnp.where(ids > 0, ids, per_row + 1), axis=1, stable=True)
    joined = jnp.take_along_axis(joined, order[:, :, None], axis=1)
    ids = jnp.take_along_axis(ids, order, axis=1)
  return joined, Segments(segments.task_ids, ids)


@struct.dataclass
class Adapter:
  """A bottleneck behind a sub-layer; the leading axes of its arrays say of what.

  Attributes:
    down: D, `[..., e, r]`.
    up: U, `[..., r, e]`.
    down_bias: `[..., r]` or None.
    up_bias: `[..., e]` or None.
    norm_scale: gamma of the layer norm of what the bottleneck gives, `[..., e]`; None
      for no layer norm.
    norm_shift: beta of it, `[..., e]`.
  """

  down: Array
  up: Array
  down_bias: Array | None = None
  up_bias: Array | None = None
  norm_scale: Array | None = None
  norm_shift: Array | None = None


def adapt(adapter: Adapter | None, segments: Segments, x: Array) -> Array:
  """`x + LN(U gelu(D x + b_D) + b_U)`, each position by its own task's adapter.

  Houlsby et al. (2019) without the layer norm; Karimi Mahabadi et al. (2021) with
  it.

  Args:
    adapter: one layer's, of all tasks, `[t, ...]`; None leaves `x` as it is.
    segments: of the positions of `x`.
    x: `[b, length, e]`.

  Returns:
    `[b, length, e]` in the dtype of `x`.
  """
  if adapter is None:
    return x
  x = checkpoint_name(x, SAVED)
  own = segments.select(jax.tree.map(lambda leaf: leaf.astype(x.dtype), adapter))
  # The adapters of a row's segments work side by side, as one of width s * r, of which
  # each position keeps the part of its own segment.
  member = segments.membership().astype(x.dtype) if segments.per_row > 1 else None

  def of_position(vectors: Array) -> Array:
    """From `[b, s, e]` to what broadcasts to `[b, length, e]`."""
    return vectors if member is None else jnp.einsum('bls,bse->ble', member, vectors)

  hidden = jnp.einsum('ble,bser->blsr', x, own.down)
  if own.down_bias is not None:
    hidden += own.down_bias[:, None]
  hidden = jax.nn.gelu(hidden)
  if member is not None:
    hidden *= member[..., None]
  y = jnp.einsum('blsr,bsre->ble', hidden, own.up)
  if own.up_bias is not None:
    y += of_position(own.up_bias)
  if own.norm_scale is not None:
    y = _normalise(y) * of_position(own.norm_scale) + of_position(own.norm_shift)
  return x + y


def _normalise(y: Array, epsilon: float = 1e-6) -> Array:
  """Takes mean and variance off the last axis; in float32, whatever the dtype."""
  centred = y.astype(jnp.float32)
  centred -= jnp.mean(centred, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return (centred * jax.lax.rsqrt(variance + epsilon)).astype(y.dtype)
