"""With `by_task`, absent tasks keep their bits, and present ones step as if alone."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from hyperprompt_jax.checkpoints import Checkpointer, TrainState
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import optimizers, trainable
from hyperprompt_jax.training.rare_tasks import by_task
from hyperprompt_jax.training.settings import LAST_TASK, Retention
from hyperprompt_jax.training.train_step import abstract_state, make_train_step
from tests import slow, tiny

# Parameters of tasks along the first axis and along the second.
METHOD = tiny.METHODS['hyperprompt_sep']
MODEL = tiny.model(METHOD, num_encoder_layers=1, num_decoder_layers=1, scan_layers=False)
# Optimizers that move a parameter, or change its state, although its gradient is zero.
OPTIMIZERS = {
  'adamw': optax.adamw(0.1, weight_decay=0.01),
  'adafactor': optimizers.adafactor(0.1, weight_decay_rate=0.01),
  'momentum': optax.sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9),
}
every_optimizer = pytest.mark.parametrize('name', slow.all_but(['adafactor'], OPTIMIZERS))
# The tasks that each step has.
STEPS = [(0, 2), (2,), (0, 3), (2, 3)]


def parts_of(tree, task=None):
  """The parts of the method's tree that a task owns; those that tasks share for None."""
  axes = trainable.task_axes(MODEL.param_axes())
  flat = traverse_util.flatten_dict(tree)
  if task is None:
    return {'/'.join(p): x for p, x in flat.items() if p not in axes}
  return {
    '/'.join(p): np.take(np.asarray(x), task, axes[p]) for p, x in flat.items() if p in axes
  }


def gradients(step):
  """Gradients that are zero for the tasks that a step does not have, and its tokens."""
  present = np.isin(np.arange(len(tiny.TASKS)), STEPS[step])
  axes = trainable.task_axes(MODEL.param_axes())

  def mask(path, x):
    if path not in axes:
      return x
    shape = [-1 if axis == axes[path] else 1 for axis in range(x.ndim)]
    return x * present.reshape(shape)

  params = tiny.init(MODEL, seed=step + 1)
  return traverse_util.path_aware_map(mask, params), 5.0 * present


def train(optimizer, params, state=None, steps=(0, 1, 2, 3), watch=lambda *_: None):
  """Takes steps; `watch` is given the step, and parameters and state before and after."""
  state = optimizer.init(params) if state is None else state
  update = jax.jit(optimizer.update)
  for step in steps:
    grads, task_tokens = gradients(step)
    updates, new_state = update(grads, state, params, task_tokens=task_tokens)
    new_params = optax.apply_updates(params, updates)
    watch(step, (params, state), (new_params, new_state))
    params, state = new_params, new_state
  return params, state


@every_optimizer
def test_absent_tasks_keep_their_bits_and_shared_parameters_move_as_before(name):
  def watch(step, before, after):
    for task in range(len(tiny.TASKS)):
      old, new = (parts_of(params, task) for params, _ in (before, after))
      for path in old:
        assert np.array_equal(old[path], new[path]) == (task not in STEPS[step]), path

  params = tiny.init(MODEL)
  got, _ = train(by_task(OPTIMIZERS[name], METHOD, MODEL.config), params, watch=watch)
  plain = optax.with_extra_args_support(OPTIMIZERS[name])
  want, _ = train(plain, params)
  tiny.assert_trees_close(parts_of(got), parts_of(want), 1e-6)
  # The same steps without `by_task` move tasks that are absent, or move others otherwise.
  assert not all(
    np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True)
  )


@every_optimizer
def test_a_present_task_moves_as_it_would_alone(name):
  params = tiny.init(MODEL)
  got, _ = train(by_task(OPTIMIZERS[name], METHOD, MODEL.config), params)
  for task in range(len(tiny.TASKS)):
    plain = optax.with_extra_args_support(OPTIMIZERS[name])
    alone = {'method': parts_of(params, task)}
    state = plain.init(alone)
    for step, tasks in enumerate(STEPS):
      if task in tasks:
        grads = {'method': parts_of(gradients(step)[0], task)}
        updates, state = plain.update(grads, state, alone)
        alone = optax.apply_updates(alone, updates)
    for path, x in parts_of(got, task).items():
      np.testing.assert_allclose(x, alone['method'][path], rtol=1e-5, atol=1e-6)


def test_the_training_step_tells_which_tasks_are_there():
  optimizer = by_task(OPTIMIZERS['adamw'], METHOD, MODEL.config)
  params, partitioner = tiny.init(MODEL), Partitioner()
  for choice, task in (('all', 1), (LAST_TASK, 3)):
    chosen = trainable.resolve(MODEL.param_axes(), choice)
    with partitioner.activate():
      like = abstract_state(MODEL, optimizer, partitioner, chosen)
      step = make_train_step(MODEL, optimizer, partitioner, like, seed=0, trainable=chosen)
      opt_state = optimizer.init(chosen.active_part(chosen.split(params)[0]))
      copied = jax.tree.map(lambda x: x.copy(), params)  # the step takes it over
      state = TrainState(jnp.int32(0), copied, opt_state)
      state, _ = step(state, tiny.batch(rows=2, task=task))
    for other in range(len(tiny.TASKS)):
      old, new = parts_of(params, other), parts_of(state.params, other)
      for path in old:
        assert np.array_equal(old[path], new[path]) == (other != task), path


def test_a_restored_state_goes_on_with_the_same_bits(tmp_path):
  optimizer = by_task(OPTIMIZERS['adamw'], METHOD, MODEL.config)
  want = train(optimizer, tiny.init(MODEL))
  saved = TrainState(jnp.int32(2), *train(optimizer, tiny.init(MODEL), steps=range(2)))
  no_data = SimpleNamespace(
    num_shards=1, number=None, record=dict, save=lambda _: None, restore=lambda _: None
  )
  saving = Checkpointer(str(tmp_path), tiny.TASKS, Retention())
  saving.save(saved, no_data)
  saving.close()
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), saved
  )
  again = Checkpointer(str(tmp_path), tiny.TASKS, Retention()).restore(2, like, no_data)
  got = train(optimizer, again.params, again.opt_state, steps=range(2, len(STEPS)))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_network_without_parameters_of_tasks_trains_as_without_it():
  model = tiny.model(
    tiny.mtl(), num_encoder_layers=1, num_decoder_layers=1, scan_layers=False
  )
  params, grads = tiny.init(model), tiny.init(model, seed=1)
  optimizer = by_task(optax.adam(0.1), model.method, model.config)
  got, _ = optimizer.update(
    grads, optimizer.init(params), params, task_tokens=np.ones(len(tiny.TASKS))
  )
  want, _ = optax.adam(0.1).update(grads, optax.adam(0.1).init(params), params)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_skipping_steps_belongs_around_it():
  inside = by_task(optimizers.skip_step_on_spikes(optax.sgd(0.1)), METHOD, MODEL.config)
  with pytest.raises(UserError, match=r'skip_step_on_spikes\.optimizer=@rare_tasks'):
    inside.init(tiny.init(MODEL))
  around = optimizers.skip_step_on_spikes(by_task(optax.sgd(0.1), METHOD, MODEL.config))
  train_around = functools.partial(around.update, value=jnp.float32(1.0))
  grads, task_tokens = gradients(0)
  params = tiny.init(MODEL)
  updates, _ = train_around(grads, around.init(params), params, task_tokens=task_tokens)
  assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_the_learning_rate_of_shared_parameters_is_told():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  optimizer = by_task(optimizers.adafactor(schedule), METHOD, MODEL.config)
  params = tiny.init(MODEL)
  (_, before), (_, after) = (train(optimizer, params, steps=range(n)) for n in (1, 2))
  rates = optimizers.learning_rates(optimizer, before, after)
  assert float(rates['learning_rate']) == 0.75
