"""The training step: scanned as unrolled, microbatches, determinism, sharding."""

import functools
import json
import os
import re
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperprompt_jax.checkpoints import TrainState
from hyperprompt_jax.nn import attention, backend
from hyperprompt_jax.nn.stacking import stack_layers
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import optimizers, train_step
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)
from tests import slow, tiny

ADAFACTOR = optimizers.adafactor(0.01)
SGD = optax.sgd(0.1)
# Compiles soonest.
SHALLOW = functools.partial(
  tiny.model, num_encoder_layers=1, num_decoder_layers=1, scan_layers=False
)


@functools.cache
def compiled_step(model, optimizer, num_microbatches=1, seed=0):
  """A training step on all devices."""
  partitioner = Partitioner()
  like = abstract_state(model, optimizer, partitioner)
  return make_train_step(
    model, optimizer, partitioner, like, seed=seed, num_microbatches=num_microbatches
  )


def train(model, params, optimizer, steps=5, **options):
  """The parameters and the losses after some steps on random batches."""
  with Partitioner().activate():
    copied = jax.tree.map(lambda x: x.copy(), params)  # the step takes it over
    state = TrainState(np.int32(0), copied, optimizer.init(params))
    losses = []
    for step in range(steps):
      step_fn = compiled_step(model, optimizer, **options)
      state, sums = step_fn(state, tiny.batch(rows=6, seed=step))
      losses.append(float(sums['loss'] / sums['tokens']))
  assert int(state.step) == steps
  return state.params, losses


@pytest.mark.slow(held_by='test_scanned_equals_unrolled_in_outputs_and_gradients')
def test_scanned_equals_unrolled_after_five_training_steps():
  depth = {'num_decoder_layers': 2}
  unrolled, scanned = tiny.model(scan_layers=False, **depth), tiny.model(**depth)
  params = tiny.init(unrolled)
  want, want_losses = train(unrolled, params, ADAFACTOR)
  got, got_losses = train(scanned, stack_layers(params), ADAFACTOR)
  np.testing.assert_allclose(got_losses, want_losses, rtol=1e-5)
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(stack_layers(want)), strict=True):
    # Adafactor divides each gradient by its own size, and so makes whole steps, of 1e-2,
    # of what rounding leaves of the few that are nearly zero.
    assert np.quantile(np.abs(g - w), 0.995) < 1e-4


@pytest.mark.parametrize('num_microbatches', slow.all_but([3], [2, 3]))
def test_microbatches_change_nothing_but_rounding(num_microbatches):
  model = SHALLOW()
  params = tiny.init(model)
  # One step: gradients of a random network are steep, and rounding grows with steps.
  want, _ = train(model, params, SGD, steps=1)
  got, _ = train(model, params, SGD, steps=1, num_microbatches=num_microbatches)
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5), got, want)


@pytest.mark.slow(
  held_by='test_a_run_killed_past_an_epochs_end_ends_with_the_bits_of_the_unbroken_one'
)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
  model = SHALLOW(dropout_rate=0.2)
  params = tiny.init(model)
  first, losses = train(model, params, SGD, steps=2)
  second, _ = train(model, params, SGD, steps=2)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert train(model, params, SGD, steps=2, seed=1)[1] != losses
  assert losses[0] != train(SHALLOW(), params, SGD, steps=1)[1][0]


@pytest.mark.slow(held_by='test_a_method_trains_on_a_mixture_from_its_gin_file')
def test_training_lowers_the_loss_on_one_batch():
  model, partitioner = tiny.model(), Partitioner()
  with partitioner.activate():
    like = abstract_state(model, ADAFACTOR, partitioner)
    state = initial_state(model, ADAFACTOR, like, seed=0)
    losses = []
    for _ in range(30):
      state, sums = compiled_step(model, ADAFACTOR)(state, tiny.batch())
      losses.append(float(sums['loss'] / sums['tokens']))
  assert losses[-1] < 0.5 * losses[0]


def test_a_mesh_of_devices_trains_as_one_device_does():
  code = (
    'import json\n'
    'from hyperprompt_jax.runtime import workarounds\n'
    'with workarounds.without_keras():\n'
    '  from tests.training.test_train_step import *\n'
    'trained = train_on_packed_rows(num_partitions=2, fsdp=2, kernel=True)\n'
    'own = [sharding_of_positions(16), sharding_of_positions(1), *layouts_of_kernels()]\n'
    'print(json.dumps([*trained, *own, collectives_of_decoding()]))'
  )
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  result = subprocess.run(
    [sys.executable, '-c', code],
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    check=True,
    capture_output=True,
    text=True,
  )
  sharding, losses, positions, position, *kernels, collectives = json.loads(result.stdout)
  assert sharding == [['data', 'fsdp'], 'model']
  assert positions == [['data', 'fsdp'], 'model'] and position == [['data', 'fsdp']]
  assert collectives == []
  spread = [['data', 'fsdp'], 'model']
  in_stacks = {'encoder': [None, *spread], 'decoder': [None, 'fsdp', 'model']}
  assert kernels == [in_stacks, {'gradient': spread}]
  np.testing.assert_allclose(losses, train_on_packed_rows()[1], rtol=1e-5)


def sharding_of_positions(length):
  """How two devices that share a model spread the residual stream, were they TPUs."""
  partitioner = Partitioner(num_partitions=2, fsdp=2)
  with partitioner.activate(), mock.patch.object(backend, 'platform', lambda: 'tpu'):
    x = jax.device_put(jnp.zeros((8, length, 4)), partitioner.batch_sharding)
    return list(jax.jit(backend.spread_positions)(x).sharding.spec)


def layouts_of_kernels():
  """How a step on TPUs lays out kernels before it runs layers, and a layer's gradient."""
  model = tiny.model(remat_policy='minimal')
  partitioner = Partitioner(num_partitions=2, fsdp=2)
  with partitioner.activate(), mock.patch.object(backend, 'platform', lambda: 'tpu'):
    axes = model.param_axes()
    stays = train_step._stays_spread(model, num_segments=1, num_microbatches=1)
    copy = jax.jit(
      lambda params: train_step._working_copy(model, partitioner, params, axes, stays)
    )(tiny.init(model))
    used = {
      stack: list(copy[stack]['layers']['mlp']['wi_0']['kernel'].sharding.spec)
      for stack in ('encoder', 'decoder')
    }
    kernel, x = np.ones((16, 8), np.float32), np.ones((8, 2, 16), np.float32)
    x = jax.device_put(x, partitioner.batch_sharding)
    loss = lambda kernel: jnp.sum(x @ backend.gathered(kernel, ('embed', 'mlp')))
    gradient = jax.jit(jax.grad(loss))(kernel)
    np.testing.assert_array_equal(gradient, 16.0)
    return used, {'gradient': list(gradient.sharding.spec)}


def collectives_of_decoding():
  """The collectives in the attention of one query, if two TPUs had half of the heads."""
  partitioner = Partitioner(num_partitions=2, fsdp=2)

  def attend(query, key, value):
    query, key, value = (
      backend.with_sharding_constraint(x, ('batch', 'length', 'heads', 'kv'))
      for x in (query, key, value)
    )
    weights = attention._logits(query, key)
    return attention._weighted_sum(weights, value)

  with partitioner.activate(), mock.patch.object(backend, 'platform', lambda: 'tpu'):
    assert backend.head_groups(queries=1, heads=4) == 2
    shapes = [jax.ShapeDtypeStruct((8, n, 4, 8), jnp.float32) for n in (1, 16, 16)]
    text = jax.jit(attend).lower(*shapes).compile().as_text()
  return re.findall(r'all-reduce|all-gather|all-to-all|collective-permute', text)


def train_on_packed_rows(num_partitions=1, fsdp=1, kernel=False):
  """The sharding of a query kernel and the losses of three steps, on all devices."""
  model = SHALLOW(num_heads=4)
  partitioner = Partitioner(num_partitions, fsdp)
  interpreted = mock.patch.object(backend, '_interpret_kernel', kernel)
  with partitioner.activate(), interpreted:
    like = abstract_state(model, ADAFACTOR, partitioner)
    # Values that do not depend on the mesh.
    state = jax.device_put(
      TrainState(np.int32(0), tiny.init(model), ADAFACTOR.init(tiny.init(model))),
      jax.tree.map(lambda leaf: leaf.sharding, like),
    )
    step_fn = make_train_step(
      model, ADAFACTOR, partitioner, like, seed=0, num_microbatches=2
    )
    losses = []
    for _ in range(3):
      rows = [(row, row + 8) for row in range(8)]
      batch = tiny.pack(tiny.batch(rows=16), rows, least=128)
      state, sums = step_fn(state, jax.device_put(batch, partitioner.batch_sharding))
      losses.append(float(sums['loss'] / sums['tokens']))
  query = state.params['encoder']['layers_0']['attention']['query']['kernel']
  return list(query.sharding.spec), losses
