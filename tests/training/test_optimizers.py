"""Adafactor takes T5's steps for each tensor, stacked or not; spikes are skipped."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.stacking import stack_layers, unstack_layers
from hyperprompt_jax.training import optimizers


def _tree(seed, scale=1.0):
  """Layers of very different size, the least below Adafactor's; all may be factored."""
  rng = np.random.default_rng(seed)

  def layer(size):
    return {
      'kernel': jnp.asarray(scale * size * rng.normal(size=(130, 140)), jnp.float32),
      'scale': jnp.asarray(scale * size * rng.normal(size=(7,)), jnp.float32),
    }

  return {
    'encoder': {f'layers_{i}': layer(10.0**-i) for i in range(5)},
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
  for path, e in jax.tree_util.tree_leaves_with_path(expected):
    parameter = functools.reduce(lambda tree, entry: tree[entry.key], path, params)
    # An element near zero is a difference of larger numbers, with their rounding error.
    np.testing.assert_allclose(parameter, e, rtol=2e-5, atol=1e-8 * abs(e).max())


def test_stacked_layers_take_the_very_steps_that_unrolled_layers_take():
  unrolled = _tree(0)
  stacked = stack_layers(unrolled)
  transform = optimizers.adafactor(0.1)
  states = transform.init(unrolled), transform.init(stacked)
  for step in range(2):
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
    largest_update = max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates))
    assert (largest_update > 0) == (step < 2)


def test_the_learning_rates_of_each_step_are_told():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  adafactor = optimizers.adafactor(schedule, method_learning_rate=0.03)
  skipping = optimizers.skip_step_on_spikes(adafactor)
  injected = optax.inject_hyperparams(optax.adam)(schedule)
  params = _tree(0)
  names = {'learning_rate', 'method_learning_rate'}
  for optimizer, told in (
    (adafactor, names),
    (skipping, names),
    (injected, {'learning_rate'}),
  ):
    state = optimizer.init(params)
    for step in range(3):
      before = state
      update = optax.with_extra_args_support(optimizer).update
      _, state = update(_tree(step + 1), state, params, value=jnp.float32(1.0))
      rates = optimizers.learning_rates(optimizer, before, state)
      assert rates.keys() == told and rates['learning_rate'] == 1.0 - step / 4
      assert rates.get('method_learning_rate', 0.03) == pytest.approx(0.03)
  plain = optax.adam(0.1).init(params)
  assert not optimizers.learning_rates(optax.adam(0.1), plain, plain)


def one_step(params, grads, **options):
  transform = optimizers.adafactor(0.01, **options)
  updates, _ = transform.update(grads, transform.init(params), params)
  return updates


def test_the_method_has_a_learning_rate_of_its_own():
  params, grads = _tree(0), _tree(1)
  same, other = (
    one_step(params, grads, method_learning_rate=rate) for rate in (None, 0.03)
  )
  np.testing.assert_allclose(
    other['method']['prompts'], 3 * same['method']['prompts'], rtol=1e-6
  )
  for stack in ('encoder', 'decoder'):
    jax.tree.map(np.testing.assert_array_equal, other[stack], same[stack])


def test_a_run_may_be_resumed_with_another_rate_of_the_method():
  # The state has the same tree, whatever the rates.
  states = [
    optimizers.adafactor(0.01, method_learning_rate=rate).init(_tree(0))
    for rate in (None, 0.03)
  ]
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_weight_decay_takes_a_part_of_each_parameter_whatever_the_learning_rate():
  params, grads = _tree(0), _tree(1)
  plain = one_step(params, grads)
  decayed = one_step(params, grads, weight_decay_rate=1e-3)
  jax.tree.map(
    lambda d, u, p: np.testing.assert_allclose(d, u - 1e-3 * p, rtol=1e-5, atol=1e-9),
    decayed,
    plain,
    params,
  )


# ---- Spikes ----

INTERVAL = 16
SKIPPING = optimizers.skip_step_on_spikes(
  optax.adam(0.1), INTERVAL, max_consecutive_errors=2
)
PLAIN = optax.with_extra_args_support(optax.adam(0.1))


@functools.partial(jax.jit, static_argnums=0)
def take(optimizer, params, state, loss, size):
  grads = jax.tree.map(lambda x: size * jnp.cos(x), params)
  updates, state = optimizer.update(grads, state, params, value=loss)
  return optax.apply_updates(params, updates), state


def steps_of(optimizer, steps):
  """Returns parameters and state after steps of given losses and gradient sizes."""
  # The sign of a zero shows whether a parameter was updated at all.
  params = {'a': jnp.array([1.0, -2.0, 0.0, -0.0]), 'b': jnp.ones((2, 2))}
  state = optimizer.init(params)
  for loss, size in steps:
    params, state = take(optimizer, params, state, jnp.float32(loss), jnp.float32(size))
  return params, state


def calm(number, seed=0):
  """Returns losses and gradient sizes that vary little."""
  return list(1 + 0.05 * np.random.default_rng(seed).normal(size=(number, 2)))


def bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


SPIKES = [(9.0, 1.0), (1.0, 9.0), (math.nan, 1.0), (1.0, math.inf), (1e30, 1e30)]


@pytest.mark.parametrize('spike', SPIKES)
def test_a_spike_leaves_parameters_and_optimizer_to_the_bit(spike):
  before = steps_of(SKIPPING, calm(INTERVAL // 2))
  params, state = steps_of(SKIPPING, [*calm(INTERVAL // 2), spike])
  assert bits(params) == bits(before[0])
  assert bits(state.inner_state) == bits(before[1].inner_state)
  assert (before[1].skipped_steps, state.skipped_steps) == (0, 1)


def test_steps_between_spikes_are_the_optimizers_own():
  interval = 6
  skipping = optimizers.skip_step_on_spikes(
    optax.adam(0.1), interval, max_consecutive_errors=2
  )
  one, two = calm(interval), calm(interval + 4, seed=1)
  # The first spike must not let the second one pass.
  spikes = [(100.0, 1.0), (8.0, 1.0), (math.nan, math.nan), (1.0, 7.0)]
  # Two compiled programs may round differently, so operations run one by one.
  with jax.disable_jit():
    params, state = steps_of(skipping, [*one, *spikes, *two])
    wanted, wanted_state = steps_of(PLAIN, [*one, *two])
  assert bits(params) == bits(wanted)
  assert bits(state.inner_state) == bits(wanted_state)
  assert state.skipped_steps == len(spikes)


def test_a_spike_before_there_is_a_history_is_a_step():
  _, state = steps_of(SKIPPING, [*calm(INTERVAL // 2 - 1), (9.0, 9.0)])
  assert state.skipped_steps == 0


def test_what_is_not_finite_is_skipped_from_the_first_step_on():
  params, state = steps_of(SKIPPING, [(math.nan, 1.0)])
  assert bits(params) == bits(steps_of(SKIPPING, [])[0])  # -0.0 keeps its sign
  assert state.skipped_steps == 1


def test_a_new_level_is_skipped_for_a_while_and_not_forever():
  _, state = steps_of(
    SKIPPING, [*calm(INTERVAL), *calm(INTERVAL, seed=1) + np.array([4, 0])]
  )
  assert 2 < state.skipped_steps < INTERVAL


def test_what_stays_not_finite_ends_in_a_step():
  steps = [*calm(INTERVAL), *[(math.nan, math.nan)] * 2]
  params, state = steps_of(SKIPPING, steps)
  assert state.skipped_steps == 2 and np.isfinite(params['a']).all()
  # A step that is taken restarts the count.
  _, state = steps_of(SKIPPING, [*steps, *calm(1), *steps[-2:]])
  assert state.skipped_steps == 4
  params, state = steps_of(SKIPPING, [*steps, (math.nan, math.nan)])
  assert state.skipped_steps == 2 and not np.isfinite(params['a']).any()


@pytest.mark.parametrize(
  'wrong', [{'interval': 1}, {'scaling_factor': -1.0}, {'max_consecutive_errors': -1}]
)
def test_a_rule_that_cannot_be(wrong):
  (name,) = wrong
  with pytest.raises(UserError, match=f'skip_step_on_spikes.{name} must be'):
    optimizers.skip_step_on_spikes(optax.sgd(1.0), **wrong)
