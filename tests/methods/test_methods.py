"""Properties of every method: a naive reference, separate tasks, folding, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.methods import (
  HyperPromptGlobal,
  MultiTaskLearning,
  PromptTuning,
  SingleTask,
)
from hyperprompt_jax.nn.stacking import stack_layers
from tests import naive, slow, tiny

# One method of each kind: adapters, prompts that are generated, and prompts that are not.
KINDS = ('adapter', 'hyperprompt_global', 'prompt_tuning')
every_method = pytest.mark.parametrize('method', slow.all_but(KINDS, tiny.METHODS))
every_variant = pytest.mark.parametrize(
  'variant', slow.all_but((*tiny.METHODS, 'lengths_and_offsets'), tiny.VARIANTS)
)


def outputs(variant, batch, **options):
  """Returns unrolled parameters, and `tiny.outputs` of them, scanned or not."""
  unrolled = tiny.model(tiny.VARIANTS[variant], scan_layers=False)
  model = tiny.model(tiny.VARIANTS[variant], **options)
  params = tiny.init(unrolled)
  used = stack_layers(params) if model.config.scan_layers else params
  return params, tiny.outputs(model, used, batch)


@every_variant
def test_logits_equal_a_naive_reference_in_loops(variant):
  batch = tiny.batch(rows=6)
  params, (got, _, _) = outputs(variant, batch)
  wanted = naive.batch_logits(tiny.model(tiny.VARIANTS[variant]), params, batch)
  for row, want in enumerate(wanted):
    np.testing.assert_allclose(got[row, : len(want)], want, atol=1e-5, rtol=1e-5)


@every_variant
def test_all_but_the_baselines_change_the_output(variant):
  batch = tiny.batch(rows=6)
  params, (got, _, _) = outputs(variant, batch)
  backbone = {name: part for name, part in params.items() if name != 'method'}
  plain = tiny.logits(tiny.model(tiny.mtl()), stack_layers(backbone), batch)
  changed = not np.allclose(got, plain, atol=1e-3)
  assert changed == (variant != 'mtl')


@pytest.mark.parametrize(
  'method', slow.all_but(('adapter', 'hyperprompt_global'), tiny.METHODS)
)
def test_scanned_equals_unrolled_in_outputs_and_gradients(method):
  batch = tiny.batch(rows=6)
  _, (want, _, want_gradient) = outputs(method, batch, scan_layers=False)
  _, (got, _, got_gradient) = outputs(method, batch)
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
  tiny.assert_trees_close(got_gradient, stack_layers(want_gradient), 1e-4)


@every_method
def test_bfloat16_activations_give_float32_logits_near_those_of_float32(method):
  batch = tiny.batch(rows=6)
  full = tiny.model(tiny.METHODS[method])
  half = tiny.model(tiny.METHODS[method], dtype='bfloat16')
  params = tiny.init(full)
  assert {x.dtype for x in jax.tree.leaves(half.param_shapes())} == {jnp.dtype('float32')}
  got, want = tiny.logits(half, params, batch), tiny.outputs(full, params, batch)[0]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=0.25)
  assert not np.array_equal(got, want)


def own_parts(tree, axes):
  """Returns the parameters with an axis of tasks by path, with that axis first."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  axis_names = jax.tree.leaves(axes, is_leaf=lambda x: not isinstance(x, dict))
  return {
    jax.tree_util.keystr(path): np.moveaxis(np.asarray(leaf), names.index('tasks'), 0)
    for (path, leaf), names in zip(leaves, map(tuple, axis_names), strict=True)
    if 'tasks' in names
  }


@every_variant
def test_the_loss_of_a_task_has_no_gradient_in_what_another_owns(variant):
  model = tiny.model(tiny.VARIANTS[variant])
  params, axes = tiny.init(model), model.param_axes()
  owned = own_parts(params, axes)
  assert bool(owned) == (variant != 'mtl')
  for task in range(len(tiny.TASKS)):
    grads = tiny.outputs(model, params, tiny.batch(rows=6, task=task))[2]
    for path, parts in own_parts(grads, axes).items():
      largest = np.abs(parts).reshape(len(parts), -1).max(axis=1)
      assert largest[task] > 0, path
      assert (np.delete(largest, task) == 0).all(), path  # exactly


@every_method
def test_folded_outputs_need_no_parameters_of_the_method_and_are_the_same(method):
  model, batch = tiny.model(tiny.METHODS[method]), tiny.batch(rows=6)
  params = tiny.init(model)
  conditioning = tiny.condition(model, params)
  # Neither what the method learned nor its hypernetworks: they cannot run in the loop.
  backbone = {name: part for name, part in params.items() if name != 'method'}
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}

  @jax.jit
  def folded(params, conditioning):
    logits = model.module.apply(
      {'params': params}, **inputs, conditioning=conditioning, enable_dropout=False
    )
    return logits, model.predict(params, conditioning, batch, 3)

  logits, predicted = folded(backbone, conditioning)
  want, _, _ = tiny.outputs(model, params, batch)
  # Two programs round in two ways.
  np.testing.assert_allclose(logits, want, atol=1e-5, rtol=1e-5)
  np.testing.assert_array_equal(predicted[:, 0], np.argmax(want[:, 0], axis=-1))


@pytest.mark.parametrize(
  ('method', 'scan'),
  [
    ('prompt_tuning', False),
    *(
      pytest.param(*slow_one, marks=pytest.mark.slow)
      for slow_one in (
        ('hyperprompt_global', True),
        *((method, False) for method in tiny.METHODS if method != 'prompt_tuning'),
      )
    ),
  ],
)
def test_a_method_leaves_the_backbones_initialisation_as_it_is(method, scan):
  def fresh(method):
    initialise = tiny.model(method, scan_layers=scan).init_variables
    # Unrolled layers share operations that run, and are compiled, one by one.
    return (jax.jit(initialise) if scan else initialise)(jax.random.key(3))['params']

  params = fresh(tiny.METHODS[method])
  own = params.pop('method', {})
  assert bool(jax.tree.leaves(own)) == (method != 'mtl')
  jax.tree.map(np.testing.assert_array_equal, params, fresh(tiny.mtl()))


@pytest.mark.parametrize(
  ('method', 'name'),
  [
    (PromptTuning(3, 'vocabulary'), 'prompts'),
    pytest.param(
      HyperPromptGlobal(3, 5, task_embed_dim=6, prompt_init='vocabulary'),
      'encoder_prompts',
      marks=pytest.mark.slow,
    ),
  ],
  ids=['prompt_tuning', 'hyperprompt'],
)
def test_prompts_start_from_distinct_embeddings_of_the_vocabulary(method, name):
  params = tiny.fresh(method)
  embedding = np.asarray(params['token_embedder']['embedding'])
  prompts = np.asarray(params['method'][name])
  if name == 'encoder_prompts':
    # Their scale is the one that hypernetworks expect, and not that of the vocabulary.
    np.testing.assert_allclose(np.sqrt(np.mean(prompts**2)), 1.0, rtol=1e-5)
    ratios = np.linalg.norm(prompts, axis=-1)[..., None] / np.linalg.norm(embedding, axis=1)
    prompts = prompts / np.median(nearest(prompts, embedding, ratios))
  chosen = []
  for own in prompts:
    # A compiler may compute the table twice, once for the prompts, and round otherwise.
    near = [np.abs(embedding - row).max(axis=1) < 1e-5 for row in own]
    tokens = [int(np.flatnonzero(row)[0]) for row in near]
    assert len(set(tokens)) == len(tokens) and min(tokens) >= 3
    chosen.append(tokens)
  assert len(set(map(tuple, chosen))) == len(chosen)


def nearest(prompts, embedding, ratios):
  """Returns each prompt's ratio of norms to the embedding with the nearest direction."""
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  along = np.argmax(unit(prompts) @ unit(embedding).T, axis=-1)
  return np.take_along_axis(ratios, along[..., None], axis=-1)


def test_more_prompts_than_words_start_from_words_again():
  embedding = jax.random.normal(jax.random.key(1), (tiny.VOCAB_SIZE, 24))
  fresh = PromptTuning(100, 'vocabulary').init(
    jax.random.key(0), tiny.config(), len(tiny.TASKS), embedding
  )
  prompts = fresh['params']['prompts']
  assert prompts.shape == (4, 100, 24)
  assert np.isfinite(prompts).all()


@pytest.mark.parametrize('method', slow.all_but(['adapter'], ['adapter', 'hyperformer']))
def test_adapters_start_as_nearly_the_identity(method):
  params, batch = tiny.fresh(tiny.METHODS[method]), tiny.batch(rows=6)
  got = tiny.logits(tiny.model(tiny.METHODS[method]), params, batch)
  want = tiny.logits(tiny.model(tiny.mtl()), params, batch)
  assert 0 < np.abs(got - want).max() < 0.3 * np.abs(want).max()


def test_single_task_fine_tuning_is_the_plain_network_not_shared():
  assert SingleTask.__call__ is MultiTaskLearning.__call__
  assert MultiTaskLearning.shared_backbone and not SingleTask.shared_backbone
