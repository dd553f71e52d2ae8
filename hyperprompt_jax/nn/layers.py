"""The layers of T5: norm, dense, embedding, relative position bias, MLP.

Parameter names, shapes and logical axes are those of T5X's `examples/t5/layers.py`, so
that its checkpoints load as they are. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn import backend
from hyperprompt_jax.nn.backend import with_sharding_constraint
from hyperprompt_jax.nn.config import SAVED
from hyperprompt_jax.nn.int8 import SCALES
from hyperprompt_jax.nn.segments import Array

Initializer = Callable[..., Array]

param_with_axes = nn_partitioning.param_with_axes

fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
fan_in_truncated_normal = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal'
)


class LayerNorm(nn.Module):
  """T5's layer norm: divides by the root mean square; no mean, no bias.

  Attributes:
    dtype: is the dtype of the output; the statistics are computed in float32.
  """

  dtype: Any = jnp.float32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises `[..., d]` over its last axis."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    y = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
    scale = param_with_axes(
      'scale', nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=('embed',)
    )
    return y * scale.astype(self.dtype)


class Dense(nn.Module):
  """A linear map of the last axis, without bias.

  It is T5X's `DenseGeneral`, which also keeps kernels as matrices. For inference kernels
  may be int8; see `hyperprompt_jax.nn.int8`.

  Attributes:
    features: is the output's width.
    kernel_axes: are the two logical axes of the kernel.
    dtype: is the dtype of the computation and of the output.
  """

  features: int
  kernel_axes: tuple[str, str]
  dtype: Any = jnp.float32
  kernel_init: Initializer = fan_in_truncated_normal

  @nn.compact
  def __call__(
    self, inputs: Array, product: Callable[[Array], Array] | None = None
  ) -> Array:
    """Maps `[..., inputs]` to `[..., features]`.

    Args:
      inputs: has the width of the kernel.
      product: computes the result from the kernel; None multiplies `inputs` by it.
    """
    kernel = param_with_axes(
      'kernel',
      self.kernel_init,
      (inputs.shape[-1], self.features),
      jnp.float32,
      axes=self.kernel_axes,
    )
    if product is None:
      product = functools.partial(backend.matmul, inputs.astype(self.dtype))
    y = product(backend.gathered(kernel.astype(self.dtype), self.kernel_axes))
    if kernel.dtype != jnp.int8:
      return y
    scale: Array = self.get_variable(SCALES, 'kernel')
    return (y.astype(jnp.float32) * scale).astype(self.dtype)


class Embed(nn.Module):
  """The token embedding, and its transpose as output layer where the two are tied.

  Attributes:
    num_embeddings: is V, the number of rows.
    features: is d, the width.
    dtype: is the dtype of the embedded tokens; `attend` computes in float32.
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
    """Embeds int32 tokens `[...]` as `[..., d]`."""
    return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0, mode='clip')

  def attend(self, x: Array) -> Array:
    """Logits `[..., V]`, float32, of activations `[..., d]`."""
    return jnp.einsum('...d,Vd->...V', x.astype(jnp.float32), self.embedding)


def relative_position_bucket(
  relative_position: np.ndarray,
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> np.ndarray:
  """T5's bucket of a key position relative to the query's.

  Half of the buckets are for exact distances, the rest grow logarithmically up to
  `max_distance`; greater distances share the last bucket (Raffel et al. 2020, 2.1).

  Args:
    relative_position: is the key position minus the query position, an int array.
    bidirectional: tells whether keys after the query have buckets of their own; if not,
      they fall into bucket 0.
    num_buckets: is r, the number of buckets in all.
    max_distance: is the distance from which on all keys share a bucket.

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
  """T5's relative position bias, of all layers of a stack or of one.

  Attributes:
    num_heads: is h.
    bidirectional: is True in the encoder and False in the decoder.
    dtype: is the dtype of the bias.
    num_buckets: is r.
    max_distance: is the distance from which on all keys share a bucket.
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
      query_length: is Q.
      key_length: is K.
      query_index: is the one query position whose bias is wanted, an int32 scalar; None
        makes the bias of all.
      copies: is C, the number of device groups that have a copy of the bias. With a copy
        each, the gradients of all layers are summed within a group, and over the groups
        once.

    Returns:
      `[C, h, Q, K]`, or `[C, h, 1, K]` with `query_index`.
    """
    bucket = self._buckets(query_length, key_length)
    if query_index is not None:
      bucket = jax.lax.dynamic_slice_in_dim(jnp.asarray(bucket), query_index, 1, axis=0)
    embedding = param_with_axes(
      'rel_embedding',
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )
    # A product with a one-hot matrix instead of a gather: its gradient is a product, too,
    # where a gather's is a slow scatter of Q * K entries into 32 buckets.
    one_hot = jax.nn.one_hot(bucket, self.num_buckets, axis=0, dtype=self.dtype)
    embedding = jnp.broadcast_to(embedding.astype(self.dtype), (copies, *embedding.shape))
    embedding = with_sharding_constraint(embedding, ('batch', 'heads', 'relpos_buckets'))
    return jnp.einsum('Chr,rQK->ChQK', embedding, one_hot)

  def _buckets(self, query_length: int, key_length: int) -> Any:
    """The bucket of every key for every query, `[Q, K]` int32."""
    bucket = functools.partial(
      relative_position_bucket,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    if isinstance(query_length, int) and isinstance(key_length, int):
      return bucket(np.arange(key_length)[None, :] - np.arange(query_length)[:, None])
    # An exported program does not know the lengths. All farther keys share a bucket.
    farthest = self.max_distance
    table = bucket(np.arange(-farthest, farthest + 1))
    relative_position = jnp.arange(key_length)[None, :] - jnp.arange(query_length)[:, None]
    return jnp.asarray(table)[jnp.clip(relative_position, -farthest, farthest) + farthest]


def broadcast_dropout(rate: float, deterministic: bool, name=None) -> nn.Dropout:
  """T5's dropout of activations `[B, P, d]`: one mask for all positions of a row."""
  return nn.Dropout(rate, broadcast_dims=(-2,), deterministic=deterministic, name=name)


class MlpBlock(nn.Module):
  """T5's feed-forward block: one activation (1.0), or a product of several (1.1).

  Attributes:
    intermediate_dim: is F.
    activations: are names of functions of `flax.linen`, or 'linear'.
    dropout_rate: is the rate at which intermediate activations are dropped.
    deterministic: tells whether dropout is off.
    dtype: is the dtype of the computation.
  """

  intermediate_dim: int
  activations: Sequence[str]
  dropout_rate: float = 0.0
  deterministic: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[B, P, d]` to the same shape."""

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

    branches = [branch(index) for index in range(len(self.activations))]  # [B, P, F]
    dropout = broadcast_dropout(self.dropout_rate, self.deterministic)
    project = Dense(
      features=inputs.shape[-1],
      kernel_axes=('mlp', 'embed'),
      dtype=self.dtype,
      name='wo',
    )
    if product := backend.gated_product(self.activations):
      scale = dropout(jnp.ones((inputs.shape[0], 1, self.intermediate_dim)))
      return project(branches[0], functools.partial(product, *branches, scale))
    x = dropout(backend.recomputed(gated)(*branches))
    return project(with_sharding_constraint(x, ('batch', 'length', 'mlp')))
