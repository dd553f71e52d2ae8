"""The one seam between the network and the kinds of devices that it runs on.

Operations that are written differently for CPUs, GPUs and TPUs are here, each with its
reason, and no other module of `nn` asks for the platform. Axis letters: see
`hyperprompt_jax.nn`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning as nn_partitioning
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn import custom_gradients, fused_attention
from hyperprompt_jax.nn.config import SAVED
from hyperprompt_jax.nn.kernel_layout import KernelLayout
from hyperprompt_jax.nn.segments import Array

with_sharding_constraint = nn_partitioning.with_sharding_constraint

# The order in which a decoding cache has the axes B, K, h, k on CPUs: that of a product
# with one query, so that no step transposes the cache. Elsewhere it is `[B, K, h * k]`.
_CACHE_ORDER = (0, 2, 3, 1)
# The blocks in which a CPU looks for a maximum have as many values, or a part of that.
_BLOCK = 128
# The narrowest layers that a CPU unrolls in training, those of T5 Small.
_UNROLLED_WIDTH = 512
# The widest encoder whose projections a TPU computes again. By the compiler's estimate this
# takes less time than to keep them at T5 1.1 Base (768), and would take more at XL (2048).
_QUICK_WIDTH = 1024
# Queries of a row that are few: those of decoding, one for each beam.
_FEW_QUERIES = 8
# Tests set this to run the kernel, interpreted, on a host without a TPU.
_interpret_kernel = False


def platform() -> str:
  """The kind of device to compile for, 'cpu', 'gpu' or 'tpu': the mesh's, if any."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return jax.default_backend() if device is None else device.platform


def _is_one_cpu() -> bool:
  """Whether the network runs on one CPU device, on which a reshape moves nothing."""
  return platform() == 'cpu' and jax.sharding.get_abstract_mesh().size <= 1


def mesh_axis(logical: str) -> tuple[Any, int]:
  """The axis of the mesh that a logical axis is spread over, and its number of devices.

  The number is one without a mesh, and under a mesh that `jax.set_mesh` does not know
  (T5X's).
  """
  (axis,) = nn_partitioning.logical_to_mesh_axes((logical,)) or (None,)
  sizes = dict(jax.sharding.get_abstract_mesh().shape)
  names = (axis,) if isinstance(axis, str) else axis or ()
  return axis, math.prod(sizes.get(name, 1) for name in names)


# ---- The residual stream, spread over the devices that share a model ----


def spread_positions(x: Array) -> Array:
  """Spreads the residual stream, `[B, P, d]`, over the devices that share a model.

  Norms, dropout and sums work on each position by itself, so each device computes and
  keeps its part alone (sequence parallelism, Korthikanti et al. 2022). The stream stays
  whole where the devices do not divide the length, as in decoding. It stays whole on CPUs,
  too: their devices may enter two collectives in different orders and deadlock.
  """
  _, devices = mesh_axis('residual_length')
  divided = devices > 1 and x.shape[1] % devices == 0 and platform() != 'cpu'
  length = 'residual_length' if divided else 'length'
  return with_sharding_constraint(x, ('batch', length, 'embed'))


def gather_positions(x: Array) -> Array:
  """Gathers the positions of all devices, `[B, P, d]`, for a product."""
  return _whole(spread_positions(x))


def scatter_positions(x: Array) -> Array:
  """Sums the parts of a product with a sharded matrix to each device's positions.

  The compiler makes one operation of the two constraints. With the last constraint alone,
  it computes the product in pieces that go around the devices, which at XXL costs half as
  much traffic again.
  """
  return spread_positions(_whole(x))


def _whole(x: Array) -> Array:
  return with_sharding_constraint(x, ('batch', 'length', 'embed'))


@jax.custom_vjp
def with_scattered_gradient(x: Array) -> Array:
  """An array with all positions, `[B, P, d]`, whose gradient is spread by positions.

  Layers that share the array add up their gradients. Each sends its own to the devices that
  keep the positions (`scatter_positions`), so that the sum is spread.
  """
  return x


with_scattered_gradient.defvjp(
  lambda x: (x, None), lambda _, gradient: (scatter_positions(gradient),)
)


# ---- Kernels that are spread over all devices in training ----


def gathers_layer_by_layer() -> bool:
  """Whether a training step can gather the kernels of a stack one layer at a time.

  CPUs gather all before the loop: their devices may enter collectives of a loop in
  different orders and deadlock. On GPUs it was not measured.
  """
  return platform() == 'tpu'


def gathered(kernel: Array, axes: tuple[str, ...]) -> Array:
  """A kernel as layers use it, from one that may be spread over all devices.

  The gradient is spread in the layer, too.

  Args:
    kernel: is a matrix.
    axes: are its logical axes.
  """
  _, devices = mesh_axis('spread_embed')
  return _gathered(kernel, axes) if platform() == 'tpu' and devices > 1 else kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(kernel: Array, axes: tuple[str, ...]) -> Array:
  return with_sharding_constraint(kernel, axes)


_gathered.defvjp(
  lambda kernel, axes: (_gathered(kernel, axes), None),
  lambda axes, _, gradient: (_spread(gradient, axes),),
)


def _spread(gradient: Array, axes: tuple[str, ...]) -> Array:
  """Spreads the gradient of a kernel over the devices that have rows of their own.

  As in `scatter_positions`, the gradient is declared whole first: the compiler would
  compute the product in pieces that go around the devices.
  """
  _, devices = mesh_axis('spread_embed')
  if 'embed' not in axes or gradient.shape[axes.index('embed')] % devices:
    return gradient
  names = tuple('spread_embed' if axis == 'embed' else axis for axis in axes)
  return with_sharding_constraint(with_sharding_constraint(gradient, axes), names)


# ---- Operations that compilers for CPUs and TPUs handle differently ----


def matmul(x: Array, kernel: Array) -> Array:
  """`x` `[..., inputs]` times a kernel `[inputs, outputs]`.

  A CPU computes the kernel's gradient, a sum over several axes, by way of slow copies;
  over one axis it does not. On TPUs a reshape costs memory traffic.
  """
  if platform() != 'cpu':
    return jnp.matmul(x, kernel)
  product = custom_gradients.transposing_product if _is_one_cpu() else jnp.matmul
  rows = product(x.reshape(-1, x.shape[-1]), kernel)
  return rows.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _gradients_at_once(x: Array, kernel: Array) -> Array:
  """`x` `[B, Q, d]` times the kernel of the output layer, `[d, V]`.

  Both gradients need that of the logits, `[B, Q, V]`, one of the largest arrays of a step.
  The compiler would compute the kernel's gradient late, and keep that array until then. The
  barriers make it compute both, one after the other, before it goes on.
  """
  return jnp.matmul(x, kernel)


def _gradients_of_logits(
  kept: tuple[Array | None, ...], gradient: Array
) -> tuple[Array | None, ...]:
  x, kernel = kept
  of_x = custom_gradients.of_input(kernel, gradient)
  if x is None:
    return of_x, None
  if of_x is not None:
    x, of_x = jax.lax.optimization_barrier((x, of_x))
  of_kernel = jnp.einsum('BQd,BQV->dV', x, gradient)
  of_kernel = _spread(of_kernel, ('embed', 'vocab'))
  return jax.lax.optimization_barrier((of_x, of_kernel))


_gradients_at_once.defvjp(
  custom_gradients.product_and_inputs, _gradients_of_logits, symbolic_zeros=True
)


def output_product(x: Array, kernel: Array) -> Array:
  """Activations `[B, Q, d]` times the kernel of the output layer, `[d, V]`.

  A TPU computes both gradients at once if a device's logits are larger than the kernel.
  """
  rows = x.shape[0] * x.shape[1] // mesh_axis('batch')[1]
  if platform() == 'tpu' and rows >= kernel.shape[0]:
    return _gradients_at_once(x, kernel)
  return matmul(x, kernel)


def gated_product(activations: Sequence[str]) -> Callable[..., Array] | None:
  """The last product of an MLP with these activations, by a gradient written by hand.

  Returns:
    `custom_gradients.gated_product` on TPUs for T5 1.1, whose MLP has GELU and a linear
    branch; else None.
  """
  if platform() == 'tpu' and tuple(activations) == ('gelu', 'linear'):
    return custom_gradients.gated_product
  return None


def recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
  """An elementwise function that CPUs compute again in the backward pass.

  GELU's gradient keeps six arrays, where it can be computed from two. On TPUs
  `Config.remat_policy` decides this, and a second recomputation costs memory traffic.
  """
  if platform() != 'cpu':
    return function
  return jax.checkpoint(function, prevent_cse=False)


def saved_projection(x: Array, *, encoder_width: int | None = None) -> Array:
  """Marks a projection to be kept for the backward pass.

  A TPU does not keep those of cross-attention if the encoder is narrow: a product with so
  few inputs takes no longer than to write its result and to read it again.

  Projections of the encoder's output are kept as `[1, B, K, h * k]`. A loop over layers
  writes the kept arrays into a stack. If the stacks of encoder and decoder had one shape,
  XLA would start both from one array of zeros. A TPU would then write the zeros first,
  which at T5 1.1 Base is 8 % of the step's memory traffic.

  Args:
    x: has shape `[B, K, h * k]`.
    encoder_width: is d in cross-attention, and None in self-attention.
  """
  if encoder_width is not None:
    if platform() == 'tpu' and encoder_width <= _QUICK_WIDTH:
      return x
    return checkpoint_name(x[None], SAVED)[0]
  return checkpoint_name(x, SAVED)


def unrolls_training(width: int) -> bool:
  """Whether the layers of a training step are unrolled, where parameters stay stacked.

  On a CPU a loop over layers copies the parameters of each layer, and what the backward
  pass needs. A longer program compiles for longer, which steps of narrow layers are too
  short to make up for.

  Args:
    width: is d.
  """
  return _is_one_cpu() and width >= _UNROLLED_WIDTH


def bias_of_rows(bias: Array, rows: int) -> Array:
  """The first copy of a bias `[C, h, Q, K]` in float32, broadcast to `[B, h, Q, K]`."""
  bias = bias[:1].astype(jnp.float32)
  if _is_one_cpu():
    return custom_gradients.repeated(bias, rows)
  return bias


def head_groups(queries: int, heads: int) -> int | None:
  """The number of groups of heads that have one product each (`joined_heads`).

  Returns:
    The number of devices that divide the heads, on a TPU and for a few queries; else None,
    as every head then has products of its own.
  """
  if platform() != 'tpu' or queries > _FEW_QUERIES:
    return None
  _, devices = mesh_axis('heads')
  return 1 if heads % devices else devices


def argmax(x: Array) -> Array:
  """The place of the first of the largest values in the last axis, `[...]` int32.

  A CPU's own operation takes one value at a time, where a maximum takes 16. The largest
  block is found first, and then the place in it. With NaN the place may be any.
  """
  size = math.gcd(x.shape[-1], _BLOCK)
  if not _is_one_cpu() or size == 1:
    return jnp.argmax(x, axis=-1)
  blocks = x.reshape(*x.shape[:-1], -1, size)
  block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
  values = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
  return block * size + jnp.argmax(values, axis=-1)


# ---- The decoding cache ----


def to_cache(x: Array, head_dim: int) -> Array:
  """Keys or values `[B, K, h * k]` in the order of axes that a cache keeps."""
  if platform() != 'cpu':
    return x
  return x.reshape(*x.shape[:2], -1, head_dim).transpose(_CACHE_ORDER)


def from_cache(x: Array, layer: Array | None = None) -> Array:
  """The inverse of `to_cache`, of one layer's part if the cache is that of all layers."""
  if layer is not None:
    x = jax.lax.dynamic_index_in_dim(x, layer, axis=0, keepdims=False)
  if x.ndim == 3:
    return x
  x = x.transpose(np.argsort(_CACHE_ORDER))
  return x.reshape(*x.shape[:2], -1)


def write_cache(
  cached: Array, layer: Array | None, position: Array, x: Array, head_dim: int
) -> Array:
  """Writes keys or values `[B, 1, h * k]` into a cache at one position.

  Args:
    cached: is the cache of a layer, or of all layers with a leading axis. If it has fewer
      rows than `x`, the candidates of a row write side by side; see `DecodePosition`.
    layer: is the number of the layer in a cache of all layers; else None.
    position: is the position, an int32 scalar.
    x: holds the keys or values.
    head_dim: is k.
  """
  new = to_cache(x, head_dim)
  start: list[Any] = [0] * new.ndim
  if new.ndim == 3:
    new = new.reshape(cached.shape[-3], -1, new.shape[-1])
    start[1] = position * new.shape[1]
  else:
    start[_CACHE_ORDER.index(1)] = position
  if layer is None:
    return jax.lax.dynamic_update_slice(cached, new, start)
  return jax.lax.dynamic_update_slice(cached, new[None], (layer, *start))


def keeps_caches_in_place() -> bool:
  """Whether beams share the cache of a row, in place of moving their own from beam to beam.

  A TPU takes a third of a beam search to move caches, and no longer to read those of all
  beams of a row. On CPUs a copy of rows is quick. On GPUs it was not measured.
  """
  return platform() == 'tpu'


def unrolls_decoding() -> bool:
  """Whether the layers of a step of decoding are unrolled.

  On CPUs a loop over layers would copy the parameters of each layer for each token.
  """
  return platform() == 'cpu'


# ---- Attention by the kernel ----


def kernel_layout(
  rows: int, num_heads: int, head_dim: int, query_length: int, key_length: int
) -> KernelLayout | None:
  """The layout of the kernel for attention of these sizes; None where there is no kernel.

  Args:
    rows: is B, counted over all devices.
    num_heads: is h, counted over all devices.
    head_dim: is k.
    query_length: is Q.
    key_length: is K.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if platform() != 'tpu' and not _interpret_kernel:
    return None
  if mesh.empty and jax.device_count() > 1:
    return None  # Nothing tells how arrays are laid out, as under T5X.
  (row_axis, copies), (head_axis, shards) = mesh_axis('batch'), mesh_axis('heads')
  if rows % copies or num_heads % shards:
    return None
  if not fused_attention.supports(num_heads // shards, head_dim, query_length, key_length):
    return None
  return KernelLayout(row_axis, head_axis, copies, interpret=platform() != 'tpu')
