"""The seam between the network and the kinds of devices."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import backend, custom_gradients, joined_heads
from hyperprompt_jax.planning import arithmetic

NN = pathlib.Path(backend.__file__).parent


@pytest.mark.parametrize('path', sorted(NN.glob('*.py')), ids=lambda path: path.name)
def test_no_other_module_of_the_network_asks_for_the_platform(path):
  nodes = ast.walk(ast.parse(path.read_text()))
  names = {getattr(node, 'attr', getattr(node, 'id', None)) for node in nodes}
  asks = bool(names & {'platform', 'default_backend'})
  assert asks == (path.name == 'backend.py')


@pytest.mark.parametrize('rows', [1, 2, 3, 7])
def test_the_gradient_of_a_bias_is_the_sum_over_rows(rows):
  rng = np.random.default_rng(0)
  bias = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
  weights = rng.normal(size=(rows, 2, 3, 4)).astype(np.float32)
  loss = lambda bias: jnp.sum(custom_gradients.repeated(bias, rows) * weights)
  np.testing.assert_allclose(loss(bias), (bias * weights).sum(), rtol=1e-4)
  expected = weights.sum(axis=0, keepdims=True)
  np.testing.assert_allclose(jax.grad(loss)(bias), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('argnums', [(0, 1), (0,), (1,)])
@pytest.mark.parametrize('name', ['matmul', '_gradients_at_once'])
def test_a_product_has_the_gradients_of_jax(name, argnums):
  outputs = 24
  x = jax.random.normal(jax.random.key(0), (2, 3, 16))
  kernel = jax.random.normal(jax.random.key(1), (16, outputs))
  weights = jax.random.normal(jax.random.key(2), (2, 3, outputs))
  values = []
  for product in (getattr(backend, name), jnp.matmul):
    loss = lambda x, kernel, product=product: jnp.sum(product(x, kernel) * weights)
    gradients = jax.value_and_grad(loss, argnums=argnums)
    values.append(jax.jit(gradients)(x, kernel))
    # A gradient that is not asked for is not computed either.
    flops = arithmetic.count(gradients, x, kernel).flops
    assert flops == (1 + len(argnums)) * 2 * x.size * outputs
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, *values)


def test_a_transposition_is_not_fused_with_what_comes_before():
  def gradient(stack, layer, kernel, weights):
    product = lambda kernel: backend.matmul(stack[layer], kernel)
    return jax.vjp(product, kernel)[1](weights)

  arrays = (jnp.ones((3, 16, 32)), 1, jnp.ones((32, 8)), jnp.ones((16, 8)))
  compiled = jax.jit(gradient).lower(*arrays).compile().as_text()
  assert ' call(' in compiled


@pytest.mark.parametrize('size', [7, 96, 384])
def test_argmax_is_the_first_of_the_largest(size):
  x = np.random.default_rng(0).integers(0, 9, (5, 4, size)).astype(np.float32)
  places = jax.jit(backend.argmax)(x)
  assert places.dtype == jnp.int32
  np.testing.assert_array_equal(places, x.argmax(axis=-1))


@pytest.mark.parametrize('kernel_is_trained', [True, False])
def test_the_product_of_a_gated_mlp_has_the_gradients_of_jax(kernel_is_trained):
  keys = map(jax.random.key, range(5))
  shapes = ((2, 3, 16), (2, 3, 16), (16, 5), (2, 3, 5))
  gate, linear, kernel, weights = (
    jax.random.normal(key, shape) for shape, key in zip(shapes, keys, strict=False)
  )
  scale = jax.random.bernoulli(next(keys), 0.5, (2, 1, 16)).astype(jnp.float32) / 0.5
  assert 0 < jnp.mean(scale == 0) < 1

  def plain(gate, linear, scale, kernel):
    return (jax.nn.gelu(gate) * linear * scale) @ kernel

  values = []
  for product in (custom_gradients.gated_product, plain):
    loss = lambda gate, linear, kernel, product=product: jnp.sum(
      product(gate, linear, scale, kernel) * weights
    )
    argnums = (0, 1, 2) if kernel_is_trained else (0, 1)
    gradients = jax.value_and_grad(loss, argnums=argnums)
    values.append(jax.jit(gradients)(gate, linear, kernel))
    # A kernel's gradient that is not asked for is not computed either.
    flops = arithmetic.count(gradients, gate, linear, kernel).flops
    assert flops == (2 + kernel_is_trained) * 2 * gate.size * kernel.shape[-1]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, *values)


@pytest.mark.parametrize('groups', [1, 2])
def test_products_of_joined_heads_are_those_of_each_head(groups):
  """Also in bfloat16, in which the other heads add nothing but zeros."""
  query, key, value = (
    jax.random.normal(jax.random.key(seed), (3, length, 4, 5), jnp.bfloat16)
    for seed, length in enumerate((2, 7, 7))
  )
  logits = joined_heads.logits(query, key, groups)
  expected = np.einsum('BQhk,BKhk->BhQK', *(np.float32(x) for x in (query, key)))
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
  weights = jax.nn.softmax(logits)
  sums = joined_heads.weighted_sum(weights, value.astype(jnp.float32), groups)
  expected = np.einsum('BhQK,BKhk->BQhk', weights, np.float32(value))
  np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-6)
