"""Hugging Face folders that keep a method's prompts: contents, errors, equal outputs."""

import ast
import dataclasses
import functools
import json
import re
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import hyperprompt_jax
from hyperprompt_jax import decoding
from hyperprompt_jax.checkpoints import folded
from hyperprompt_jax.checkpoints.convert import convert
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import HyperPromptGlobal, HyperPromptSep, HyperPromptShare
from tests import published, tiny
from tests.checkpoints.test_huggingface import installed
from tests.inference import made

LENGTH = 8
TASKS = list(tiny.TASKS)


def export(tmp_path, method, **overrides):
  """Exports a network with random parameters; returns it, its parameters and the folder."""
  network = tiny.model(method, **{**made.SIZES, **overrides})
  params = tiny.init(network, 1)
  made.write_bundle(tmp_path / 'bundle', network, params)
  convert(str(tmp_path / 'bundle'), str(tmp_path / 'hf'), 'huggingface')
  return network, params, tmp_path / 'hf'


def test_a_folder_holds_the_prompts_of_all_layers_and_tasks(tmp_path):
  method = tiny.VARIANTS['lengths_and_offsets']
  network, params, folder = export(tmp_path, method)
  assert sorted(path.name for path in folder.iterdir()) == [
    'README.md',
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'modeling_hyperprompt.py',
    'tokenizer_config.json',
  ]
  config = json.loads((folder / 'config.json').read_text())
  assert config['model_type'] == 'hyperprompt_t5' and config['task_list'] == TASKS
  described = {'length': 4, 'first_layer': 1, 'logit_offset': True}
  assert config['encoder_prompts'] == described
  assert config['decoder_prompts'] == {**described, 'length': 2}
  conditioning = jax.jit(network.condition)(params)
  tensors = load_file(folder / 'model.safetensors')
  ours = {}
  for stack, layers in (('encoder', [1]), ('decoder', [1, 2])):
    prompts = getattr(conditioning, stack).prompts
    for m in layers:
      name = f'{stack}.block.{m}.layer.0.SelfAttention.prompt_'
      ours[f'{name}key'] = prompts.key[m]
      ours[f'{name}value'] = prompts.value[m]
      ours[f'{name}logit_offset'] = prompts.logit_offset[m]
  assert {name for name in tensors if 'prompt' in name} == {*ours}
  for name, array in ours.items():
    np.testing.assert_allclose(tensors[name], array, rtol=1e-5, atol=1e-6)
  generation = json.loads((folder / 'generation_config.json').read_text())
  assert generation['max_new_tokens'] == made.LENGTHS['targets']
  # The decoder is deeper than the encoder.
  assert config['use_cache'] is generation['use_cache'] is False


def test_the_card_and_the_code_name_what_they_need(tmp_path):
  _, _, folder = export(tmp_path, tiny.METHODS['prompt_tuning'])
  card = (folder / 'README.md').read_text()
  assert 'library_name: transformers\n' in card and '| a | no, yes, maybe | 81.50 |' in card
  assert "task='a'" in card and 'trust_remote_code=True' in card
  (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
  ast.parse(code)
  tree = ast.parse((folder / 'modeling_hyperprompt.py').read_text())
  imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
  froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
  names = {alias.name for node in imports for alias in node.names}
  names |= {node.module.partition('.')[0] for node in froms}
  assert names == {'torch', 'transformers', 'typing'}


def test_transformers_4_is_refused_in_one_line(monkeypatch):
  names = ('torch', 'transformers', 'transformers.models.t5.modeling_t5')
  stubs = {name: mock.MagicMock(__version__='4.57.1') for name in names}
  for name, stub in stubs.items():
    monkeypatch.setitem(sys.modules, name, stub)
  code = folded._CODE.read_text()
  with pytest.raises(ImportError, match=r'needs Transformers 5, and 4\.57\.1 is installed'):
    exec(compile(code, 'modeling_hyperprompt.py', 'exec'), {'__name__': 'modelling'})


def test_the_backbone_comes_back_and_the_method_does_not(tmp_path):
  _, _, folder = export(tmp_path, tiny.METHODS['hyperprompt_share'])
  with pytest.raises(UserError, match='no method can be made again: --drop_method'):
    convert(str(folder), str(tmp_path / 't5x'), 't5x')
  with pytest.raises(UserError, match='holds parameters of a method'):
    hyperprompt_jax.load(folder)
  back = convert(str(folder), str(tmp_path / 't5x'), 't5x', drop_method=True)
  published.assert_same(
    published.values(open_source(back['checkpoint']).arrays),
    published.values(open_source(str(tmp_path / 'bundle')).without_method().arrays),
  )


@pytest.mark.parametrize(
  ('method', 'overrides', 'message'),
  [
    ('adapter', {}, 'has adapters'),
    ('hyperprompt_sep', {'position_bias_per_layer': True}, 'the network is that of umt5'),
  ],
)
def test_what_the_format_has_no_place_for(tmp_path, method, overrides, message):
  with pytest.raises(UserError, match=message):
    export(tmp_path, tiny.METHODS[method], **overrides)
  assert not (tmp_path / 'hf').exists()


VARIANTS = {
  **{
    f'{name}, {stacks}': make(4, 5, stacks, **more)
    for name, make, more in (
      ('share', HyperPromptShare, {}),
      ('sep', HyperPromptSep, {}),
      ('global', HyperPromptGlobal, {'task_embed_dim': 6}),
    )
    for stacks in ('encoder', 'decoder', 'both')
  },
  'prompt_tuning': tiny.METHODS['prompt_tuning'],
  'upper_layers_of_both': tiny.VARIANTS['upper_layers_of_both'],
  'lengths_and_offsets': tiny.VARIANTS['lengths_and_offsets'],
}


def mixed_batch():
  """Rows of several lengths and tasks, and decoder inputs."""
  rng = np.random.default_rng(7)
  inputs = rng.integers(3, made.SIZES['vocab_size'], (5, 12))
  for row in range(5):
    inputs[row, 12 - 2 * row :] = 0
  targets = rng.integers(3, made.SIZES['vocab_size'], (5, LENGTH))
  return {
    'encoder_input_tokens': inputs,
    'decoder_target_tokens': targets,
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'task_ids': np.array([[2], [0], [3], [1], [2]]),
  }


@functools.partial(jax.jit, static_argnums=0)
def ours(network, params, batch):
  conditioning = network.condition(params)
  logits = network.logits(params, batch, conditioning=conditioning)
  return logits, network.predict(params, conditioning, batch, LENGTH)


def theirs(model, batch, **options):
  import torch

  inputs, decoder_inputs = (
    torch.tensor(batch[name]) for name in ('encoder_input_tokens', 'decoder_input_tokens')
  )
  mask = (inputs != 0).long()
  task = [TASKS[number] for number in batch['task_ids'][:, 0]]
  same = {'input_ids': inputs, 'attention_mask': mask, 'task': task}
  with torch.no_grad():
    logits = model(**same, decoder_input_ids=decoder_inputs).logits.numpy()
  tokens = model.generate(
    **same, max_new_tokens=LENGTH, min_new_tokens=0, do_sample=False, **options
  )[:, 1:].numpy()
  return logits, np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))


@pytest.mark.skipif(
  not installed('torch==2.13.0', 'transformers==5.23.0'),
  reason='loading with transformers takes torch 2.13.0 and transformers 5.23.0',
)
@pytest.mark.parametrize('name', VARIANTS)
def test_transformers_computes_and_generates_the_same(tmp_path, name):
  import transformers

  # With a cache, Transformers 5.23 takes stacks of one depth alone.
  network, params, folder = export(tmp_path, VARIANTS[name], num_decoder_layers=2)
  load = functools.partial(
    transformers.AutoModelForSeq2SeqLM.from_pretrained, trust_remote_code=True
  )
  model, report = load(folder, output_loading_info=True)
  assert not report['missing_keys'] and not report['unexpected_keys']
  batch = mixed_batch()
  want, tokens = ours(network, params, batch)
  largest = np.abs(want).max()
  got, generated = theirs(model.eval(), batch)
  print(f'{name}: {np.abs(got - want).max() / largest:.1e} of the largest logit')
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * largest)
  np.testing.assert_array_equal(generated, tokens)
  # Saved again and loaded from there, attention written out, without a cache.
  model.save_pretrained(tmp_path / 'again')
  again = load(tmp_path / 'again', attn_implementation='eager').eval()
  got, generated = theirs(again, batch, use_cache=False)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * largest)
  np.testing.assert_array_equal(generated, tokens)


@pytest.mark.skipif(
  not installed('torch==2.13.0', 'transformers==5.23.0'),
  reason='loading with transformers takes torch 2.13.0 and transformers 5.23.0',
)
def test_beams_tasks_by_id_and_mistakes_in_tasks(tmp_path):
  import transformers

  method = tiny.VARIANTS['both']
  network, params, folder = export(tmp_path, method, num_decoder_layers=2)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
  batch = mixed_batch()
  search = functools.partial(decoding.beam_search, num_decodes=4, alpha=0.0)
  _, want = ours(dataclasses.replace(network, decode_fn=search), params, batch)
  _, beams = theirs(model.eval(), batch, num_beams=4, length_penalty=0.0)
  np.testing.assert_array_equal(beams, want)
  model.set_attn_implementation('eager')
  outputs = model(**model.dummy_inputs, task='a', output_attentions=True)
  lengths = [tuple(x.shape[2:]) for x in outputs.encoder_attentions]
  assert lengths == [(5, 9)] * 2 == [tuple(x.shape[2:]) for x in outputs.decoder_attentions]
  inputs = model.dummy_inputs['input_ids'][:2]
  by_name = model.generate(inputs, task='c', max_new_tokens=3)
  by_id = model.generate(inputs, task=[2, 2], max_new_tokens=3)
  np.testing.assert_array_equal(by_name, by_id)
  for task, message in (
    (None, "name the task of the rows, such as task='a'; it knows a, b, c, d"),
    ('e', "task 'e' is not one of this model"),
    (-1, 'task -1 is not one of this model'),
    (['a', 'b', 'c'], 'there are 3 tasks for 2 rows'),
  ):
    with pytest.raises(ValueError, match=re.escape(message)):
      model.generate(inputs, task=task)
