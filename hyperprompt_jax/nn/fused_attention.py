"""Attention on a TPU in one kernel: logits and weights never leave the chip.

Attention that is written out reads and writes `[B, h, Q, K]` about a dozen times in a
training step, which is more than all other traffic of the step. This kernel holds the
logits of a few heads of one row at a time, and the backward pass computes them again.

The kernels of libraries lack three things that T5 and prompts need: logits without
1/sqrt(k), a relative position bias with a gradient, and prompts. The kernel is given the
prompts apart from the tokens: joined to 512 keys, 16 prompts would make 528, which a TPU
pads to 640. It applies dropout to values, as T5 drops a key for all queries at once.

Heads stay side by side on one axis, `h * k`, as the projections make them. A block holds
as many heads as fill the 128 lanes of a TPU's registers. A product with one head of a
block has zeros in the lanes of the others, which costs nothing extra on a 128 x 128 matrix
unit. Axis letters: see `hyperprompt_jax.nn`; n is the number of heads of a block.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from hyperprompt_jax.nn.attention_inputs import MASKED_LOGIT, AttentionInputs, Keys
from hyperprompt_jax.nn.segments import Array, sees

_LANES = 128
# The queries of a part, whose logits fit into registers and cache.
_PART = 128
# The largest bias of a block that fits into a core's vector memory of 16 MiB, in entries of
# float32. Bias and gradient each take twice their size: one copy is worked on while the
# next is loaded.
_MAX_BIAS = 2 * 512 * 512


@dataclasses.dataclass(frozen=True)
class _Block:
  """The static options of a kernel, which works on a few heads of one row at a time.

  Attributes:
    heads: is n, the number of heads of a block.
    head_dim: is k.
    causal: tells whether queries see no later tokens.
    interpret: tells whether the kernel is interpreted, for hosts without a TPU.
  """

  heads: int
  head_dim: int
  causal: bool
  interpret: bool

  @property
  def width(self) -> int:
    """The lanes of a block, n * k."""
    return self.heads * self.head_dim

  def lanes(self, head: int) -> Array:
    """Returns whether each lane of a block belongs to a head, `[1, n * k]` bool."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, self.width), 1)
    return (lane >= head * self.head_dim) & (lane < (head + 1) * self.head_dim)


def supports(heads: int, head_dim: int, query_length: int, key_length: int) -> bool:
  """Whether the kernel takes these sizes: whole tiles, and a bias that fits."""
  whole_tiles = query_length % 16 == 0 and key_length % 16 == 0
  bias = _heads_per_block(heads, head_dim) * query_length * key_length
  return whole_tiles and bias <= _MAX_BIAS


@dataclasses.dataclass(frozen=True)
class Kernel:
  """Attention of one device's rows and heads.

  Attributes:
    interpret: tells whether to run without a TPU, slowly.
  """

  interpret: bool = False

  def attend(self, inputs: AttentionInputs) -> Array:
    """Attention, `[B, Q, h * k]` in the dtype of the values.

    Args:
      inputs: are one device's part, with sizes that `supports` allows, one copy of the bias
        (C = 1) and no `first_query`.
    """
    block, inputs = self._block(inputs)
    return _run(_forward_kernel, block, 2, (inputs,), _like_out(inputs))

  def gradients(
    self, inputs: AttentionInputs, out_gradient: Array
  ) -> tuple[AttentionInputs, Array]:
    """The gradients of the inputs, and attention computed once more.

    Args:
      inputs: are those of `attend`.
      out_gradient: is the gradient of its result, `[B, Q, h * k]`.

    Returns:
      The gradients, with None for segments and scales, and the result of `attend`.
    """
    block, inputs = self._block(inputs)
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), differentiable(inputs)
    )
    outputs = (like, _like_out(inputs))
    gradients, out = _run(_backward_kernel, block, 6, (inputs, out_gradient), outputs)
    bias = gradients.bias
    return gradients.replace(bias=None if bias is None else bias[None]), out

  def _block(self, inputs: AttentionInputs) -> tuple[_Block, AttentionInputs]:
    assert inputs.first_query is None
    heads = _heads_per_block(inputs.num_heads, inputs.head_dim)
    block = _Block(heads, inputs.head_dim, inputs.causal, self.interpret)
    return block, _with_axes_for_blocks(inputs, heads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_and_project(kernel: Any, inputs: AttentionInputs, matrix: Array) -> Array:
  """Attention times the matrix of its output projection, `[B, Q, d]`.

  The matrix's gradient needs the result of attention. It is not kept for the backward
  pass: the kernel of the gradients has the weights at hand, and multiplies values by them
  once more. This takes less time than to write the result and to read it again.

  Args:
    kernel: is a `Kernel`, or has the same two methods.
    inputs: are those of attention.
    matrix: has shape `[h * k, d]`.
  """
  return jnp.matmul(kernel.attend(inputs), matrix)


def _attend_and_project_forward(
  kernel: Any, inputs: AttentionInputs, matrix: Array
) -> tuple[Array, tuple[AttentionInputs, Array]]:
  return attend_and_project(kernel, inputs, matrix), (inputs, matrix)


def _attend_and_project_backward(
  kernel: Any, kept: tuple[AttentionInputs, Array], gradient: Array
) -> tuple[AttentionInputs, Array]:
  inputs, matrix = kept
  gradients, out = kernel.gradients(inputs, jnp.matmul(gradient, matrix.T))
  return gradients, jnp.tensordot(out, gradient, ((0, 1), (0, 1)))


attend_and_project.defvjp(_attend_and_project_forward, _attend_and_project_backward)


def _like_out(inputs: AttentionInputs) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(inputs.query.shape, inputs.tokens.value.dtype)


def _heads_per_block(heads: int, head_dim: int) -> int:
  """The fewest heads that fill whole lanes; all heads, if that number does not divide h."""
  fewest = _LANES // math.gcd(_LANES, head_dim)
  return fewest if heads % fewest == 0 else heads


def _with_axes_for_blocks(inputs: AttentionInputs, heads: int) -> AttentionInputs:
  """Gives segments, scales and bias the axes that blocks are cut from."""

  def for_keys(keys: Keys) -> Keys:
    scale = keys.value_scale
    if scale is not None:  # [B, K, h] -> [h / n, B, n, K]
      scale = scale.reshape(*scale.shape[:2], -1, heads).transpose(2, 0, 3, 1)
    return keys.replace(segments=for_segments(keys.segments), value_scale=scale)

  def for_segments(segments: Array) -> Array:
    return segments.astype(jnp.int32)[:, None, :]  # [B, K] -> [B, 1, K]

  return inputs.replace(
    query_segments=for_segments(inputs.query_segments),
    tokens=for_keys(inputs.tokens),
    prompts=None if inputs.prompts is None else for_keys(inputs.prompts),
    bias=None if inputs.bias is None else inputs.bias[0],  # [1, h, Q, K] -> [h, Q, K]
  )


def differentiable(inputs: AttentionInputs) -> AttentionInputs:
  """The arrays that have a gradient, with None for segments and scales."""
  keys = lambda x: x.replace(segments=None, value_scale=None)
  return inputs.replace(
    query_segments=None,
    tokens=keys(inputs.tokens),
    prompts=None if inputs.prompts is None else keys(inputs.prompts),
  )


def _run(
  kernel: Any, block: _Block, matmuls: int, inputs: tuple[Any, ...], outputs: Any
) -> Any:
  """Runs a kernel over blocks of heads and rows; rows change fastest.

  Args:
    kernel: is called with the block, and with references to inputs and outputs.
    block: holds the static options.
    matmuls: is the number of matrix products that the kernel makes with logits.
    inputs: are the `AttentionInputs`, and the gradient of the output for the backward pass.
    outputs: are the shapes and dtypes of the arrays that the kernel returns.
  """
  given: AttentionInputs = inputs[0]
  rows, queries, width = given.query.shape
  heads = rows * queries * width // block.head_dim
  lengths = [keys.key.shape[1] for keys in _kinds(given)]
  specs = functools.partial(_block_specs, block)
  out_specs = tuple(map(specs, outputs)) if type(outputs) is tuple else specs(outputs)
  return pl.pallas_call(
    functools.partial(kernel, block),
    grid=(width // block.width, rows),
    in_specs=tuple(map(specs, inputs)),
    out_specs=out_specs,
    out_shape=outputs,
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
    cost_estimate=pl.CostEstimate(
      flops=matmuls * 2 * heads * sum(lengths) * block.head_dim,
      # A register holds the powers of 128 keys, or of fewer.
      transcendentals=heads * sum(-(-length // _LANES) * _LANES for length in lengths),
      bytes_accessed=sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves((inputs, outputs))
      ),
    ),
    interpret=block.interpret,
    name=f'attention{kernel.__name__}',
  )(*inputs)


def _block_specs(block: _Block, arrays: Any) -> Any:
  """Returns how blocks are cut from `AttentionInputs`, or an array `[B, Q, h * k]`."""

  def joined(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec((1, x.shape[1], block.width), lambda h, b: (b, 0, h))

  def segments(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec((1, 1, x.shape[2]), lambda h, b: (b, 0, 0))

  def scale(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec((1, 1, *x.shape[2:]), lambda h, b: (h, b, 0, 0))

  def bias(x: Any) -> pl.BlockSpec:
    # The same block for all rows: it stays in vector memory.
    return pl.BlockSpec((block.heads, *x.shape[1:]), lambda h, b: (h, 0, 0))

  def keys(x: Keys) -> Keys:
    return x.replace(
      key=joined(x.key),
      value=joined(x.value),
      segments=jax.tree.map(segments, x.segments),
      value_scale=jax.tree.map(scale, x.value_scale),
    )

  if not isinstance(arrays, AttentionInputs):
    return joined(arrays)
  return arrays.replace(
    query=joined(arrays.query),
    query_segments=jax.tree.map(segments, arrays.query_segments),
    tokens=keys(arrays.tokens),
    prompts=None if arrays.prompts is None else keys(arrays.prompts),
    bias=jax.tree.map(bias, arrays.bias),
  )


def _forward_kernel(block: _Block, inputs: AttentionInputs, out: Any) -> None:
  """Blocks `[1, Q, n * k]` of the queries, and so on: n heads of one row."""
  query_segments = _column(inputs.query_segments[0], inputs.query.shape[1])
  values = [_dropped_values(block, keys)[0] for keys in _kinds(inputs)]
  for part in _parts(inputs.query.shape[1]):
    part_out = jnp.zeros((part.stop - part.start, block.width), jnp.float32)
    for head in range(block.heads):
      powers, total, _ = _powers(block, head, part, inputs, query_segments[part])
      head_out = _weighted_sum(powers, values) * (1.0 / total)
      part_out = jnp.where(block.lanes(head), head_out, part_out)
    out[0, part] = part_out.astype(out.dtype)


def _backward_kernel(
  block: _Block,
  inputs: AttentionInputs,
  out_gradient: Any,
  gradients: AttentionInputs,
  out: Any,
) -> None:
  """The gradients of the same blocks; that of the bias is summed over rows in place."""
  bias_gradient: Any = gradients.bias
  if bias_gradient is not None:

    @pl.when(pl.program_id(1) == 0)
    def _():
      bias_gradient[...] = jnp.zeros(bias_gradient.shape, bias_gradient.dtype)

  kinds = _kinds(inputs)
  values, scales = zip(*(_dropped_values(block, keys) for keys in kinds), strict=True)
  query_segments = _column(inputs.query_segments[0], inputs.query.shape[1])
  key_sums: list[Any] = [0.0 for _ in kinds]
  value_sums: list[Any] = [0.0 for _ in kinds]
  for part in _parts(inputs.query.shape[1]):
    query_sum: Any = 0.0
    part_out = jnp.zeros((part.stop - part.start, block.width), jnp.float32)
    for head in range(block.heads):
      lanes = block.lanes(head)
      query = _keep(lanes, inputs.query[0, part])
      head_gradient = _keep(lanes, out_gradient[0, part])
      powers, total, sees_any = _powers(block, head, part, inputs, query_segments[part])
      inverse = 1.0 / total
      weights = [x * inverse for x in powers]
      head_out = _weighted_sum(weights, values)
      part_out = jnp.where(lanes, head_out, part_out)
      # The mean of the weights' gradients, weighted, is the product of attention and its
      # gradient (Dao et al. 2022, appendix B): a sum over k in place of K.
      seen_gradient = _keep(sees_any, head_gradient)
      centre = jnp.sum(head_out * seen_gradient, axis=1, keepdims=True)
      for i, keys in enumerate(kinds):
        logit_gradient = weights[i] * (_dot_t(seen_gradient, values[i]) - centre)
        if keys is inputs.tokens and bias_gradient is not None:
          bias_gradient[head, part] += logit_gradient
        logit_gradient = logit_gradient.astype(query.dtype)
        query_sum += _keep(lanes, _dot(logit_gradient, keys.key[0]))
        key_sums[i] += _t_dot(logit_gradient, query)
        value_sums[i] += _t_dot(weights[i].astype(query.dtype), head_gradient)
    query_gradient: Any = gradients.query
    query_gradient[0, part] = query_sum.astype(query_gradient.dtype)
    out[0, part] = part_out.astype(out.dtype)
  for i, keys_gradient in enumerate(_kinds(gradients)):
    key, value = keys_gradient.key, keys_gradient.value
    key[0] = key_sums[i].astype(key.dtype)
    value[0] = (value_sums[i] * scales[i]).astype(value.dtype)


def _parts(length: int) -> Iterator[slice]:
  """Parts of the queries; the last may be smaller."""
  return (slice(start, min(start + _PART, length)) for start in range(0, length, _PART))


def _kinds(inputs: AttentionInputs) -> list[Any]:
  """The keys of tokens, and of prompts where there are any."""
  return [inputs.tokens] if inputs.prompts is None else [inputs.tokens, inputs.prompts]


def _dropped_values(block: _Block, keys: Keys) -> tuple[Array, Any]:
  """Values after dropout, `[K, n * k]`, and the factor of each."""
  value = keys.value[0]
  if keys.value_scale is None:
    return value, 1.0
  scale: Any = 0.0
  for head in range(block.heads):
    head_scale = _column(keys.value_scale[0, 0, head : head + 1], len(value))
    scale += _keep(block.lanes(head), jnp.broadcast_to(head_scale, value.shape))
  return (value.astype(jnp.float32) * scale).astype(value.dtype), scale


def _powers(
  block: _Block, head: int, part: slice, inputs: AttentionInputs, query_segments: Array
) -> tuple[list[Array], Array, Array]:
  """The softmax of one head of a part of the queries, in float32, not yet divided.

  Args:
    block: holds the static options.
    head: is the head, counted within the block.
    part: is the part of the queries.
    inputs: holds references to the blocks of all inputs.
    query_segments: are the segments of that part, `[Q, 1]`.

  Returns:
    The powers of tokens `[Q, K]` and of prompts `[Q, l]`, their sum `[Q, 1]`, and whether a
    query sees any key, `[Q, 1]`: the weights of a query that sees none are uniform, but its
    masked logits have no gradient.
  """
  query = _keep(block.lanes(head), inputs.query[0, part])
  logits = []
  for keys in _kinds(inputs):
    logit = _dot_t(query, keys.key[0])
    positions: tuple[Array, ...] = ()
    if keys is inputs.tokens:
      if inputs.bias is not None:
        logit += inputs.bias[head, part]
      if block.causal:
        index = functools.partial(jax.lax.broadcasted_iota, jnp.int32, logit.shape)
        positions = (index(0) + part.start, index(1))
    visible = sees(query_segments, keys.segments[0], *positions)
    logits.append(jnp.where(visible, logit, MASKED_LOGIT))
  largest = functools.reduce(
    jnp.maximum, [jnp.max(x, axis=1, keepdims=True) for x in logits]
  )
  powers = [jnp.exp(x - largest) for x in logits]
  total: Any = sum(jnp.sum(x, axis=1, keepdims=True) for x in powers)
  return powers, total, largest > MASKED_LOGIT / 2


def _weighted_sum(weights: list[Array], values: Sequence[Array]) -> Any:
  """The values of all kinds of keys, summed by their weights."""
  return sum(_dot(a.astype(v.dtype), v) for a, v in zip(weights, values, strict=True))


def _keep(where: Array, x: Array) -> Array:
  return jnp.where(where, x, jnp.zeros_like(x))


def _column(row: Array, length: int) -> Array:
  """`[1, length]` as `[length, 1]`; a TPU transposes whole tiles only."""
  padded = jnp.pad(row, ((0, 0), (0, -length % _LANES)))
  return jnp.broadcast_to(padded, (_LANES, padded.shape[1])).T[:length, :1]


def _product(x: Array, y: Array, x_axis: int, y_axis: int) -> Array:
  return jax.lax.dot_general(
    x, y, (((x_axis,), (y_axis,)), ((), ())), preferred_element_type=jnp.float32
  )


_dot = functools.partial(_product, x_axis=1, y_axis=0)
_dot_t = functools.partial(_product, x_axis=1, y_axis=1)
_t_dot = functools.partial(_product, x_axis=0, y_axis=0)
