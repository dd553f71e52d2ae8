"""Hugging Face folders that are damaged, odd, or describe another network."""

import json
import math
import pathlib
import shutil
import struct

import pytest
from safetensors.numpy import load_file, save_file

from hyperprompt_jax.checkpoints.formats.huggingface_names import OUTPUT_LAYER
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from tests import published

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


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
  assert OUTPUT_LAYER not in open_source(str(folder)).arrays


def test_an_output_layer_that_transformers_5_left_out_is_the_embedding(copy):
  folder = copy('flan')
  index = json.loads((folder / 'model.safetensors.index.json').read_text())
  del index['weight_map']['lm_head.weight']
  change(folder, 'model.safetensors.index.json', weight_map=index['weight_map'])
  source = open_source(str(folder))
  assert OUTPUT_LAYER not in source.arrays
  # Tied, and still without the scaling of T5 1.0.
  config = source.backbone_config()
  assert config.logits_via_embedding and not config.scales_logits


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
