"""Attention with prompts, relative positions, and the parameter-free parts of T5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import layers
from hyperprompt_jax.nn.insertion import Prompts, Segments, prepend_prompts


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def naive_attention(query, key, value, prompt_key, prompt_value, bias, mask):
  """Attention to prompts and tokens in loops, in float64; arrays as in the layer."""
  batch, q_length, heads, width = query.shape
  out = np.zeros((batch, q_length, heads, width))
  for b in range(batch):
    for h in range(heads):
      for q in range(q_length):
        logits, values = [], []
        for p in range(prompt_key.shape[1]):
          logits.append(float(query[b, q, h] @ prompt_key[b, p, h]))
          values.append(prompt_value[b, p, h])
        for k in range(key.shape[1]):
          if mask[b, 0, q, k]:
            logits.append(float(query[b, q, h] @ key[b, k, h]) + bias[0, h, q, k])
            values.append(value[b, k, h])
        weights = np.exp(np.array(logits) - max(logits))
        weights /= weights.sum()
        out[b, q, h] = sum(w * v for w, v in zip(weights, values, strict=True))
  return out


def test_prompts_equal_a_naive_loop_over_rows_heads_and_queries():
  b, q, k, p, h, d = 2, 4, 5, 3, 2, 6
  query, key, value = _random(b, q, h, d), _random(b, k, h, d, seed=1), _random(b, k, h, d)
  prompt_key, prompt_value = _random(3, p, h, d, seed=2), _random(3, p, h, d, seed=3)
  bias = _random(1, h, q, k, seed=4)
  mask = np.random.default_rng(5).random((b, 1, q, k)) < 0.7
  tasks = np.array([2, 0])
  args = prepend_prompts(
    Prompts(jnp.asarray(prompt_key), jnp.asarray(prompt_value)),
    Segments(jnp.asarray(tasks[:, None]), jnp.ones((b, q), jnp.int32)),
    *map(jnp.asarray, (key, value, bias, mask)),
  )
  got = layers.dot_product_attention(
    jnp.asarray(query), args[0], args[1], bias=args[2], mask=args[3]
  )
  own = prompt_key[tasks], prompt_value[tasks]
  want = naive_attention(query, key, value, *own, bias, mask)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_query_with_no_key_left_gives_no_nan():
  x = jnp.asarray(_random(1, 2, 1, 4))
  out = layers.dot_product_attention(x, x, x, mask=jnp.zeros((1, 1, 2, 2), bool))
  assert np.isfinite(out).all()


def test_attention_dropout_drops_a_key_for_all_queries_of_a_head():
  ones = jnp.ones((1, 6, 2, 4))
  eye = jnp.eye(6)[None, :, None, :].repeat(2, axis=2)  # value of key k is one-hot k
  out = layers.dot_product_attention(
    ones, ones, eye, dropout_rng=jax.random.key(0), dropout_rate=0.5
  )
  dropped = np.asarray(out == 0)
  assert dropped.any() and not dropped.all()
  np.testing.assert_array_equal(dropped, dropped[:, :1].repeat(6, axis=1))


@pytest.mark.parametrize('bidirectional', [True, False])
def test_near_positions_have_buckets_of_their_own_and_far_ones_share(bidirectional):
  positions = np.arange(-400, 401)
  buckets = layers.relative_position_bucket(
    positions, bidirectional=bidirectional, num_buckets=32, max_distance=128
  )
  past = buckets[positions <= 0][::-1]  # by distance
  exact = 8 if bidirectional else 16
  np.testing.assert_array_equal(past[:exact], np.arange(exact))
  assert (np.diff(past) >= 0).all() and len(set(past[128:])) == 1
  future = buckets[positions > 0]
  if bidirectional:
    np.testing.assert_array_equal(future, past[1:] + 16)
  else:
    assert (future == 0).all()
  assert buckets.max() == 31


# T5X's buckets of distances 0 … 130 into the past (its `_relative_position_bucket`, run
# once): where they change, which is where rounding matters.
T5X_BORDERS = {
  True: [8, 12, 16, 23, 32, 46, 64, 91],
  False: [16, 19, 21, 24, 27, 31, 35, 40],
}


@pytest.mark.parametrize('bidirectional', [True, False])
def test_logarithmic_buckets_begin_where_t5x_has_them_begin(bidirectional):
  buckets = layers.relative_position_bucket(
    -np.arange(131), bidirectional=bidirectional, num_buckets=32, max_distance=128
  )
  exact = 8 if bidirectional else 16
  borders = [i for i in range(exact, 131) if buckets[i] != buckets[i - 1]]
  assert borders[:8] == T5X_BORDERS[bidirectional]


def test_bias_of_one_query_is_a_row_of_the_whole_bias():
  module = layers.RelativePositionBiases(num_heads=2, bidirectional=False)
  variables = module.init(jax.random.key(0), 7, 7)
  whole = module.apply(variables, 7, 7)
  row = module.apply(variables, 7, 7, query_index=jnp.int32(4))
  np.testing.assert_array_equal(row, whole[:, :, 4:5])


def test_layer_norm_scales_by_the_root_mean_square_in_float32():
  x = 1e4 * _random(3, 5)
  module = layers.LayerNorm(dtype=jnp.bfloat16)
  out = module.apply({'params': {'scale': jnp.arange(5.0)}}, jnp.asarray(x))
  want = x / np.sqrt((x**2).mean(-1, keepdims=True)) * np.arange(5)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(np.float32), want, rtol=2e-2, atol=1e-2)
