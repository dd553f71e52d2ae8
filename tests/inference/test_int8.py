"""Kernels in int8: they compute as kernels with the same rounded values do in float32."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import hyperprompt_jax
from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import rounded
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.lazy import in_memory, unrolled
from hyperprompt_jax.checkpoints.source import Source
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.loading import read_params
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.programs import Programs
from hyperprompt_jax.inference.tokenizer import ByteTokenizer
from hyperprompt_jax.nn.int8 import INT8
from hyperprompt_jax.partitioning import Partitioner
from tests import tiny
from tests.inference import made

OUTPUT_LAYER, EMBEDDING = 'decoder/logits_dense/kernel', 'token_embedder/embedding'
# Networks that keep their parameters in other ways.
NETWORKS = {
  'unrolled': {'scan_layers': False},
  't5_1_0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  'umt5': {'position_bias_per_layer': True},
}
CASES = [*tiny.METHODS, 'lengths_and_offsets', *NETWORKS]


def network_of(case):
  method = tiny.VARIANTS.get(case, tiny.VARIANTS['both'])
  return tiny.model(method, **{**made.SIZES, **NETWORKS.get(case, {})})


def read(network, weights=INT8, partitioner=None):
  """Reads random parameters."""
  arrays = by_path(tiny.init(network, 1))
  arrays = unrolled({path: in_memory(np.asarray(x)) for path, x in arrays.items()})
  source = Source('memory', 'test', 12, arrays)
  return read_params(network, source, partitioner, weights)


def in_float32(params):
  """The rounded values of parameters in int8, by path."""
  scales = by_path(params.scales)
  return {
    path: x * np.asarray(scales[path])[..., None, :] if path in scales else np.asarray(x)
    for path, x in by_path(params.params).items()
  }


def predictor(network, params, partitioner=None):
  programs = Programs(network, params, partitioner)
  return Predictor(programs, ByteTokenizer(), made.record(network), 12, 8)


def twin(network, params):
  """A float32 network of the rounded values, whose output layer is not tied."""
  own = network.config
  config = dataclasses.replace(
    own, logits_via_embedding=False, scale_logits=own.scales_logits
  )
  values = unrolled({path: in_memory(x) for path, x in in_float32(params).items()})
  plain = dataclasses.replace(network, config=config)
  return plain, read_params(plain, Source('memory', 'test', 12, values), None)


def pair(network):
  """A model in int8, and one with the same values in float32."""
  params = read(network)
  return predictor(network, params), predictor(*twin(network, params))


def test_int8_computes_as_float32_with_the_same_values():
  ours, theirs = pair(network_of('both'))
  question = made.QUESTIONS[:1]
  made.same_answers(
    ours.predict(question, num_decodes=2), theirs.predict(question, num_decodes=2)
  )


@pytest.mark.slow(held_by='test_int8_computes_as_float32_with_the_same_values')
@pytest.mark.parametrize('case', CASES)
def test_every_method_and_network_computes_in_int8(case):
  ours, theirs = pair(network_of(case))
  made.check_same(ours, theirs)
  beams = {'num_decodes': 3}
  made.same_answers(
    ours.predict(made.QUESTIONS, **beams), theirs.predict(made.QUESTIONS, **beams)
  )


@pytest.mark.parametrize('case', ['hyperprompt_global', *NETWORKS])
def test_only_kernels_of_the_backbone_are_rounded(case):
  network = network_of(case)
  before, params = by_path(tiny.init(network, 1)), read(network)
  scales, values = by_path(params.scales), in_float32(params)
  # The output layer of T5 1.0 gets a kernel of its own, and the embeddings stay.
  expected = {OUTPUT_LAYER: np.asarray(before[EMBEDDING]).T} | before
  assert values.keys() == expected.keys()
  for path, want in expected.items():
    is_kernel = path.endswith('/kernel') and not path.startswith('method/')
    assert is_kernel == (path in scales)
    assert by_path(params.params)[path].dtype == (np.int8 if is_kernel else np.float32)
    error = np.abs(values[path] - want)
    bound = 0.501 * np.asarray(scales[path])[..., None, :] if is_kernel else 0.0
    assert (error <= bound).all(), path
    if is_kernel:
      assert np.abs(by_path(params.params)[path]).max(axis=-2).min() == 127


def test_a_part_of_a_kernel_is_rounded_as_the_whole():
  """A device that holds some rows needs the scales of whole columns."""
  kernel = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
  path = 'encoder/layers_0/mlp/wi_0/kernel'
  given = {path: in_memory(kernel), EMBEDDING: in_memory(kernel)}
  all_arrays = rounded.arrays(given)
  for rows, columns in [(slice(0, 6), slice(2, 8)), (slice(6, 12), slice(0, 2))]:
    part = rounded.arrays(given)
    scales = all_arrays[f'scales/{path}'].read()[columns]
    np.testing.assert_array_equal(part[f'scales/{path}'].read((columns,)), scales)
    for arrays in (part, rounded.arrays(given)):
      np.testing.assert_array_equal(
        arrays[f'params/{path}'].read((rows, columns)),
        all_arrays[f'params/{path}'].read()[rows, columns],
      )


@pytest.mark.slow(held_by='test_a_part_of_a_kernel_is_rounded_as_the_whole')
def test_int8_on_a_mesh_of_devices_answers_as_on_one():
  code = 'from tests.inference.test_int8 import *; compare_on_a_mesh()'
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  subprocess.run([sys.executable, '-c', code], env=environment, check=True)


def compare_on_a_mesh():
  """Compares a model that is spread over all axes of a mesh with one device's."""
  network = network_of('t5_1_0')
  partitioner = Partitioner(num_partitions=2, fsdp=2)
  spread = read(network, partitioner=partitioner)
  kernel, scale = (
    by_path(tree)['decoder/layers/mlp/wi/kernel'] for tree in (spread.params, spread.scales)
  )
  assert kernel.sharding.shard_shape(kernel.shape) == (3, 8, 8)
  assert scale.sharding.shard_shape(scale.shape) == (3, 8)
  made.check_same(
    predictor(network, read(network)), predictor(network, spread, partitioner)
  )


def test_a_bundle_is_loaded_in_int8(tmp_path):
  network = tiny.model(**made.SIZES)
  made.write_bundle(tmp_path / 'bundle', network, tiny.init(network, 1))
  model = hyperprompt_jax.load(tmp_path / 'bundle', weights='int8')
  kernels = jax.tree.leaves(model.engine._params.scales)
  assert kernels and model.step == 12
  plain = hyperprompt_jax.load(tmp_path / 'bundle')
  # Programs of one are not those of the other.
  assert not model.engine.adopt(plain.engine) and not plain.engine.adopt(model.engine)
  (exact,) = plain.score('a', ['some words'], ['yes'])
  (score,) = model.score('a', ['some words'], ['yes'])
  assert score.log_likelihood == pytest.approx(exact.log_likelihood, rel=0.02)
  assert score.log_likelihood != exact.log_likelihood


def test_an_unknown_dtype_is_refused(tmp_path):
  with pytest.raises(UserError, match="weights must be 'float32' or 'int8', not 'int4'"):
    hyperprompt_jax.load(tmp_path, weights='int4')


@pytest.mark.slow(held_by='test_a_bundle_is_loaded_in_int8')
def test_verbs_answer_and_evaluate_in_int8(trained, tmp_path, capsys):
  """They take a SeqIO task, a file of questions, and the tasks of an evaluation."""
  run, both = f'--model_dir={trained}', ('float32', 'int8')
  questions = tmp_path / 'questions.jsonl'
  questions.write_text('{"task": "first", "inputs": "first: abc"}\n')
  for name, source in (
    ('task', '--task=hp_builtin_first'),
    ('file', f'--input={questions}'),
  ):
    lines = {}
    for weights in both:
      output = tmp_path / f'{name}_{weights}.jsonl'
      flags = [source, f'--output={output}', '--scores', f'--weights={weights}']
      assert cli.main(['infer', run, *flags]) == 0
      lines[weights] = [json.loads(line) for line in output.read_text().splitlines()]
    plain, int8 = (sum(x['log_likelihood'] for x in lines[weights]) for weights in both)
    assert int8 == pytest.approx(plain, rel=0.05) and int8 != plain
  capsys.readouterr()
  losses = {}
  for weights in both:
    flags = ['--json', f'--weights={weights}', '--confusion']
    assert cli.main(['eval', run, *flags]) == 0
    (checkpoint,) = json.loads(capsys.readouterr().out)['checkpoints']
    losses[weights] = checkpoint['losses']['first']
  assert losses['int8'] == pytest.approx(losses['float32'], rel=0.02)
  assert losses['int8'] != losses['float32']
