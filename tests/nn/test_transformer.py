"""The whole network: T5X's tree, scanned and unrolled, cached decoding, prompt length 0."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import backend
from hyperprompt_jax.nn.attention import ENCODER_CACHE
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.stacking import stack_layers, unstack_layers
from hyperprompt_jax.nn.transformer import Transformer
from tests import slow, tiny


def encode(model, params, *inputs):
  """The encoder's output, without dropout."""
  return model.module.apply(
    {'params': params}, *inputs, enable_dropout=False, method=Transformer.encode
  )


def t5x_tree(c: Config):
  """Returns (shape, logical axes) by path, as T5X's `examples/t5/network.py` has them."""
  joined = c.num_heads * c.head_dim

  def dense(path, inputs, outputs, axes):
    return {f'{path}/kernel': ((inputs, outputs), axes)}

  def norm(path):
    return {f'{path}/scale': ((c.emb_dim,), ('embed',))}

  def attention(path):
    tree = {}
    for name in ('query', 'key', 'value'):
      tree |= dense(f'{path}/{name}', c.emb_dim, joined, ('embed', 'joined_kv'))
    return tree | dense(f'{path}/out', joined, c.emb_dim, ('joined_kv', 'embed'))

  def mlp(path):
    gated = len(c.mlp_activations) > 1
    tree = {}
    for name in ('wi_0', 'wi_1') if gated else ('wi',):
      tree |= dense(f'{path}/{name}', c.emb_dim, c.mlp_dim, ('embed', 'mlp'))
    return tree | dense(f'{path}/wo', c.mlp_dim, c.emb_dim, ('mlp', 'embed'))

  relpos = ((c.num_heads, 32), ('heads', 'relpos_buckets'))
  tree = {'token_embedder/embedding': ((c.vocab_size, c.emb_dim), ('vocab', 'embed'))}
  depths = {'encoder': c.num_encoder_layers, 'decoder': c.num_decoder_layers}
  for side, depth in depths.items():
    own = [f'layers_{i}/' for i in range(depth)] if c.position_bias_per_layer else ['']
    tree |= {f'{side}/{layer}relpos_bias/rel_embedding': relpos for layer in own}
  tree |= norm('encoder/encoder_norm') | norm('decoder/decoder_norm')
  for i in range(c.num_encoder_layers):
    at = f'encoder/layers_{i}'
    tree |= norm(f'{at}/pre_attention_layer_norm') | attention(f'{at}/attention')
    tree |= norm(f'{at}/pre_mlp_layer_norm') | mlp(f'{at}/mlp')
  for i in range(c.num_decoder_layers):
    at = f'decoder/layers_{i}'
    tree |= norm(f'{at}/pre_self_attention_layer_norm') | attention(f'{at}/self_attention')
    tree |= norm(f'{at}/pre_cross_attention_layer_norm')
    tree |= attention(f'{at}/encoder_decoder_attention')
    tree |= norm(f'{at}/pre_mlp_layer_norm') | mlp(f'{at}/mlp')
  if not c.logits_via_embedding:
    tree |= dense('decoder/logits_dense', c.emb_dim, c.vocab_size, ('embed', 'vocab'))
  return tree


@pytest.mark.parametrize(
  'version',
  [
    {},
    {'mlp_activations': ('relu',), 'logits_via_embedding': True},
    {'position_bias_per_layer': True},
  ],
  ids=['t5_1_1', 't5_1_0', 'umt5'],
)
def test_unrolled_backbone_has_the_parameter_tree_of_t5x(version):
  model = tiny.model(tiny.mtl(), scan_layers=False, **version)
  shapes = flax.traverse_util.flatten_dict(model.param_shapes(), sep='/')
  axes = flax.traverse_util.flatten_dict(model.param_axes(), sep='/')
  got = {path: (leaf.shape, tuple(axes[path])) for path, leaf in shapes.items()}
  assert got == t5x_tree(model.config)
  assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype('float32')}


def test_scanned_parameters_carry_the_layers_axis_in_front():
  axes = tiny.model().param_axes()
  query = axes['encoder']['layers']['attention']['query']['kernel']
  assert tuple(query) == ('layers', 'embed', 'joined_kv')


def test_stacking_and_unstacking_lose_nothing():
  params = tiny.init(tiny.model(scan_layers=False))
  stacked = stack_layers(params)
  assert set(stacked['decoder']) >= {'layers'} and 'layers_0' not in stacked['decoder']
  jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked), params)


def test_stacking_refuses_a_missing_layer():
  params = tiny.init(tiny.model(scan_layers=False))
  del params['decoder']['layers_1']
  with pytest.raises(ValueError, match='without a gap'):
    stack_layers(params)


@pytest.mark.parametrize('remat_policy', slow.all_but(['minimal'], ['minimal', 'full']))
def test_remat_policies_change_neither_outputs_nor_gradients(remat_policy):
  method, batch = tiny.VARIANTS['both'], tiny.batch(rows=6)
  plain, remat = tiny.model(method), tiny.model(method, remat_policy=remat_policy)
  params = tiny.init(plain)
  want, _, want_gradient = tiny.outputs(plain, params, batch)
  got, _, got_gradient = tiny.outputs(remat, params, batch)
  np.testing.assert_allclose(got, want, atol=1e-5)
  tiny.assert_trees_close(got_gradient, want_gradient, 1e-4)


@pytest.mark.parametrize('remat_policy', ['none', 'minimal'])
def test_layers_unrolled_in_training_have_the_loops_gradients(monkeypatch, remat_policy):
  """A CPU unrolls wide layers; dropout is drawn as in the loop."""
  model = tiny.model(tiny.VARIANTS['both'], dropout_rate=0.3, remat_policy=remat_policy)
  params, batch, rng = tiny.init(model), tiny.batch(), jax.random.key(7)
  made = []
  for width in (model.config.emb_dim + 1, model.config.emb_dim):
    monkeypatch.setattr(backend, '_UNROLLED_WIDTH', width)
    loss_of = lambda params: model.loss(params, batch, rng)[0]
    traced = jax.jit(jax.value_and_grad(loss_of)).trace(params)
    unrolled = f'unroll={model.config.num_encoder_layers}' in str(traced.jaxpr)
    made.append((unrolled, *traced.lower().compile()(params)))
  (unrolled, loss, gradient), (also_unrolled, other_loss, other_gradient) = made
  assert not unrolled and also_unrolled
  np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
  tiny.assert_trees_close(other_gradient, gradient, 1e-4)


def test_prompt_length_zero_equals_multi_task_learning_bit_for_bit():
  plain = tiny.model(tiny.mtl(), dropout_rate=0.3)
  none = tiny.model(tiny.hyperprompt(prompt_length=0), dropout_rate=0.3)
  params, batch = tiny.init(plain), tiny.batch()
  np.testing.assert_array_equal(
    tiny.logits(none, params, batch), tiny.logits(plain, params, batch)
  )
  rng = jax.random.key(7)
  np.testing.assert_array_equal(
    tiny.loss(none, params, batch, rng), tiny.loss(plain, params, batch, rng)
  )


@pytest.mark.parametrize(
  ('variant', 'scan_layers'),
  [
    ('upper_layers_of_both', True),
    ('prompt_tuning', True),
    *(
      pytest.param(*slow_one, marks=pytest.mark.slow)
      for slow_one in (
        ('hyperprompt_global', True),
        ('upper_layers_of_both', False),
        ('adapter', True),
      )
    ),
  ],
)
def test_cached_decoding_equals_teacher_forcing(variant, scan_layers):
  model = tiny.model(tiny.VARIANTS[variant], scan_layers=scan_layers)
  params, batch = tiny.init(model), tiny.batch()
  # Decoding does not know where targets end, so that none is padded here.
  targets = jnp.where(
    batch['decoder_target_tokens'] == 0, 5, batch['decoder_target_tokens']
  )
  batch = {
    **batch,
    'decoder_target_tokens': targets,
    'decoder_input_tokens': jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
  }
  conditioning = tiny.condition(model, params)
  inputs, task_ids = batch['encoder_input_tokens'], batch['task_ids']
  encoded = encode(model, params, inputs, task_ids, conditioning)

  @functools.partial(jax.jit, static_argnames='mutable')
  def step(variables, encoded, tokens, index, mutable):
    return model.module.apply(
      variables,
      encoded,
      tokens,
      task_ids,
      conditioning,
      index,
      max_decode_length=targets.shape[1],
      method=Transformer.decode_step,
      mutable=mutable,
    )

  start = (jnp.zeros_like(targets[:, :1]), jnp.int32(0), ('cache', ENCODER_CACHE))
  _, made = step({'params': params}, encoded, *start)
  variables, steps = {'params': params, **made}, []
  # After the first call the encoder's output must not matter any more.
  encoded = encoded.replace(activations=jnp.full_like(encoded.activations, jnp.nan))
  for index in range(targets.shape[1]):
    tokens = batch['decoder_input_tokens'][:, index : index + 1]
    logits, mutated = step(variables, encoded, tokens, jnp.int32(index), ('cache',))
    variables = {**variables, **mutated}
    steps.append(logits)
  np.testing.assert_allclose(
    jnp.stack(steps, axis=1), tiny.logits(model, params, batch), atol=1e-4
  )


def test_padding_of_inputs_changes_nothing():
  model, batch = tiny.model(), tiny.batch()
  params = tiny.init(model)
  longer = {
    **batch,
    'encoder_input_tokens': jnp.pad(batch['encoder_input_tokens'], ((0, 0), (0, 7))),
  }
  weights = np.asarray(batch['decoder_loss_weights'])[..., None]
  np.testing.assert_allclose(
    weights * tiny.logits(model, params, longer),
    weights * tiny.logits(model, params, batch),
    atol=1e-5,
  )


def test_dropout_is_on_where_asked_for_alone_and_follows_its_rng():
  model, batch = tiny.model(dropout_rate=0.5), tiny.batch()
  params = tiny.init(model)
  loss = lambda rng: float(tiny.loss(model, params, batch, rng))
  assert loss(None) == loss(None)
  assert loss(jax.random.key(1)) == loss(jax.random.key(1)) != loss(None)
  assert loss(jax.random.key(1)) != loss(jax.random.key(2))


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('emb_dim', 0),
    ('dropout_rate', 1.0),
    ('remat_policy', 'everything'),
    ('mlp_activations', ('gello',)),
    ('dtype', 'float16'),
  ],
)
def test_a_configuration_that_cannot_be_names_its_field(field, value):
  with pytest.raises(ValueError, match=field):
    tiny.config(**{field: value})
