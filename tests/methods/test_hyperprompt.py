"""Properties of HyperPrompt alone: its cost, its scale, its options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.methods import HyperPromptGlobal, HyperPromptSep, HyperPromptShare
from tests import tiny


def flops(model, params, rows):
  """Returns the FLOPs of the lowered gradient of a step."""
  batch = tiny.batch(rows=rows, inputs=16, targets=8)
  step = jax.jit(jax.grad(lambda p: model.loss(p, batch, None)[0]))
  return step.lower(params).cost_analysis()['flops']


@pytest.fixture
def on_cpu():
  """JAX counts the FLOPs of programs lowered for CPUs, and not for GPUs and TPUs."""
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    yield


def test_hypernetworks_run_once_a_step_whatever_the_batch_size(on_cpu):
  # Layers are unrolled, because cost analysis counts the body of a loop only once.
  unrolled = {'scan_layers': False, 'num_decoder_layers': 1}
  plain, prompted = tiny.model(tiny.mtl(), **unrolled), tiny.model(**unrolled)
  params = {m: tiny.init(m) for m in (plain, prompted)}
  extra = {
    rows: flops(prompted, params[prompted], rows) - flops(plain, params[plain], rows)
    for rows in (8, 64)
  }
  generate = jax.jit(
    jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(prompted.condition(p))))
  )
  once = generate.lower(params[prompted]).cost_analysis()['flops']
  # The cost of prompts grows with the batch only by attention to them. The cost at a batch
  # of 0 is that of the hypernetworks, which run once.
  growth = (extra[64] - extra[8]) / 56
  fixed = extra[8] - 8 * growth
  assert 0.8 * once < fixed < 1.3 * once
  assert extra[64] < 8 * extra[8]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'stacks': 'all'}, "'decoder' or 'both', not 'all'"),
    ({'prompt_length': -1}, 'prompt_length must be at least 0, not -1'),
    ({'first_layer': -1}, 'first_layer must be at least 0, not -1'),
    ({'first_layer': 2}, 'first_layer=2 is out of range: the encoder has layers 0 to 1'),
    ({'first_layer': 3, 'stacks': 'decoder'}, 'the decoder has layers 0 to 2'),
    ({'first_layer': 2, 'stacks': 'both'}, 'the encoder has layers 0 to 1'),
    ({'decoder_prompt_length': -1}, 'decoder_prompt_length must be at least 0, not -1'),
    ({'prompt_init': 'words'}, "'random' or 'vocabulary', not 'words'"),
  ],
)
def test_an_option_that_cannot_be_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    tiny.model(tiny.hyperprompt(**options)).param_shapes()


def test_the_upper_layers_alone_have_hypernetworks_of_prompts():
  of_all = tiny.model(tiny.METHODS['hyperprompt_share']).param_shapes()['method']
  upper = tiny.METHODS['hyperprompt_share'].clone(first_layer=1)
  of_upper = tiny.model(upper).param_shapes()['method']
  for shapes, layers in ((of_all, 2), (of_upper, 1)):
    assert shapes['key_hypernetworks']['down'].shape == (layers, 24, 5)


# The widths, prompt length and bottleneck of tiny, Base and XXL, as in their gin files, and
# of a smaller network than any in use. Layers and tasks are few, so that it takes seconds.
SIZES = {
  'tiny': ({'emb_dim': 64, 'num_heads': 4, 'head_dim': 16}, 16, 16),
  'base': ({'emb_dim': 768, 'num_heads': 12, 'head_dim': 64}, 16, 24),
  'xxl': ({'emb_dim': 4096, 'num_heads': 64, 'head_dim': 64}, 16, 64),
  'smallest': ({'emb_dim': 8, 'num_heads': 1, 'head_dim': 4}, 4, 4),
}
CLASSES = {
  'share': HyperPromptShare,
  'sep': HyperPromptSep,
  'global': functools.partial(HyperPromptGlobal, task_embed_dim=16),
}


def keys_and_values(size, variant, num_tasks=3, **options):
  """The generated prompts of a fresh method, `[m, t, l, h, k]` for each stack and kind."""
  widths, length, bottleneck = SIZES[size]
  config = tiny.config(**widths, num_decoder_layers=2)
  method = CLASSES[variant](length, bottleneck, stacks='both', **options)
  # Embeddings of a scale that no prompt is to inherit.
  embedding = 9 * jax.random.normal(jax.random.key(1), (48, config.emb_dim))
  fresh = lambda key: method.init_with_output(key, config, num_tasks, embedding)[0]
  conditioning = jax.jit(fresh)(jax.random.key(0))
  return {
    (stack, kind): np.asarray(getattr(getattr(conditioning, stack).prompts, kind))
    for stack in ('encoder', 'decoder')
    for kind in ('key', 'value')
  }


@pytest.mark.parametrize(
  ('size', 'prompt_init'),
  [
    ('tiny', 'random'),
    ('tiny', 'vocabulary'),
    ('smallest', 'random'),
    pytest.param('base', 'random', marks=pytest.mark.slow),
    pytest.param('xxl', 'random', marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize('variant', CLASSES)
def test_prompts_of_every_layer_and_task_start_at_the_scale_of_keys(
  size, variant, prompt_init
):
  for place, x in keys_and_values(size, variant, prompt_init=prompt_init).items():
    scale = np.sqrt(np.mean(np.square(x), axis=(2, 3, 4)))
    assert scale.shape == (2, 3), place
    assert 0.75 < scale.min() <= scale.max() < 1.25, place


def test_fresh_keys_and_values_of_t5_have_unit_scale():
  # The prompts are compared with the scale of the network itself.
  params = tiny.fresh(tiny.mtl(), emb_dim=64, num_heads=4, head_dim=16)
  x = jax.random.normal(jax.random.key(1), (100, 64))
  normalised = x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))
  layers = params['encoder']['layers']['attention']
  for kind in ('key', 'value'):
    y = normalised @ layers[kind]['kernel'][0]
    assert 0.9 < float(jnp.sqrt(jnp.mean(jnp.square(y)))) < 1.1


def mass_on_prompts(method):
  """The mean attention mass on prompts of a fresh network, over inputs of 40 tokens."""
  widths = {'emb_dim': 64, 'num_heads': 4, 'head_dim': 16}
  model, params = tiny.model(method, **widths), tiny.fresh(method, **widths)
  batch = tiny.batch(rows=8, inputs=42)
  batch['encoder_input_tokens'] = batch['encoder_input_tokens'][:, :40]
  conditioning = tiny.condition(model, params)
  watch = jax.jit(model.attention_statistics)
  return float(np.mean(watch(params, conditioning, batch).prompt_mass))


@pytest.mark.slow(held_by='test_logits_equal_a_naive_reference_in_loops')
def test_an_offset_of_logits_keeps_fresh_prompts_out_of_attention():
  assert mass_on_prompts(tiny.hyperprompt(16)) > 0.1
  assert 0 < mass_on_prompts(tiny.hyperprompt(16, logit_offset=-6.0)) < 0.01


def test_an_offset_of_logits_is_the_same_while_decoding():
  method = tiny.hyperprompt(stacks='both', logit_offset=-1.0)
  model = tiny.model(method, num_encoder_layers=1, num_decoder_layers=1)
  params, batch = tiny.init(model), tiny.batch(rows=6)
  logits = tiny.logits(model, params, batch)
  conditioning = tiny.condition(model, params)

  @jax.jit
  def decoded():
    step, cache = model.start_decoding(params, conditioning, batch, 6)
    take = lambda cache, given: step(given[0], cache, given[1])[::-1]
    inputs = batch['decoder_input_tokens'].T, jnp.arange(6)
    return jnp.swapaxes(jax.lax.scan(take, cache, inputs)[1], 0, 1)

  own = np.asarray(batch['decoder_loss_weights']) > 0
  np.testing.assert_allclose(decoded()[own], logits[own], atol=1e-4, rtol=1e-4)


def test_the_decoder_has_a_prompt_length_of_its_own():
  method = tiny.hyperprompt(4, stacks='both', decoder_prompt_length=2)
  shapes = tiny.model(method).param_shapes()['method']
  assert shapes['encoder_prompts'].shape == (4, 4, 24)
  assert shapes['decoder_prompts'].shape == (4, 2, 24)
  without = tiny.hyperprompt(4, stacks='both', decoder_prompt_length=0)
  shapes = tiny.model(without).param_shapes()['method']
  assert 'decoder_prompts' not in shapes and shapes['layer_embedding'].shape == (2, 6)
