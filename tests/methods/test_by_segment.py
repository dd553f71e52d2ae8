"""Conditioning by segment equals that of all tasks, in results and gradients."""

import functools
import os
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax import decoding, model, partitioning
from hyperprompt_jax.methods import HyperPromptGlobal, by_segment
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.segments import Segments
from hyperprompt_jax.partitioning import Partitioner
from tests import slow, tiny

# More tasks than a batch has segments; most are in none of the batches.
TASKS = tuple(f'task_{number}' for number in range(24))
# Two segments in each of four rows; two tasks come twice.
TASK_IDS = np.array([[3, 0], [7, 7], [23, 3], [12, 5]], np.int32)
# In float32 each path is up to 3e-6 off the gradient in float64.
TOLERANCES = {'float32': 5e-6, 'float64': 1e-6}


def many_tasks(variant, **options):
  """A network of two layers for 24 tasks."""
  layers = {'num_encoder_layers': 2, 'num_decoder_layers': 2, 'num_heads': 4, **options}
  return Model(tiny.config(**layers), tiny.VARIANTS[variant], TASKS)


def selected(m, params, task_ids, *, all_tasks):
  """All that the segments of a batch are given, `[m, B, S, ...]`."""
  conditioning = m.condition(params, None if all_tasks else task_ids)
  assert conditioning.by_segment == (not all_tasks)
  segments = Segments(task_ids, task_ids, conditioning.by_segment)
  parts = {'input': jax.tree.map(lambda x: x[None], conditioning.input_prompts)}
  for name in ('encoder', 'decoder'):
    stack = getattr(conditioning, name)
    prompts = stack.prompts and {'key': stack.prompts.key, 'value': stack.prompts.value}
    parts[name] = [prompts, stack.attention_adapter, stack.mlp_adapter]
  return jax.vmap(segments.select)(parts) if jax.tree.leaves(parts) else {}


def assert_same_for_segments(
  variant,
  task_ids=TASK_IDS,
  place=lambda m, params: params,
  dtype='float32',
):
  """Compares what segments are given, and its gradient, with that of all tasks."""
  params = tiny.init(many_tasks(variant))
  with mock.patch.object(Config, '__post_init__'):  # refuses float64
    m = many_tasks(variant, dtype=dtype)
  params = place(m, jax.tree.map(lambda x: np.asarray(x, dtype), params))

  @functools.partial(jax.jit, static_argnames='all_tasks')
  def results(params, task_ids, all_tasks):
    parts, pull = jax.vjp(
      lambda params: selected(m, params, task_ids, all_tasks=all_tasks), params
    )
    return parts, pull(jax.tree.map(jnp.cos, parts))[0].get('method', {})

  got, want = (results(params, task_ids, all_tasks=x) for x in (False, True))
  assert {x.dtype.name for x in jax.tree.leaves((got, want))} <= {dtype}
  tiny.assert_trees_close(got, jax.tree.map(np.asarray, want), TOLERANCES[dtype])


@pytest.mark.parametrize(
  'variant', slow.all_but(('lengths_and_offsets', 'hyperformer'), tiny.VARIANTS)
)
def test_segments_are_given_what_their_tasks_are_among_all(variant):
  with jax.enable_x64(True):
    assert_same_for_segments(variant, dtype='float64')


@pytest.mark.parametrize(
  'variants',
  [
    pytest.param(['hyperprompt_global'], id='one'),
    pytest.param([*tiny.METHODS], id='all', marks=pytest.mark.slow),
  ],
)
def test_segments_are_given_the_same_on_a_mesh_of_two_by_two_devices(variants):
  code = f'from tests.methods.test_by_segment import *; compare_on_a_mesh({variants})'
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  subprocess.run([sys.executable, '-c', code], env=environment, check=True)


def compare_on_a_mesh(variants):
  """Compares methods, with their parameters spread along all axes that can be."""
  partitioner = Partitioner(num_partitions=2)
  assert partitioner.mesh.devices.shape == (2, 1, 2)

  def place(m, params):
    return jax.device_put(params, partitioner.spread_shardings(params, m.param_axes()))

  task_ids = jax.device_put(TASK_IDS, partitioner.batch_sharding)
  with partitioner.activate(), mock.patch.object(partitioning, 'LEAST_SPREAD_ENTRIES', 1):
    for variant in variants:
      assert_same_for_segments(variant, task_ids, place)
      with jax.enable_x64(True):
        assert_same_for_segments(variant, task_ids, place, 'float64')


@pytest.mark.parametrize('packed', slow.all_but([True], [False, True]))
# One of each kind of conditioning: prompts, adapters, and prompts of the input.
@pytest.mark.parametrize(
  'variant',
  slow.all_but(['hyperprompt_global'], ['hyperprompt_global', 'adapter', 'prompt_tuning']),
)
def test_loss_and_gradients_equal_those_of_all_tasks(variant, packed):
  m = many_tasks(variant, num_encoder_layers=1, num_decoder_layers=1)
  params = tiny.init(m)
  batch = {**tiny.batch(rows=8), 'task_ids': jnp.asarray(TASK_IDS.reshape(8, 1))}
  if packed:
    batch = tiny.pack(batch, [(0, 1), (2, 3), (4,), (5, 6, 7)])
  results = jax.jit(jax.grad(m.loss, has_aux=True), static_argnums=2)
  grads, sums = results(params, batch, None)
  assert m.conditions_segments(batch['task_ids'].size)
  results.clear_cache()
  with mock.patch.object(by_segment, 'is_cheaper', return_value=False):
    want_grads, want_sums = results(params, batch, None)
  tiny.assert_trees_close(sums, want_sums, 1e-6)
  tiny.assert_trees_close(
    grads, jax.tree.map(np.asarray, want_grads), TOLERANCES['float32']
  )


@pytest.mark.parametrize(
  'variant', slow.all_but(['hyperprompt_global'], ['hyperprompt_global', 'adapter'])
)
def test_decoding_without_folded_tasks_gives_the_same_beams(variant):
  m = many_tasks(variant)
  beams = functools.partial(decoding.beam_search, num_decodes=3)
  m = Model(m.config, m.method, TASKS, decode_fn=beams)
  params = tiny.init(m)
  batch = {**tiny.batch(rows=4), 'task_ids': jnp.asarray(TASK_IDS[:, :1])}
  predict = jax.jit(functools.partial(m.predict, max_decode_length=5))
  folded = m.fold(params)
  with mock.patch.object(model, 'LARGEST_FOLDED', 0):
    assert folded is not None and m.fold(params) is None
  got, want = predict(params, None, batch), predict(params, folded, batch)
  np.testing.assert_array_equal(got, want)


def test_all_tasks_are_conditioned_where_they_are_fewer_or_depend_on_each_other():
  class Dependent(HyperPromptGlobal, kw_only=True):
    independent_tasks = False

  m = many_tasks('hyperprompt_global')
  assert [m.conditions_segments(number) for number in (1, 23, 24, 128)] == [1, 1, 0, 0]
  dependent = Model(m.config, Dependent(4, 5, task_embed_dim=6), TASKS)
  assert not dependent.conditions_segments(1)
