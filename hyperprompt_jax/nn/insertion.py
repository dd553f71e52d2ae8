"""The prompts and adapters that a method gives to the network, and their insertion.

A method makes prompts and adapters for all tasks; the layers insert the part of each
row's tasks, and do not know how it was made. In a packed row each segment is given what
its own task owns, and nothing of another's. Axis letters: see `hyperprompt_jax.nn`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn.attention_inputs import Keys
from hyperprompt_jax.nn.config import SAVED
from hyperprompt_jax.nn.segments import EVERY_SEGMENT, PADDING, Array, Segments


@struct.dataclass
class Prompts:
  """Prompts for keys and values, `[m, t, l, h, k]` for a stack, `[t, l, h, k]` for a layer.

  Attributes:
    key: are the prompts before the keys.
    value: are the prompts before the values.
    active: has shape `[m]`, bool, for a stack; a layer where it is False attends as if
      there were no prompts. None makes all layers active.
    logit_offset: is added to the logits of prompts, `[m, h]` for a stack, `[h]` for a
      layer; None adds nothing.
  """

  key: Array
  value: Array
  active: Array | None = None
  logit_offset: Array | None = None

  def for_rows(self, segments: Segments, dtype: Any) -> Keys:
    """Selects one layer's prompts for the rows of a batch.

    A row has the prompts of its segments side by side. A query sees all prompts of its own
    segment (`segments.sees`); unless rows are packed, every query sees all of them.

    Args:
      segments: are the segments of the rows.
      dtype: is the dtype that the prompts are returned in.

    Returns:
      Keys and values `[B, S * l, h * k]`.
    """
    rows, per_row = segments.task_ids.shape
    length = self.key.shape[1]

    def select(prompts: Array) -> Array:
      # [t, l, h, k] -> [t, l, h * k] -> [B, S, l, h * k] -> [B, S * l, h * k]
      joined = prompts.astype(dtype).reshape(*prompts.shape[:2], -1)
      return segments.select(joined).reshape(rows, per_row * length, -1)

    ids = jnp.arange(1, per_row + 1) if per_row > 1 else jnp.array([EVERY_SEGMENT])
    ids = jnp.repeat(ids.astype(jnp.int32), length)
    if self.active is not None:
      ids = jnp.where(self.active, ids, PADDING)
    ids = jnp.broadcast_to(ids, (rows, per_row * length))
    return Keys(select(self.key), select(self.value), ids)


@struct.dataclass
class Adapter:
  """A bottleneck behind a sub-layer: `[m, t, ...]` for a stack, `[t, ...]` for a layer.

  Attributes:
    down: is D, `[..., d, b]`.
    up: is U, `[..., b, d]`.
    down_bias: is b_D, `[..., b]`, or None.
    up_bias: is b_U, `[..., d]`, or None.
    norm_scale: is gamma of a layer norm of the bottleneck's output, `[..., d]`; None is for
      no layer norm.
    norm_shift: is beta of that layer norm, `[..., d]`.
  """

  down: Array
  up: Array
  down_bias: Array | None = None
  up_bias: Array | None = None
  norm_scale: Array | None = None
  norm_shift: Array | None = None


@struct.dataclass
class LayerConditioning:
  """The arrays inserted into layers, `[m, t, ...]` for a stack, `[t, ...]` for one layer.

  Attributes:
    prompts: are the prompts of the self-attention, `[m, t, l, h, k]`.
    attention_adapter: stands behind the self-attention.
    mlp_adapter: stands behind the MLP.
  """

  prompts: Prompts | None = None
  attention_adapter: Adapter | None = None
  mlp_adapter: Adapter | None = None


@struct.dataclass
class Conditioning:
  """The arrays that a method adds to the network, for every task.

  It depends on parameters alone, never on the input: it is made once per step (once per
  checkpoint for evaluation), and each row selects its task's part.

  Attributes:
    input_prompts: are put before the encoder's embedded input, `[t, l, d]`.
    encoder: is inserted into the encoder's layers.
    decoder: is inserted into the decoder's layers.
    by_segment: tells whether the arrays have an entry for each segment of one batch, B * S
      in the place of t.
  """

  input_prompts: Array | None = None
  encoder: LayerConditioning = LayerConditioning()
  decoder: LayerConditioning = LayerConditioning()
  by_segment: bool = struct.field(pytree_node=False, default=False)


def insert_input_prompts(
  prompts: Array, segments: Segments, x: Array
) -> tuple[Array, Segments]:
  """Puts prompts before the embedded input, as further tokens (Lester et al. 2021).

  In a packed row each segment's prompts stand just before its tokens, so that their
  relative positions are those of the segment alone.

  Args:
    prompts: are the input prompts of all tasks, `[t, l, d]`.
    segments: are the segments of the positions of `x`.
    x: has shape `[B, P, d]`; padding stands at the end.

  Returns:
    `[B, S * l + P, d]`, and its segments.
  """
  per_row, length = segments.per_row, prompts.shape[1]
  own = segments.select(prompts).reshape(x.shape[0], per_row * length, -1)
  joined = jnp.concatenate([own.astype(x.dtype), x], axis=1)  # [B, S * l + P, d]
  # The prompts of a segment that a row does not have are padding.
  present = segments.membership().any(axis=1)  # [B, S]
  ids = jnp.where(present, jnp.arange(1, per_row + 1), PADDING)
  ids = jnp.concatenate([jnp.repeat(ids, length, axis=1), segments.ids], axis=1)
  if per_row > 1:
    # Sorting by segment is stable, so prompts stay before tokens. Padding goes last.
    order = jnp.argsort(jnp.where(ids > 0, ids, per_row + 1), axis=1, stable=True)
    joined = jnp.take_along_axis(joined, order[:, :, None], axis=1)
    ids = jnp.take_along_axis(ids, order, axis=1)
  return joined, Segments(segments.task_ids, ids, segments.by_segment)


def adapt(adapter: Adapter | None, segments: Segments, x: Array) -> Array:
  """`x + LN(U gelu(D x + b_D) + b_U)`, for each position by its own task's adapter.

  Houlsby et al. (2019) have no layer norm; Karimi Mahabadi et al. (2021) have it.

  Args:
    adapter: is one layer's adapter of each task, `[t, ...]`; None leaves `x` as it is.
    segments: are the segments of the positions of `x`.
    x: has shape `[B, P, d]`.

  Returns:
    `[B, P, d]` in the dtype of `x`.
  """
  if adapter is None:
    return x
  x = checkpoint_name(x, SAVED)
  own = segments.select(jax.tree.map(lambda leaf: leaf.astype(x.dtype), adapter))
  # The adapters of a row's segments work side by side, as one of width S * b, of which
  # each position keeps the part of its own segment.
  member = segments.membership().astype(x.dtype) if segments.per_row > 1 else None

  def for_positions(vectors: Array) -> Array:
    """From `[B, S, d]` to an array that broadcasts to `[B, P, d]`."""
    return vectors if member is None else jnp.einsum('BPS,BSd->BPd', member, vectors)

  hidden = jnp.einsum('BPd,BSdb->BPSb', x, own.down)
  if own.down_bias is not None:
    hidden += own.down_bias[:, None]
  hidden = jax.nn.gelu(hidden)
  if member is not None:
    hidden *= member[..., None]
  y = jnp.einsum('BPSb,BSbd->BPd', hidden, own.up)
  if own.up_bias is not None:
    y += for_positions(own.up_bias)
  if own.norm_scale is not None:
    y = _normalise(y) * for_positions(own.norm_scale) + for_positions(own.norm_shift)
  return x + y


def _normalise(y: Array, epsilon: float = 1e-6) -> Array:
  """Subtracts the mean of the last axis and divides by its deviation, in float32."""
  centred = y.astype(jnp.float32)
  centred -= jnp.mean(centred, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return (centred * jax.lax.rsqrt(variance + epsilon)).astype(y.dtype)
