"""Attention with prompts: written out, and by the TPU's kernel, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import attention, fused_attention
from hyperprompt_jax.nn.insertion import EVERY_SEGMENT, Mask


def _arrays(rows, queries, keys, prompts, heads, head_dim, *, packed=False, dropout=True):
  """Random arrays of attention, and segments; without packing a row ends in padding."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  joined = lambda length: normal(rows, length, heads * head_dim) / head_dim**0.25
  arrays = {'query': joined(queries), 'key': joined(keys), 'value': joined(keys)}
  arrays['bias'] = normal(1, heads, queries, keys)
  most = 3 if packed else 1
  ends = lambda length: -np.sort(-rng.integers(0, most + 1, (rows, length)), axis=1)
  segments = {'query_segments': ends(queries), 'key_segments': ends(keys)}
  if prompts:
    arrays |= {'prompt_key': joined(prompts), 'prompt_value': joined(prompts)}
    owners = np.arange(prompts) % 3 + 1 if packed else np.full(prompts, EVERY_SEGMENT)
    arrays['prompt_segments'] = np.broadcast_to(owners, (rows, prompts))
  if dropout:
    keep = lambda length: (rng.random((rows, length, heads)) < 0.8) / np.float32(0.8)
    arrays['value_scale'] = keep(keys)
    if prompts:
      arrays['prompt_value_scale'] = keep(prompts)
  return jax.tree.map(jnp.asarray, (arrays, segments))


def _naive(arrays, segments, head_dim, causal):
  """Attention in loops over rows, heads and queries, in float64."""
  given = {name: np.asarray(x, np.float64) for name, x in (arrays | segments).items()}
  rows, queries, width = given['query'].shape
  heads = width // head_dim
  out = np.zeros((rows, queries, heads, head_dim))
  split = lambda name: given[name].reshape(rows, -1, heads, head_dim)
  for b in range(rows):
    for h in range(heads):
      for q in range(queries):
        logits, values = [], []
        own = given['query_segments'][b, q]
        for kind, owners in (('prompt_', 'prompt_segments'), ('', 'key_segments')):
          for k in range(given[f'{kind}key'].shape[1] if f'{kind}key' in given else 0):
            owner = given[owners][b, k]
            seen = owner == EVERY_SEGMENT or (owner == own and owner > 0)
            if not kind and causal and k > q:
              seen = False
            logit = split('query')[b, q, h] @ split(f'{kind}key')[b, k, h]
            logit += 0 if kind else given['bias'][0, h, q, k]
            scale = given.get(f'{kind}value_scale')
            logits.append(logit if seen else -1e10)
            by = 1 if scale is None else scale[b, k, h]
            values.append(split(f'{kind}value')[b, k, h] * by)
        weights = np.exp(np.array(logits) - max(logits))
        out[b, q, h] = (weights / weights.sum()) @ np.array(values)
  return out.reshape(rows, queries, width)


def _written_out(arrays, segments, head_dim, causal):
  of_query = segments['query_segments']
  dense = Mask.of(of_query, segments['key_segments'], causal=causal).dense
  return attention.attend(arrays, of_query, dense, head_dim=head_dim)[0]


def _fused(arrays, segments, head_dim, causal):
  arrays = {**arrays, **segments, 'bias': arrays['bias'][0]}
  return fused_attention.attend(arrays, head_dim=head_dim, causal=causal, interpret=True)


@pytest.mark.parametrize('prompts', [0, 5])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('function', [_written_out, _fused])
def test_attention_equals_a_naive_loop(function, packed, prompts):
  causal = packed
  arrays, segments = _arrays(2, 16, 16, prompts, 2, 8, packed=packed)
  got = function(arrays, segments, 8, causal)
  np.testing.assert_allclose(got, _naive(arrays, segments, 8, causal), atol=1e-5)


@pytest.mark.parametrize(
  ('sizes', 'options'),
  [
    # Two blocks of two heads, three parts of queries, prompts of three segments.
    ((2, 384, 128, 20, 4, 64), {'packed': True}),
    ((2, 128, 128, 16, 4, 64), {}),
    # Heads that no block of whole lanes divides; fewer queries than a tile; no dropout.
    ((2, 48, 256, 0, 3, 64), {'dropout': False}),
    ((1, 128, 128, 16, 2, 128), {'packed': True}),
  ],
)
@pytest.mark.parametrize('causal', [False, True])
def test_the_kernel_equals_attention_written_out_gradients_included(sizes, options, causal):
  arrays, segments = _arrays(*sizes, **options)
  moving = {name: x for name, x in arrays.items() if x.dtype == jnp.float32}
  moving = {name: x for name, x in moving.items() if not name.endswith('scale')}
  direction = jax.random.normal(jax.random.key(0), arrays['query'].shape)

  def value_and_gradients(function):
    def summed(moving):
      out = function({**arrays, **moving}, segments, sizes[-1], causal)
      return jnp.sum(out * direction), out

    gradients, out = jax.jit(jax.grad(summed, has_aux=True))(moving)
    return {**gradients, 'out': out}

  wanted, got = value_and_gradients(_written_out), value_and_gradients(_fused)
  for name, want in wanted.items():
    error = float(jnp.max(jnp.abs(got[name] - want)) / jnp.max(jnp.abs(want)))
    assert error < 1e-5, name


def test_a_query_with_no_key_left_gives_no_nan():
  arrays, segments = _arrays(1, 16, 16, 0, 1, 4)
  segments = jax.tree.map(jnp.zeros_like, segments)
  for function in (_written_out, _fused):
    assert np.isfinite(function(arrays, segments, 4, False)).all()


def test_dropout_drops_a_key_for_all_queries_of_a_head():
  module = attention.MultiHeadDotProductAttention(num_heads=2, head_dim=4, dropout_rate=0.5)
  arrays = {'value': jnp.ones((3, 6, 8)), 'prompt_value': jnp.ones((3, 2, 8))}
  scales = module.apply(
    {}, arrays, method=module._dropout, rngs={'dropout': jax.random.key(0)}
  )
  assert scales['value_scale'].shape == (3, 6, 2)
  assert scales['prompt_value_scale'].shape == (3, 2, 2)
  assert set(np.unique(scales['value_scale'])) == {0.0, 2.0}


@pytest.mark.parametrize(
  ('sizes', 'want'),
  [
    ((12, 64, 512, 512), True),
    ((12, 64, 64, 512), True),
    ((12, 64, 1024, 512), False),  # its bias would not fit
    ((12, 64, 512, 528), False),  # not of whole tiles
    ((12, 64, 60, 512), False),
    ((3, 64, 512, 512), False),  # three heads do not fill whole lanes by twos
  ],
)
def test_sizes_that_there_is_a_kernel_for(sizes, want):
  assert fused_attention.supports(*sizes) is want


@pytest.mark.parametrize('rows', [1, 2, 3, 7])
def test_the_gradient_of_a_bias_is_the_sum_over_rows(rows):
  rng = np.random.default_rng(0)
  bias = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
  weights = rng.normal(size=(rows, 2, 3, 4)).astype(np.float32)
  loss = lambda bias: jnp.sum(attention._repeated(bias, rows) * weights)
  np.testing.assert_allclose(loss(bias), (bias * weights).sum(), rtol=1e-4)
  expected = weights.sum(axis=0, keepdims=True)
  np.testing.assert_allclose(jax.grad(loss)(bias), expected, rtol=1e-5, atol=1e-6)
