"""Hugging Face's T5s: equal outputs, and errors about faulty folders."""

import dataclasses
import functools
import importlib.metadata
import json
import math
import pathlib
import runpy
import shutil
import struct

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperprompt_jax import decoding
from hyperprompt_jax.checkpoints.formats import huggingface
from hyperprompt_jax.checkpoints.initial import open_for
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import InitialCheckpoint
from hyperprompt_jax.training.train_step import abstract_params
from tests import published, slow, tiny

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MODELS = ('t5_1_0', 't5_1_1', 'flan')
# Their generations are greedy alone.
FAMILY = ('mt5_tied', 'umt5', 'madlad')


@functools.cache
def installed(*versions: str) -> bool:
  """Returns whether packages are installed, `name==version` each."""
  try:
    return all(
      importlib.metadata.version(name).split('+')[0] == version
      for name, version in (v.split('==') for v in versions)
    )
  except importlib.metadata.PackageNotFoundError:
    return False


def load(folder, **overrides):
  """Returns model and parameters of a folder, with scanned layers as in runs by default."""
  config = open_source(str(folder)).backbone_config()
  config = dataclasses.replace(config, scan_layers=True, dropout_rate=0.0)
  model = Model(config, tiny.mtl(), ('task',), **overrides)
  like = abstract_params(model, Partitioner())
  return model, open_for(InitialCheckpoint(str(folder)), like).load(like)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, inputs, decoder_inputs):
  # Targets only mark padding, and there is none.
  return model.module.apply(
    {'params': params},
    inputs,
    decoder_inputs,
    jax.numpy.ones_like(decoder_inputs),
    jax.numpy.zeros((len(inputs), 1), int),
    enable_dropout=False,
  )


@functools.partial(jax.jit, static_argnums=(0, 3))
def predict(model, params, inputs, length):
  batch = {
    'encoder_input_tokens': inputs,
    'task_ids': jax.numpy.zeros((len(inputs), 1), int),
  }
  return model.predict(params, model.condition(params), batch, length)


@pytest.mark.parametrize(
  'name', slow.all_but(('t5_1_0', 't5_1_1', 'umt5'), (*MODELS, *FAMILY))
)
def test_logits_and_generations_are_those_of_transformers(name):
  folder = GOLDEN / 'huggingface' / name
  golden = np.load(folder / 'outputs.npz')
  model, params = load(folder)
  got = logits(model, params, golden['inputs'], golden['decoder_inputs'])
  largest = np.abs(golden['logits']).max()
  np.testing.assert_allclose(got, golden['logits'], rtol=0, atol=1e-4 * largest)
  length = golden['greedy'].shape[1]
  np.testing.assert_array_equal(
    predict(model, params, golden['inputs'], length), golden['greedy']
  )
  if name in FAMILY:
    return
  beams = dataclasses.replace(
    model, decode_fn=functools.partial(decoding.beam_search, num_decodes=4, alpha=0.0)
  )
  np.testing.assert_array_equal(
    predict(beams, params, golden['inputs'], length), golden['beam']
  )


@pytest.mark.skipif(
  not installed('torch==2.13.0', 'transformers==5.23.0'),
  reason='remaking the golden files takes torch 2.13.0 and transformers 5.23.0',
)
def test_the_golden_files_are_what_the_script_makes(tmp_path):
  script = runpy.run_path(str(GOLDEN / 'make_huggingface.py'))
  script['main'](str(tmp_path))
  for name in (*MODELS, *FAMILY):
    kept, made = GOLDEN / 'huggingface' / name, tmp_path / name
    assert {p.name for p in kept.iterdir()} == {p.name for p in made.iterdir()}
    for path in kept.glob('*.safetensors'):
      published.assert_same(load_file(made / path.name), load_file(path))
    with np.load(kept / 'outputs.npz') as want, np.load(made / 'outputs.npz') as got:
      for array in want:
        np.testing.assert_allclose(got[array], want[array], atol=1e-5)


@pytest.mark.skipif(
  not installed('torch==2.13.0', 'transformers==5.23.0'),
  reason='loading with transformers takes torch 2.13.0 and transformers 5.23.0',
)
@pytest.mark.parametrize('tied', [True, False])
def test_transformers_loads_what_is_written(tmp_path, tied):
  import torch
  import transformers

  config = dataclasses.replace(published.CONFIG, logits_via_embedding=tied)
  folder = published.hugging_face(tmp_path / 'model', config)
  theirs, report = transformers.T5ForConditionalGeneration.from_pretrained(
    folder, output_loading_info=True
  )
  assert not report['missing_keys'] and not report['unexpected_keys']
  inputs = np.array([[5, 9, 7, 1]])
  decoder_inputs = np.array([[0, 8, 3]])
  with torch.no_grad():
    want = theirs.eval()(
      input_ids=torch.tensor(inputs), decoder_input_ids=torch.tensor(decoder_inputs)
    ).logits.numpy()
  model, params = load(folder)
  got = logits(model, params, inputs, decoder_inputs)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def deeper_decoder():
  return dataclasses.replace(published.CONFIG, num_encoder_layers=1, num_decoder_layers=2)


def test_stacks_of_different_depths_are_written_without_a_cache():
  assert huggingface.described(deeper_decoder(), 'float32')['use_cache'] is False
  same = dataclasses.replace(published.CONFIG, num_encoder_layers=2, num_decoder_layers=2)
  assert 'use_cache' not in huggingface.described(same, 'float32')


@pytest.mark.skipif(
  not installed('torch==2.13.0', 'transformers==5.23.0'),
  reason='loading with transformers takes torch 2.13.0 and transformers 5.23.0',
)
def test_transformers_generates_with_stacks_of_different_depths(tmp_path):
  import torch
  import transformers

  folder = published.hugging_face(tmp_path / 'model', deeper_decoder())
  theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
  inputs = torch.tensor([[5, 9, 7, 1]])
  tokens = theirs.generate(inputs, max_new_tokens=4, min_new_tokens=4)
  assert tokens.shape == (1, 5)
  # The reason for the setting.
  with pytest.raises(IndexError):
    theirs.generate(inputs, max_new_tokens=4, min_new_tokens=4, use_cache=True)


@pytest.mark.parametrize('name', MODELS)
def test_names_and_arrays_come_back_as_they_were(name, tmp_path):
  kept = GOLDEN / 'huggingface' / name
  source = open_source(str(kept))
  list(huggingface.write(tmp_path, source.arrays, source.backbone_config()))
  published.assert_same(of_folder(tmp_path), of_folder(kept))


def test_half_precision_and_shards_come_back_as_they_were(tmp_path, monkeypatch):
  monkeypatch.setattr(huggingface, '_SHARD_BYTES', 20_000)
  source = open_source(str(published.t5x(tmp_path / 'source', dtype='bfloat16')))
  folder = tmp_path / 'sharded'
  folder.mkdir()
  list(huggingface.write(folder, source.arrays, source.backbone_config()))
  assert len([*folder.glob('model-*-of-*.safetensors')]) > 1
  again = open_source(str(folder))
  published.assert_same(published.values(again.arrays), published.values(source.arrays))


def of_folder(folder):
  arrays_read = {}
  for path in folder.glob('*.safetensors'):
    arrays_read |= load_file(path)
  return arrays_read


# ---- Faulty folders ----


@pytest.fixture
def copy(tmp_path):
  def make(name):
    return shutil.copytree(GOLDEN / 'huggingface' / name, tmp_path / name)

  return make


def refusal(folder) -> str:
  with pytest.raises(UserError) as error:
    open_source(str(folder)).backbone_config()
  return str(error.value)


def change(folder, file='config.json', **values):
  path = folder / file
  described = {**json.loads(path.read_text()), **values}
  path.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))


def test_a_missing_shard(copy):
  folder = copy('flan')
  (folder / 'model-00002-of-00002.safetensors').unlink()
  assert 'model-00002-of-00002.safetensors is missing, a shard' in refusal(folder)


def test_a_truncated_file(copy):
  folder = copy('t5_1_1')
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  assert f'{path} is damaged or incomplete' in refusal(folder)


def test_a_shard_that_lacks_what_the_index_says(copy):
  folder = copy('flan')
  path = folder / 'model-00001-of-00002.safetensors'
  tensors = load_file(path)
  name = min(tensors)
  del tensors[name]
  save_file(tensors, path)
  assert f'lacks {name}' in refusal(folder)


@pytest.mark.parametrize(
  ('file', 'message'),
  [
    ('../model.safetensors', 'outside of its folder'),
    ('/etc/passwd', 'outside of its folder'),
    ('a\0b', 'which is none: not read'),
    ('x' * 300, 'which is none: not read'),
  ],
)
def test_an_index_that_names_files_elsewhere(copy, file, message):
  folder = copy('flan')
  change(folder, 'model.safetensors.index.json', weight_map={'shared.weight': file})
  assert message in refusal(folder)


@pytest.mark.parametrize(
  ('shape', 'length'), [([2**40, 2**20], None), ([2**62] * 9, None), ([8], 2**62)]
)
def test_a_size_in_a_header_is_not_believed(copy, shape, length):
  folder = copy('t5_1_1')
  size = min(4 * math.prod(shape), 2**63)
  entry = {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, size]}
  header = json.dumps({'shared.weight': entry}).encode()
  path = folder / 'model.safetensors'
  path.write_bytes(struct.pack('<Q', length or len(header)) + header + bytes(32))
  line = refusal(folder)
  assert f'{path} is damaged or incomplete' in line and '\n' not in line


def test_two_arrays_for_one_parameter(copy):
  folder = copy('t5_1_1')
  tensors = load_file(folder / 'model.safetensors')
  tensors['token_embedder/embedding'] = tensors['shared.weight'].copy()
  save_file(tensors, folder / 'model.safetensors')
  assert 'has two arrays for token_embedder/embedding' in refusal(folder)


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (
      lambda t: t.pop('encoder.final_layer_norm.weight'),
      'encoder/encoder_norm/scale: wanted [24], found absent',
    ),
    (
      lambda t: t.update(more=t['shared.weight'].copy()),
      'more: wanted absent, found [64, 24]',
    ),
    (
      lambda t: t.update({'shared.weight': t['shared.weight'][:60].copy()}),
      'token_embedder/embedding: wanted [64, 24], found [60, 24]',
    ),
  ],
)
def test_missing_extra_and_misshapen_arrays_are_listed(copy, edit, message):
  folder = copy('t5_1_1')
  tensors = load_file(folder / 'model.safetensors')
  edit(tensors)
  save_file(tensors, folder / 'model.safetensors')
  lines = refusal(folder).splitlines()
  assert '1 parameter(s) differ' in lines[0]
  assert lines[1:] == [f'  {message}']


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'model_type': 'longt5'}, "model_type 'longt5'"),
    ({'model_type': ['t5']}, "model_type ['t5']"),
    ({'architectures': ['T5EncoderModel']}, "is a 'T5EncoderModel'; expected"),
    ({'is_encoder_decoder': False}, 'is_encoder_decoder is False'),
    ({'quantization_config': {'bits': 4}}, 'holds quantized weights'),
    ({'decoder_start_token_id': 5}, 'decoder_start_token_id is 5; decoding starts with'),
    ({'eos_token_id': [1, 2]}, 'eos_token_id is [1, 2]; expected one token'),
    ({'eos_token_id': 2, 'pad_token_id': 2}, 'are both 2; T5 tells padding from the end'),
    ({'suppress_tokens': [3]}, 'suppress_tokens is [3]; no token is forced or forbidden'),
    ({'relative_attention_max_distance': 64}, 'relative_attention_max_distance is 64'),
    ({'layer_norm_epsilon': 1e-5}, 'layer_norm_epsilon is 1e-05'),
    ({'is_gated_act': False}, "is_gated_act is False, and feed_forward_proj 'gated-gelu'"),
    ({'dense_act_fn': 'relu'}, "dense_act_fn is 'relu', and feed_forward_proj"),
    ({'feed_forward_proj': 'gated-tanh'}, "feed_forward_proj 'gated-tanh'"),
    ({'relative_attention_num_buckets': 16}, 'relative_attention_num_buckets is 16'),
    ({'d_model': None}, 'does not describe a T5: Config.emb_dim'),
    ({'num_layers': 1}, 'encoder/layers_1/attention/key/kernel: wanted absent'),
    ({'tie_word_embeddings': True}, 'two that differ'),
    ({'tie_word_embeddings': 'no'}, "true or false, not 'no'"),
    ({'feed_forward_proj': ['relu']}, "feed_forward_proj ['relu'] is not supported"),
    (
      {'num_layers': 10**9},
      'should have 1000000000 layers in the encoder, and holds arrays of',
    ),
    ({'num_layers': True}, 'num_encoder_layers must be a positive integer'),
    ({'d_model': 2**31}, 'emb_dim must be a positive integer of 32 bits'),
    ({'d_model': 'x' * 10**6}, 'emb_dim must be a positive integer'),
  ],
)
def test_a_configuration_of_something_else(copy, values, message):
  folder = copy('t5_1_1')
  change(folder, **values)
  assert message in refusal(folder)


@pytest.mark.parametrize('content', ['', '[]', '{"model_type": ', '[' * 10**5, '9' * 5_000])
def test_a_configuration_that_is_none(copy, content):
  folder = copy('t5_1_1')
  (folder / 'config.json').write_text(content)
  line = refusal(folder)
  assert str(folder / 'config.json') in line and '\n' not in line


def test_a_copy_of_the_embedding_is_no_output_layer(copy):
  folder = copy('t5_1_0')
  tensors = load_file(folder / 'model.safetensors')
  more = ('lm_head.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
  save_file(
    tensors | dict.fromkeys(more, tensors['shared.weight']), folder / 'model.safetensors'
  )
  assert huggingface.OUTPUT_LAYER not in open_source(str(folder)).arrays


def test_an_output_layer_that_transformers_5_left_out_is_the_embedding(copy):
  folder = copy('flan')
  index = json.loads((folder / 'model.safetensors.index.json').read_text())
  del index['weight_map']['lm_head.weight']
  change(folder, 'model.safetensors.index.json', weight_map=index['weight_map'])
  source = open_source(str(folder))
  assert huggingface.OUTPUT_LAYER not in source.arrays
  # Tied, and still without the scaling of T5 1.0.
  config = source.backbone_config()
  assert config.logits_via_embedding and not config.scales_logits


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'logits_via_embedding': True},
    {'scale_logits': True},
    {'logits_via_embedding': True, 'scale_logits': False},
    {'position_bias_per_layer': True},
    {'position_bias_per_layer': True, 'scale_logits': True},
    {'position_bias_per_layer': True, 'logits_via_embedding': True},
    {'mlp_activations': ('silu', 'linear'), 'eos_id': 2},
  ],
  ids=str,
)
def test_every_network_that_transformers_has_comes_back_as_it_was(tmp_path, options):
  config = dataclasses.replace(published.CONFIG, **options)
  source = open_source(str(published.hugging_face(tmp_path / 'model', config)))
  assert source.backbone_config() == config
  published.assert_same(
    published.values(source.arrays), published.values(published.arrays(config))
  )


def test_a_network_that_transformers_has_not_is_refused():
  options = {'position_bias_per_layer': True, 'logits_via_embedding': True}
  config = dataclasses.replace(published.CONFIG, **options, scale_logits=False)
  with pytest.raises(UserError, match='has no umT5 whose output layer is tied'):
    huggingface.check_writable(config)


def test_an_embedding_under_another_of_its_names(copy):
  folder = copy('t5_1_1')
  path = folder / 'model.safetensors'
  tensors = load_file(path)
  want = published.values(open_source(str(folder)).arrays)
  table = tensors.pop('shared.weight')
  for name in ('decoder.embed_tokens.weight', 'encoder.embed_tokens.weight'):
    save_file({**tensors, name: table}, path)
    published.assert_same(published.values(open_source(str(folder)).arrays), want)
  two = {'shared.weight': table, 'decoder.embed_tokens.weight': table + 1}
  save_file({**tensors, **two}, path)
  assert 'decoder.embed_tokens.weight differs from shared.weight, and' in refusal(folder)


def test_tokens_that_generation_needs(copy):
  folder = copy('t5_1_1')
  change(folder, eos_token_id=2, pad_token_id=1)
  assert open_source(str(folder)).backbone_config().eos_id == 2
  (folder / 'generation_config.json').write_text('{"eos_token_id": 1}')
  assert 'eos_token_id is 2 in config.json and 1 in generation' in refusal(folder)
  (folder / 'generation_config.json').write_text('{"forced_bos_token_id": 3}')
  assert 'generation_config.json: forced_bos_token_id is 3' in refusal(folder)


@pytest.mark.parametrize(
  ('file', 'message'),
  [
    ('pytorch_model.bin', 'unpickling it runs whatever code it holds'),
    ('flax_model.msgpack', "from_pretrained('…', from_flax=True)"),
    ('tf_model.h5', "from_pretrained('…', from_tf=True)"),
  ],
)
def test_weights_of_another_kind_are_named(copy, file, message):
  folder = copy('t5_1_1')
  (folder / 'model.safetensors').rename(folder / file)
  line = refusal(folder)
  assert f'{folder / file} is not read' in line and message in line
