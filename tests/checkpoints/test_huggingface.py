"""Hugging Face's T5s: equal outputs, and errors about faulty folders."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import runpy

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from hyperprompt_jax import decoding
from hyperprompt_jax.checkpoints.formats import huggingface, huggingface_config
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
        # PyTorch's float32 differs by up to 2e-5 between processors.
        np.testing.assert_allclose(got[array], want[array], atol=5e-5)


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
  assert huggingface_config.described(deeper_decoder(), 'float32')['use_cache'] is False
  same = dataclasses.replace(published.CONFIG, num_encoder_layers=2, num_decoder_layers=2)
  assert 'use_cache' not in huggingface_config.described(same, 'float32')


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
    huggingface_config.check_writable(config)
