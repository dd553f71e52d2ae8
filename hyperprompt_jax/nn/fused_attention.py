"""Attention on a TPU in one kernel: logits and weights never leave the chip.

Written out, attention reads and writes `[b, h, q, k]` about a dozen times in a training
step, which is more than all the rest of it. Here a kernel holds the logits of a few heads
of one row at a time, and the backward pass computes them again.

T5 needs what libraries' kernels do not have: no 1/sqrt(d), a relative position bias that
is learned, so that it has a gradient, and here prompts. Those are given to the kernel by
themselves: joined to 512 keys, 16 prompts would make 528, which a TPU pads to 640. Dropout
is not the kernel's: T5 drops a key for all queries, which is a dropout of its value.

Heads stay side by side in one axis, `h * d`, as the projections make them. A block holds
as many as fill the 128 lanes of a TPU's registers; each is picked out of a product by zeros
in the lanes of the others, which a matrix unit of 128 x 128 does not take longer for.
Axis letters: see `hyperprompt_jax.nn`.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from hyperprompt_jax.nn.insertion import EVERY_SEGMENT

Array = jax.Array

# What a masked logit becomes. Finite, so that a row with no key left (a padding
# query) gives a uniform distribution and not NaN.
MASKED_LOGIT = -1e10

# Kinds of keys, as names of arrays begin.
TOKENS, PROMPTS = '', 'prompt_'

_LANES = 128
# How the names of inputs end that have no gradient.
_FIXED = ('segments', 'scale')
# Entries of a block's bias that fit into a core's vector memory, 16 MiB: in float32, and
# with its gradient, each twice, for what is at work and what is on its way.
_MAX_BIAS = 2 * 512 * 512


@dataclasses.dataclass(frozen=True)
class _Shape:
  """What a kernel is made for.

  Attributes:
    head_dim: d.
    heads: of a block.
    causal: whether queries see no later keys.
    interpret: whether to run it step by step, wherever there is no TPU.
  """

  head_dim: int
  heads: int
  causal: bool
  interpret: bool

  @property
  def width(self) -> int:
    """Lanes of a block."""
    return self.heads * self.head_dim


def supports(heads: int, head_dim: int, query_length: int, key_length: int) -> bool:
  """Whether there is a kernel for these sizes: of whole tiles, and not too long."""
  whole = query_length % 16 == 0 and key_length % _LANES == 0
  block = _heads_of_block(heads, head_dim) * query_length * key_length
  return whole and block <= _MAX_BIAS


def attend(
  arrays: dict[str, Array],
  *,
  head_dim: int,
  causal: bool = False,
  interpret: bool = False,
) -> Array:
  """Attention of one device's rows and heads.

  Args:
    arrays: by name,
      `query`, `[b, q, h * d]`;
      `key` and `value`, `[b, k, h * d]`;
      `value_scale`, of dropout, by what values are multiplied, `[b, k, h]` float32; may be
        left out;
      `query_segments` and `key_segments`, `[b, q]` and `[b, k]` int32; 0 is padding;
      `bias`, `[h, q, k]` float32, added to the logits; may be left out;
      `prompt_key`, `prompt_value`, `[b, p, h * d]`, and `prompt_value_scale` as above; may
        be left out;
      `prompt_segments`, of whose queries each prompt is seen, `[b, p]` int32: those of a
        segment, EVERY_SEGMENT, or 0 for none.
    head_dim: d.
    causal: whether a query sees no later keys.
    interpret: whether to run without a TPU, slowly.

  Returns:
    `[b, q, h * d]` in the dtype of the values.
  """
  heads = arrays['query'].shape[-1] // head_dim
  shape = _Shape(head_dim, _heads_of_block(heads, head_dim), causal, interpret)
  moving = {name: x for name, x in arrays.items() if not name.endswith(_FIXED)}
  fixed = {name: x for name, x in arrays.items() if name.endswith(_FIXED)}
  for name, x in fixed.items():
    if name.endswith('segments'):
      fixed[name] = x.astype(jnp.int32)[:, None, :]
    else:
      by_block = x.reshape(*x.shape[:2], -1, shape.heads)
      fixed[name] = by_block.transpose(2, 0, 3, 1)  # blocks of heads, b, n, k
  return _attend(shape, moving, fixed)


def _heads_of_block(heads: int, head_dim: int) -> int:
  """The fewest heads that fill whole lanes; all, if no number of them divides."""
  least = _LANES // math.gcd(_LANES, head_dim)
  return least if heads % least == 0 else heads


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(shape: _Shape, arrays: dict[str, Array], fixed: dict[str, Array]) -> Array:
  return _run(_forward_kernel, shape, arrays, fixed, None)['out']


def _attend_forward(
  shape: _Shape, arrays: dict[str, Array], fixed: dict[str, Array]
) -> tuple[Array, Any]:
  return _attend(shape, arrays, fixed), (arrays, fixed)


def _attend_backward(shape: _Shape, residuals: Any, out_gradient: Array) -> Any:
  arrays, fixed = residuals
  return _run(_backward_kernel, shape, arrays, fixed, out_gradient), None


_attend.defvjp(_attend_forward, _attend_backward)


def _run(
  kernel: Any,
  shape: _Shape,
  arrays: dict[str, Array],
  fixed: dict[str, Array],
  out_gradient: Array | None,
) -> dict[str, Array]:
  """Runs a kernel over blocks of heads and rows; rows change fastest."""
  backward = out_gradient is not None
  batch, length, width = arrays['query'].shape
  keys = arrays['key'].shape[1]
  prompts = arrays['prompt_key'].shape[1] if 'prompt_key' in arrays else 0
  heads = width // shape.head_dim

  def spec(name: str, x: Any) -> pl.BlockSpec:
    if name == 'bias':
      # Stays where it is for all rows.
      return pl.BlockSpec((shape.heads, *x.shape[1:]), lambda h, b: (h, 0, 0))
    if name.endswith('segments'):
      return pl.BlockSpec((1, 1, x.shape[2]), lambda h, b: (b, 0, 0))
    if name.endswith('scale'):
      return pl.BlockSpec((1, 1, *x.shape[2:]), lambda h, b: (h, b, 0, 0))
    return pl.BlockSpec((1, x.shape[1], shape.width), lambda h, b: (b, 0, h))

  inputs = {**arrays, **fixed}
  if out_gradient is not None:
    inputs['out_gradient'] = out_gradient
    outputs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
  else:
    outputs = {'out': jax.ShapeDtypeStruct((batch, length, width), arrays['value'].dtype)}

  def with_names(*refs: Any) -> None:
    names = [*inputs, *(f'{name}_gradient' if backward else name for name in outputs)]
    kernel(shape, dict(zip(names, refs, strict=True)))

  logits = batch * heads * length * (keys + prompts)
  results = pl.pallas_call(
    with_names,
    grid=(heads // shape.heads, batch),
    in_specs=[spec(name, x) for name, x in inputs.items()],
    out_specs=[spec(name, x) for name, x in outputs.items()],
    out_shape=list(outputs.values()),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
    # Products of matrices, two forward and five backward.
    cost_estimate=pl.CostEstimate(
      flops=(5 if backward else 2) * 2 * logits * shape.head_dim,
      transcendentals=logits,
      bytes_accessed=sum(map(_nbytes, [*inputs.values(), *outputs.values()])),
    ),
    interpret=shape.interpret,
    name=f'attention_{"backward" if backward else "forward"}',
  )(*inputs.values())
  return dict(zip(outputs, results, strict=True))


def _nbytes(x: Any) -> int:
  return x.size * x.dtype.itemsize


def _forward_kernel(shape: _Shape, refs: dict[str, Any]) -> None:
  """Blocks `[1, q, n * d]` of the queries, and so on, of n heads of one row."""
  of_query = _column(refs['query_segments'][0], refs['query'].shape[1])
  values = {kind: _values(shape, kind, refs)[0] for kind in _kinds(refs)}
  for rows in _parts(refs['query'].shape[1]):
    out = jnp.zeros((rows.stop - rows.start, shape.width), jnp.float32)
    for head in range(shape.heads):
      of_head: Any = 0.0
      for kind, weights in _weights(shape, head, rows, refs, of_query)[0].items():
        value = values[kind]
        of_head += _dot(weights.astype(value.dtype), value)
      out = jnp.where(_lanes_of(shape, head), of_head, out)
    refs['out'][0, rows] = out.astype(refs['out'].dtype)


def _backward_kernel(shape: _Shape, refs: dict[str, Any]) -> None:
  """The gradients, of the same blocks; the bias's is summed over rows where it lies."""
  if 'bias' in refs:

    @pl.when(pl.program_id(1) == 0)
    def _():
      gradient = refs['bias_gradient']
      gradient[...] = jnp.zeros(gradient.shape, gradient.dtype)

  sums: dict[str, Any] = collections.defaultdict(float)
  values = {kind: _values(shape, kind, refs) for kind in _kinds(refs)}
  of_query = _column(refs['query_segments'][0], refs['query'].shape[1])
  for rows in _parts(refs['query'].shape[1]):
    query_gradient: Any = 0.0
    for head in range(shape.heads):
      lanes = _lanes_of(shape, head)
      query = _keep(lanes, refs['query'][0, rows])
      out_gradient = _keep(lanes, refs['out_gradient'][0, rows])
      weights, sees_any = _weights(shape, head, rows, refs, of_query)
      of_weights = {kind: _dot_t(out_gradient, values[kind][0]) for kind in weights}
      centre: Any = sum(
        jnp.sum(weights[kind] * of_weights[kind], axis=1, keepdims=True) for kind in weights
      )
      for kind in weights:
        of_logits = _keep(sees_any, weights[kind] * (of_weights[kind] - centre))
        if kind == TOKENS and 'bias' in refs:
          refs['bias_gradient'][head, rows] += of_logits
        of_logits = of_logits.astype(query.dtype)
        query_gradient += _keep(lanes, _dot(of_logits, refs[f'{kind}key'][0]))
        sums[f'{kind}key'] += _t_dot(of_logits, query)
        sums[f'{kind}value'] += _t_dot(weights[kind].astype(query.dtype), out_gradient)
    gradient = refs['query_gradient']
    gradient[0, rows] = query_gradient.astype(gradient.dtype)
  for kind in values:
    sums[f'{kind}value'] *= values[kind][1]
  for name, total in sums.items():
    gradient = refs[f'{name}_gradient']
    gradient[0] = total.astype(gradient.dtype)


def _parts(length: int) -> Iterator[slice]:
  """Queries are worked through in parts: logits of one fit into registers and cache."""
  size = next(size for size in (128, 64, 32, 16) if length % size == 0)
  return (slice(start, start + size) for start in range(0, length, size))


def _kinds(refs: dict[str, Any]) -> list[str]:
  return [kind for kind in (TOKENS, PROMPTS) if f'{kind}key' in refs]


def _values(shape: _Shape, kind: str, refs: dict[str, Any]) -> tuple[Array, Any]:
  """Values after dropout, `[k, n * d]`, and by what each was multiplied."""
  value = refs[f'{kind}value'][0]
  if f'{kind}value_scale' not in refs:
    return value, 1.0
  scale: Any = 0.0
  for head in range(shape.heads):
    of_head = _column(refs[f'{kind}value_scale'][0, 0, head : head + 1], len(value))
    scale += _keep(_lanes_of(shape, head), jnp.broadcast_to(of_head, value.shape))
  return (value.astype(jnp.float32) * scale).astype(value.dtype), scale


def _lanes_of(shape: _Shape, head: int) -> Array:
  """Which lanes of a block are of a head, `[1, n * d]` bool."""
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, shape.width), 1)
  return (lane >= head * shape.head_dim) & (lane < (head + 1) * shape.head_dim)


def _keep(where: Array, x: Array) -> Array:
  return jnp.where(where, x, jnp.zeros_like(x))


def _column(row: Array, length: int) -> Array:
  """`[length, 1]` of `[1, length]`; whole tiles are what a TPU transposes."""
  padded = jnp.pad(row, ((0, 0), (0, -length % _LANES)))
  return jnp.broadcast_to(padded, (_LANES, padded.shape[1])).T[:length, :1]


def _weights(
  shape: _Shape, head: int, rows: slice, refs: dict[str, Any], of_query: Array
) -> tuple[dict[str, Array], Array]:
  """The softmax of one head over keys `[q, k]` and prompts `[q, p]`, float32, by kind.

  And whether a query sees any, `[q, 1]`: of one that sees none the weights are alike, but
  masked logits have no gradient.
  """
  query = _keep(_lanes_of(shape, head), refs['query'][0, rows])
  logits = {}
  for kind in _kinds(refs):
    of_kind = _dot_t(query, refs[f'{kind}key'][0])
    if kind == TOKENS and 'bias' in refs:
      of_kind += refs['bias'][head, rows]
    of_key = refs[f'{kind or "key_"}segments'][0]
    seen = (of_query[rows] == of_key) & (of_key > 0) | (of_key == EVERY_SEGMENT)
    if kind == TOKENS and shape.causal:
      place = functools.partial(jax.lax.broadcasted_iota, jnp.int32, of_kind.shape)
      seen &= place(1) <= place(0) + rows.start
    logits[kind] = jnp.where(seen, of_kind, MASKED_LOGIT)
  largest = functools.reduce(
    jnp.maximum, [jnp.max(x, axis=1, keepdims=True) for x in logits.values()]
  )
  powers = {kind: jnp.exp(x - largest) for kind, x in logits.items()}
  total = sum(jnp.sum(x, axis=1, keepdims=True) for x in powers.values())
  return {kind: x / total for kind, x in powers.items()}, largest > MASKED_LOGIT / 2


def _product(x: Array, y: Array, of_x: int, of_y: int) -> Array:
  return jax.lax.dot_general(
    x, y, (((of_x,), (of_y,)), ((), ())), preferred_element_type=jnp.float32
  )


_dot = functools.partial(_product, of_x=1, of_y=0)
_dot_t = functools.partial(_product, of_x=1, of_y=1)
_t_dot = functools.partial(_product, of_x=0, of_y=0)
