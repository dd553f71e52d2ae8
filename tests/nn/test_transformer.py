"""The whole network: T5X's tree, scanned and unrolled, cached decoding, prompt length 0."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import layers
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.stacking import stack_layers, unstack_layers
from hyperprompt_jax.nn.transformer import EncoderLayer, Transformer
from tests import tiny


def encode(model, params, *inputs):
  """The encoder's output, without dropout."""
  return model.module.apply(
    {'params': params}, *inputs, enable_dropout=False, method=Transformer.encode
  )


def t5x_tree(c: Config):
  """Path: (shape, logical axes) of T5X's `examples/t5/network.py`, written out by hand."""
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
  tree = {
    'token_embedder/embedding': ((c.vocab_size, c.emb_dim), ('vocab', 'embed')),
    'encoder/relpos_bias/rel_embedding': relpos,
    'decoder/relpos_bias/rel_embedding': relpos,
  }
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
  ],
  ids=['t5_1_1', 't5_1_0'],
)
def test_unrolled_backbone_has_the_parameter_tree_of_t5x(version):
  model = tiny.model(tiny.mtl(), scan_layers=False, **version)
  shapes = flax.traverse_util.flatten_dict(model.param_shapes(), sep='/')
  axes = flax.traverse_util.flatten_dict(model.param_axes(), sep='/')
  got = {path: (leaf.shape, tuple(axes[path])) for path, leaf in shapes.items()}
  assert got == t5x_tree(model.config)
  assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype('float32')}


def test_hyperprompt_adds_parameters_under_method_and_changes_none_of_the_others():
  plain, prompted = tiny.model(tiny.mtl()), tiny.model()
  init = jax.jit(lambda model, rng: model.init(rng), static_argnums=0)
  with_method = init(prompted, jax.random.key(3))
  method = with_method.pop('method')
  want = init(plain, jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, with_method, want)
  assert jax.tree.leaves(method)


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


@pytest.mark.parametrize('stacks', ['encoder', 'both'])
@pytest.mark.parametrize('remat_policy', ['none', 'minimal', 'full'])
def test_scanned_equals_unrolled_in_outputs_and_gradients(stacks, remat_policy):
  method, batch = tiny.hyperprompt(stacks=stacks), tiny.batch()
  unrolled = tiny.model(method, scan_layers=False)
  scanned = tiny.model(method, remat_policy=remat_policy)
  params = tiny.init(unrolled)
  stacked = stack_layers(params)
  np.testing.assert_allclose(
    tiny.logits(scanned, stacked, batch), tiny.logits(unrolled, params, batch), atol=1e-5
  )
  want = stack_layers(tiny.gradient(unrolled, params, batch))
  got = tiny.gradient(scanned, stacked, batch)
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=2e-4), got, want)


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


def test_prompts_change_the_output_and_each_task_differently():
  model = tiny.model()
  params = tiny.init(model)
  outputs = [tiny.logits(model, params, tiny.batch(task=task)) for task in range(3)]
  assert not np.allclose(outputs[0], outputs[1], atol=1e-3)
  assert not np.allclose(outputs[1], outputs[2], atol=1e-3)


@pytest.mark.parametrize('scan_layers', [True, False])
def test_layer_m_attends_to_the_prompts_of_layer_m(scan_layers):
  model = tiny.model(scan_layers=scan_layers)
  cfg, batch = model.config, tiny.batch()
  params = tiny.init(model)
  conditioning = tiny.condition(model, params)
  encoder = unstack_layers(params)['encoder']
  tokens, task_ids = batch['encoder_input_tokens'], batch['task_ids']
  valid = tokens > 0
  bias = layers.RelativePositionBiases(cfg.num_heads, bidirectional=True).apply(
    {'params': encoder['relpos_bias']}, tokens.shape[1], tokens.shape[1]
  )
  x = params['token_embedder']['embedding'][tokens]
  for m in range(cfg.num_encoder_layers):
    own = jax.tree.map(lambda prompts, m=m: prompts[m], conditioning.encoder_prompts)
    x, _ = EncoderLayer(cfg, deterministic=True).apply(
      {'params': encoder[f'layers_{m}']},
      x,
      own,
      task_ids,
      bias,
      (valid[:, :, None] & valid[:, None, :])[:, None],
    )
  want = layers.LayerNorm().apply({'params': encoder['encoder_norm']}, x)
  got = encode(model, params, tokens, task_ids, conditioning)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('scan_layers', [True, False])
@pytest.mark.parametrize('stacks', ['encoder', 'both'])
def test_cached_decoding_equals_teacher_forcing(scan_layers, stacks):
  model = tiny.model(tiny.hyperprompt(stacks=stacks), scan_layers=scan_layers)
  params, batch = tiny.init(model), tiny.batch()
  # Decoding does not know where targets end, so none may be padding here.
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

  @jax.jit
  def step(variables, encoded, tokens, index):
    return model.module.apply(
      variables,
      encoded,
      inputs,
      tokens,
      task_ids,
      conditioning,
      index,
      max_decode_length=targets.shape[1],
      method=Transformer.decode_step,
      mutable=['cache'],
    )

  variables, steps = {'params': params}, []
  for index in range(targets.shape[1]):
    tokens = batch['decoder_input_tokens'][:, index : index + 1]
    logits, mutated = step(variables, encoded, tokens, jnp.int32(index))
    variables = {'params': params, 'cache': mutated['cache']}
    # After the first step the encoder's output must not matter any more.
    encoded = jnp.full_like(encoded, jnp.nan)
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


def test_bfloat16_activations_give_float32_logits_near_those_of_float32():
  batch = tiny.batch()
  full, half = tiny.model(), tiny.model(dtype='bfloat16')
  params = tiny.init(full)
  assert {leaf.dtype for leaf in jax.tree.leaves(half.param_shapes())} == {
    jnp.dtype('float32')
  }
  got, want = tiny.logits(half, params, batch), tiny.logits(full, params, batch)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=0.15)
  assert not np.array_equal(got, want)


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
