"""Adafactor takes T5's steps: tensor by tensor, stacked or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperprompt_jax import optimizers
from hyperprompt_jax.nn.stacking import stack_layers, unstack_layers


def _tree(seed, scale=1.0):
  """Layers of very different size, large enough to be factored."""
  rng = np.random.default_rng(seed)

  def layer(size):
    return {
      'kernel': jnp.asarray(scale * size * rng.normal(size=(130, 140)), jnp.float32),
      'scale': jnp.asarray(scale * size * rng.normal(size=(7,)), jnp.float32),
    }

  return {
    'encoder': {f'layers_{i}': layer(10.0**-i) for i in range(3)},
    'decoder': {f'layers_{i}': layer(10.0**i) for i in range(2)},
    'method': {'prompts': jnp.asarray(scale * rng.normal(size=(2, 3, 4)), jnp.float32)},
  }


def naive_step(step, param, grad, state, learning_rate=1e-3):
  """One step of Adafactor for one tensor (Shazeer & Stern 2018, algorithms 4 to 6)."""
  param, grad = np.asarray(param, np.float64), np.asarray(grad, np.float64)
  decay = 1.0 - (step + 1.0) ** -0.8
  squared = grad**2 + 1e-30
  if param.ndim == 2 and min(param.shape) >= 128:
    row = state.get('row', 0.0) * decay + (1 - decay) * squared.mean(axis=1)
    column = state.get('column', 0.0) * decay + (1 - decay) * squared.mean(axis=0)
    state |= {'row': row, 'column': column}
    second_moment = np.outer(row, column) / row.mean()
  else:
    second_moment = state.get('all', 0.0) * decay + (1 - decay) * squared
    state['all'] = second_moment
  update = grad / np.sqrt(second_moment)
  update /= max(1.0, np.sqrt((update**2).mean()))
  scale = max(1e-3, np.sqrt((param**2).mean()))
  return param - learning_rate * scale * update


def test_steps_equal_the_paper_tensor_by_tensor():
  params = _tree(0)
  transform = optimizers.adafactor(1e-3)
  state = transform.init(params)
  expected = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  naive_states = jax.tree.map(lambda x: {}, params)
  for step in range(3):
    grads = _tree(step + 1, scale=0.1**step)
    updates, state = transform.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    expected = jax.tree.map(
      lambda p, g, s, step=step: naive_step(step, p, g, s), expected, grads, naive_states
    )
  jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=2e-5), params, expected)


def test_stacked_layers_take_the_very_steps_that_unrolled_layers_take():
  unrolled = _tree(0)
  stacked = stack_layers(unrolled)
  transform = optimizers.adafactor(0.1)
  states = transform.init(unrolled), transform.init(stacked)
  for step in range(5):
    grads = _tree(step + 1, scale=0.3**step)
    updates, first = transform.update(grads, states[0], unrolled)
    unrolled = optax.apply_updates(unrolled, updates)
    updates, second = transform.update(stack_layers(grads), states[1], stacked)
    stacked = optax.apply_updates(stacked, updates)
    states = first, second
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    unstack_layers(stacked),
    unrolled,
  )


def test_a_schedule_of_the_learning_rate_counts_steps():
  schedule = optax.piecewise_constant_schedule(1.0, {2: 0.0})
  params = _tree(0)
  transform = optimizers.adafactor(schedule)
  state = transform.init(params)
  for step in range(4):
    updates, state = transform.update(_tree(step + 1), state, params)
    moved = max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates))
    assert (moved > 0) == (step < 2)
