"""A run that resumes with another optimizer than the one that it was saved with."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperprompt_jax.checkpoints import Checkpointer, TrainState
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.training.optimizers import skip_step_on_spikes
from hyperprompt_jax.training.settings import Retention

PLAIN = optax.adam(0.1)
SKIPPING = skip_step_on_spikes(PLAIN, interval=8)
SHORTER = skip_step_on_spikes(PLAIN, interval=6)
NO_DATA = SimpleNamespace(
  num_shards=1,
  number=None,
  record=dict,
  save=lambda directory: None,
  restore=lambda directory: None,
)
STEPS = 2


def checkpointer(folder):
  return Checkpointer(str(folder), ('task',), Retention())


def state_of(optimizer, steps):
  """Returns a state after some steps, each with another gradient."""
  optimizer = optax.with_extra_args_support(optimizer)
  params = {'w': jnp.arange(3.0)}
  opt_state = optimizer.init(params)
  for step in range(steps):
    grads = {'w': jnp.full(3, 1.0 + step)}
    updates, opt_state = optimizer.update(grads, opt_state, params, value=jnp.float32(step))
    params = optax.apply_updates(params, updates)
  return TrainState(jnp.int32(steps), params, opt_state)


def restored(tmp_path, saved_by, wanted_by):
  """Restores an optimizer's state from a checkpoint of another optimizer."""
  saving = checkpointer(tmp_path)
  saving.save(state_of(saved_by, STEPS), NO_DATA)
  saving.close()
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state_of(wanted_by, 0),
  )
  return checkpointer(tmp_path).restore(STEPS, like, NO_DATA)


def assert_equal(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize('saved_by', [PLAIN, SHORTER])
def test_a_run_may_begin_to_skip(tmp_path, saved_by):
  """Step skipping can be switched on at a resume, also with another interval."""
  state = restored(tmp_path, saved_by, SKIPPING)
  want = state_of(PLAIN, STEPS)
  assert_equal(state.params, want.params)
  fresh = SKIPPING.init(want.params)
  assert_equal(state.opt_state, fresh._replace(inner_state=want.opt_state))


def test_a_run_may_cease_to_skip(tmp_path):
  state = restored(tmp_path, SKIPPING, PLAIN)
  assert_equal(state.opt_state, state_of(PLAIN, STEPS).opt_state)


def test_what_skips_keeps_its_history(tmp_path):
  state = restored(tmp_path, SKIPPING, SKIPPING)
  assert state.opt_state.recorded == STEPS
  assert_equal(state.opt_state, state_of(SKIPPING, STEPS).opt_state)


@pytest.mark.parametrize('other', [optax.sgd(0.1), skip_step_on_spikes(optax.sgd(0.1))])
def test_another_optimizer_is_told_as_such(tmp_path, other):
  with pytest.raises(UserError, match=r'/2 has the state of another optimizer: keep the'):
    restored(tmp_path, PLAIN, other)
