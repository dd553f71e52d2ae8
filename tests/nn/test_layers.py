"""Relative positions, and the parameter-free parts of T5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import layers


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


# T5X's buckets of distances 0 … 130 into the past, computed by its
# `_relative_position_bucket`. Rounding matters at the distances where they change.
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


@pytest.mark.parametrize('dropout_rate', [0.0, 0.5])
def test_the_mlp_of_tpus_is_that_of_other_devices(monkeypatch, dropout_rate):
  module = layers.MlpBlock(6, ('gelu', 'linear'), dropout_rate, dropout_rate == 0.0)
  x = _random(2, 3, 4)
  params = module.init({'params': jax.random.key(0), 'dropout': jax.random.key(1)}, x)

  def value_and_gradients():
    function = lambda params: module.apply(
      params, x, rngs={'dropout': jax.random.key(1)}
    ).sum()
    return jax.value_and_grad(function)(params)

  elsewhere = value_and_gradients()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert layers.backend.gated_product(module.activations) is not None
  close = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, value_and_gradients(), elsewhere)
