"""Attention with prompts: written out, and by the interpreted TPU kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import attention, fused_attention
from hyperprompt_jax.nn.attention_inputs import AttentionInputs, Keys
from hyperprompt_jax.nn.segments import EVERY_SEGMENT
from hyperprompt_jax.planning import plan
from tests import slow


def _inputs(
  rows, queries, keys, prompts, heads, head_dim, *, packed=False, dropout=True, causal=False
):
  """Random inputs of attention; without packing a row ends in padding."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  joined = lambda length: normal(rows, length, heads * head_dim) / head_dim**0.25
  most = 3 if packed else 1
  ends = lambda length: -np.sort(-rng.integers(0, most + 1, (rows, length)), axis=1)
  keep = lambda length: (rng.random((rows, length, heads)) < 0.8) / np.float32(0.8)

  def given(length, segments):
    scale = keep(length) if dropout else None
    return Keys(joined(length), joined(length), segments, scale)

  owners = np.arange(prompts) % 3 + 1 if packed else np.full(prompts, EVERY_SEGMENT)
  inputs = AttentionInputs(
    joined(queries),
    ends(queries),
    given(keys, ends(keys)),
    given(prompts, np.broadcast_to(owners, (rows, prompts))) if prompts else None,
    normal(1, heads, queries, keys),
    head_dim=head_dim,
    causal=causal,
  )
  return jax.tree.map(jnp.asarray, inputs)


def _naive(inputs):
  """Attention in loops over rows, heads and queries, in float64."""
  head_dim, causal = inputs.head_dim, inputs.causal
  inputs = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
  rows, queries, width = inputs.query.shape
  heads = width // head_dim
  out = np.zeros((rows, queries, heads, head_dim))
  split = lambda x: x.reshape(rows, -1, heads, head_dim)
  for b in range(rows):
    for h in range(heads):
      for q in range(queries):
        logits, values = [], []
        own = inputs.query_segments[b, q]
        for keys in (inputs.prompts, inputs.tokens):
          for k in range(0 if keys is None else keys.key.shape[1]):
            owner = keys.segments[b, k]
            seen = owner == EVERY_SEGMENT or (owner == own and owner > 0)
            is_token = keys is inputs.tokens
            if is_token and causal and k > q:
              seen = False
            logit = split(inputs.query)[b, q, h] @ split(keys.key)[b, k, h]
            logit += inputs.bias[0, h, q, k] if is_token else 0
            scale = keys.value_scale
            logits.append(logit if seen else -1e10)
            by = 1 if scale is None else scale[b, k, h]
            values.append(split(keys.value)[b, k, h] * by)
        weights = np.exp(np.array(logits) - max(logits))
        out[b, q, h] = (weights / weights.sum()) @ np.array(values)
  return out.reshape(rows, queries, width)


def _written_out(inputs):
  return attention.attend_written_out(inputs)[0]


def _fused(inputs):
  kernel = fused_attention.Kernel(interpret=True)
  return fused_attention.attend_and_project(kernel, inputs, jnp.eye(inputs.query.shape[-1]))


@pytest.mark.parametrize('prompts', [0, 5])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('function', [_written_out, _fused])
def test_attention_equals_a_naive_loop(function, packed, prompts):
  inputs = _inputs(2, 16, 16, prompts, 2, 8, packed=packed, causal=packed)
  np.testing.assert_allclose(function(inputs), _naive(inputs), atol=1e-5)


@pytest.mark.parametrize(
  ('sizes', 'options'),
  [
    # Two blocks of two heads, three parts of queries, prompts of three segments.
    ((2, 384, 128, 20, 4, 64), {'packed': True}),
    ((2, 128, 128, 16, 4, 64), {}),
    # Heads that no block of whole lanes divides; fewer queries than a tile; no dropout.
    ((2, 48, 256, 0, 3, 64), {'dropout': False}),
    ((1, 128, 128, 16, 2, 128), {'packed': True}),
    # A second part of 16 queries, and keys that fill no whole lanes.
    ((1, 144, 48, 16, 2, 64), {}),
  ],
)
@pytest.mark.parametrize('causal', slow.all_but([True], [False, True]))
def test_the_kernel_equals_attention_written_out_gradients_included(sizes, options, causal):
  inputs = _inputs(*sizes, causal=causal, **options)
  names = ['query', 'bias', 'tokens', *(['prompts'] if sizes[3] else [])]
  part = lambda x: {'key': x.key, 'value': x.value} if isinstance(x, Keys) else x
  differentiated = {name: part(getattr(inputs, name)) for name in names}
  direction = jax.random.normal(jax.random.key(0), inputs.query.shape)

  def value_and_gradients(function):
    def summed(arrays):
      arrays = {
        name: getattr(inputs, name).replace(**x) if isinstance(x, dict) else x
        for name, x in arrays.items()
      }
      out = function(inputs.replace(**arrays))
      return jnp.sum(out * direction), out

    gradients, out = jax.jit(jax.grad(summed, has_aux=True))(differentiated)
    return {**gradients, 'out': out}

  wanted, got = value_and_gradients(_written_out), value_and_gradients(_fused)
  assert set(wanted) == {*names, 'out'}

  def compare(path, got, want):
    error = float(jnp.max(jnp.abs(got - want)) / jnp.max(jnp.abs(want)))
    assert error < 1e-5, path

  jax.tree_util.tree_map_with_path(compare, got, wanted)


def test_a_query_with_no_key_left_gives_no_nan():
  inputs = _inputs(1, 16, 16, 0, 1, 4)
  hidden = inputs.replace(
    query_segments=jnp.zeros_like(inputs.query_segments),
    tokens=inputs.tokens.replace(segments=jnp.zeros_like(inputs.tokens.segments)),
  )
  for function in (_written_out, _fused):
    assert np.isfinite(function(hidden)).all()


def test_dropout_drops_a_key_for_all_queries_of_a_head():
  module = attention.MultiHeadDotProductAttention(num_heads=2, head_dim=4, dropout_rate=0.5)
  inputs = _inputs(3, 6, 6, 2, 2, 4, dropout=False)
  dropped = module.apply(
    {}, inputs, method=module._with_dropout, rngs={'dropout': jax.random.key(0)}
  )
  assert dropped.tokens.value_scale.shape == (3, 6, 2)
  assert dropped.prompts.value_scale.shape == (3, 2, 2)
  assert set(np.unique(dropped.tokens.value_scale)) == {0.0, 2.0}


@pytest.mark.parametrize(
  ('sizes', 'want'),
  [
    ((12, 64, 512, 512), True),
    ((12, 64, 64, 512), True),
    ((12, 64, 1024, 512), False),  # its bias would not fit
    ((12, 64, 496, 48), True),
    ((12, 64, 512, 504), False),  # not of whole tiles
    ((12, 64, 60, 512), False),
    ((3, 64, 512, 512), False),  # three heads do not fill whole lanes by twos
  ],
)
def test_sizes_that_there_is_a_kernel_for(sizes, want):
  assert fused_attention.supports(*sizes) is want


def _rounded(keys):
  key, value = (x.astype(jnp.bfloat16) for x in (keys.key, keys.value))
  return keys.replace(key=key, value=value)


def _operations(jaxpr, shape):
  """The primitives of a kernel that take or return an array of a shape."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'pallas_call':
      yield from _operations(equation.params['jaxpr'], shape)
    elif shape in {x.aval.shape for x in (*equation.invars, *equation.outvars)}:
      yield equation.primitive.name


def test_the_planner_knows_the_operations_of_each_logit():
  given = _inputs(1, 128, 256, 16, 1, 128)
  given = given.replace(
    query=given.query.astype(jnp.bfloat16),
    tokens=_rounded(given.tokens),
    prompts=_rounded(given.prompts),
  )
  kernel = fused_attention.Kernel()
  passes = (kernel.attend, lambda inputs: kernel.gradients(inputs, inputs.query))
  traced = [jax.make_jaxpr(function)(given).jaxpr for function in passes]
  names = [name for jaxpr in traced for name in _operations(jaxpr, (128, 256))]
  # Products are those of the matrix units. Layouts and copies are no operations. (`jit`
  # stands for `where`.)
  others = ('dot_general', 'broadcast_in_dim', 'transpose', 'get', 'swap')
  assert names.count('dot_general') / 2 == plan.PRODUCTS
  assert len([x for x in names if x not in others]) / 2 == plan.VECTOR_OPERATIONS
