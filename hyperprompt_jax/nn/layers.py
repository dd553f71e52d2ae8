"""The layers of T5: norm, dense, embedding, relative position bias, MLP.

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
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn.config import SAVED

Array = jax.Array
Initializer = Callable[..., Array]

param_with_axes = nn_partitioning.param_with_axes
with_sharding_constraint = nn_partitioning.with_sharding_constraint

fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
fan_in_truncated_normal = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal'
)


def platform() -> str:
  """The kind of device that is compiled for, 'cpu', 'gpu' or 'tpu': the mesh's, if any."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return jax.default_backend() if device is None else device.platform


def mesh_axis(logical: str) -> tuple[Any, int]:
  """What of the mesh a logical axis is spread over, and how many devices those are.

  Without a mesh, or where it is none of `jax.set_mesh` (T5X's), one.
  """
  (axis,) = nn_partitioning.logical_to_mesh_axes((logical,)) or (None,)
  sizes = dict(jax.sharding.get_abstract_mesh().shape)
  names = (axis,) if isinstance(axis, str) else axis or ()
  return axis, math.prod(sizes.get(name, 1) for name in names)


def spread_positions(x: Array) -> Array:
  """Spreads the residual stream, `[b, length, e]`, over the devices that share a model.

  Norms, dropout and sums work on each position by itself, and what is kept of them for
  the gradient is a part on each device (sequence parallelism, Korthikanti et al. 2022).
  Stays whole where the devices do not divide the length, as in decoding; and on CPUs,
  whose devices may come to two collectives in different order, and then wait for ever.
  """
  _, devices = mesh_axis('residual_length')
  divided = devices > 1 and x.shape[1] % devices == 0 and platform() != 'cpu'
  length = 'residual_length' if divided else 'length'
  return with_sharding_constraint(x, ('batch', length, 'embed'))


def gather_positions(x: Array) -> Array:
  """What each device has made of its positions, `[b, length, e]`, whole for a product."""
  return _whole(spread_positions(x))


def scatter_positions(x: Array) -> Array:
  """The parts of a product with a sharded matrix, summed to each device's positions.

  In two steps, which the compiler makes one. Told at once, it works the product out in
  pieces that go around the devices, which costs XXL half as much traffic again.
  """
  return spread_positions(_whole(x))


def _whole(x: Array) -> Array:
  return with_sharding_constraint(x, ('batch', 'length', 'embed'))


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


class Dense(nn.Module):
  """A linear map of the last axis, without bias.

  T5X's `DenseGeneral`, whose kernels are matrices, too, whatever the axes they map.

  Attributes:
    features: the output's width.
    kernel_axes: the two logical axes of the kernel.
    dtype: of the computation and the output.
  """

  features: int
  kernel_axes: tuple[str, str]
  dtype: Any = jnp.float32
  kernel_init: Initializer = fan_in_truncated_normal

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[..., inputs]` to `[..., features]`."""
    kernel = param_with_axes(
      'kernel',
      self.kernel_init,
      (inputs.shape[-1], self.features),
      jnp.float32,
      axes=self.kernel_axes,
    )
    inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
    if platform() != 'cpu':
      return jnp.matmul(inputs, kernel)
    # On CPUs the gradient of the kernel, a sum over several axes, is computed by way of
    # transposed copies; over one axis it is not. On TPUs a reshape costs memory traffic.
    rows = jnp.matmul(inputs.reshape(-1, inputs.shape[-1]), kernel)
    return rows.reshape(*inputs.shape[:-1], self.features)


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
    self,
    query_length: int,
    key_length: int,
    query_index: Array | None = None,
    copies: int = 1,
  ) -> Array:
    """The bias of every key for every query.

    Args:
      query_length: q.
      key_length: k.
      query_index: int32 scalar; if given, the bias of this one query position alone.
      copies: c, how often the bias is made: for each device that has rows of its own,
        where attention is fused. Their gradients are then summed once, as that of the
        embedding, and not layer by layer.

    Returns:
      `[c, h, q, k]`, or `[c, h, 1, k]` with `query_index`.
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
    embedding = jnp.broadcast_to(embedding.astype(self.dtype), (copies, *embedding.shape))
    embedding = with_sharding_constraint(embedding, ('batch', 'heads', 'relpos_buckets'))
    return jnp.einsum('chn,nqk->chqk', embedding, one_hot)


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

    def branch(index: int) -> Array:
      x = Dense(
        features=self.intermediate_dim,
        kernel_axes=('embed', 'mlp'),
        dtype=self.dtype,
        name='wi' if len(self.activations) == 1 else f'wi_{index}',
      )(inputs)
      return checkpoint_name(x, SAVED)

    def gated(*branches: Array) -> Array:
      activated = (
        x if name == 'linear' else getattr(nn, name)(x)
        for name, x in zip(self.activations, branches, strict=True)
      )
      return functools.reduce(operator.mul, activated)

    if platform() == 'cpu':
      # GELU leaves six arrays to its gradient, where two can be computed anew. On TPUs this
      # is `Config.remat_policy`'s to say, and within it, done twice costs memory traffic.
      gated = jax.checkpoint(gated, prevent_cse=False)
    x = gated(*map(branch, range(len(self.activations))))
    x = broadcast_dropout(self.dropout_rate, self.deterministic)(x)
    x = with_sharding_constraint(x, ('batch', 'length', 'mlp'))
    return Dense(
      features=inputs.shape[-1],
      kernel_axes=('mlp', 'embed'),
      dtype=self.dtype,
      name='wo',
    )(x)
