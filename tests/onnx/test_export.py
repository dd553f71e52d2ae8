"""Exports to ONNX Runtime: they answer as the run does, in float32 and in int8."""

import json
import sys

import numpy as np
import onnxruntime
import pytest

import hyperprompt_jax
from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import convert
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference import batches
from hyperprompt_jax.onnx import engine
from hyperprompt_jax.onnx.graph import Graph, WeightFile
from hyperprompt_jax.serving import requests
from tests import tiny
from tests.inference import made
from tests.inference.made import QUESTIONS, check_same, same_answers


def exported(folder, method, dtype=None, **sizes):
  """A network with random parameters, as a bundle and as an export."""
  network = tiny.model(method, **{**made.SIZES, **sizes})
  made.write_bundle(folder / 'bundle', network, tiny.init(network, 1))
  report = convert.to_onnx(str(folder / 'bundle'), str(folder / 'onnx'), dtype=dtype)
  assert (report['format'], report['step']) == ('onnx', 12)
  return hyperprompt_jax.load(folder / 'bundle'), hyperprompt_jax.load(folder / 'onnx')


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """A network with prompts in both stacks, from its second layer on, and offsets."""
  folder = tmp_path_factory.mktemp('export')
  return exported(folder, tiny.VARIANTS['lengths_and_offsets']), folder


def test_an_export_answers_as_the_run_does(pair):
  (ours, theirs), _ = pair
  check_same(ours, theirs)
  questions = [ours.question(*question) for question in QUESTIONS]
  for one, other in zip(
    ours.attention(questions), theirs.attention(questions), strict=True
  ):
    assert one[0] == 0 and one[1] > 0  # the first layer has no prompts
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_candidates_go_on_from_the_rows_that_they_come_from(pair):
  """As in a search, in which one prefix may be followed by two candidates."""
  (_, theirs), _ = pair
  texts, tokens = ['some words', 'x'], [[3, 4], [5, 6]]
  questions = [theirs.question('c', text) for text in texts]
  features = batches.inputs_of(questions, 24)
  step = theirs.engine._step(theirs.engine._started(*engine._trimmed(features)))
  # Two candidates of each row begin alike; the first two then take the second's place.
  step(np.zeros(4), np.array([0, 0, 1, 1]), 0)
  logs, state = step(np.array([3, 7, 5, 7]), np.array([0, 1, 2, 3]), 1)
  logs, state = step(np.array([4, 4, 6, 6]), np.array([0, 0, 2, 2]), 2)
  assert state.tolist() == [0, 1, 2, 3]
  pairs = [(question, [*t, 9]) for question, t in zip(questions, tokens, strict=True)]
  without = [(question, t) for question, t in zip(questions, tokens, strict=True)]
  for row, (one, other) in enumerate(
    zip(theirs.scores(pairs), theirs.scores(without), strict=True)
  ):
    want = one.log_likelihood - other.log_likelihood
    np.testing.assert_allclose(logs[[2 * row, 2 * row + 1], 9], want, atol=1e-4)


@pytest.mark.slow(held_by='test_candidates_go_on_from_the_rows_that_they_come_from')
def test_searches_and_draws_are_those_of_the_run(pair):
  (ours, theirs), _ = pair
  for options in ({'num_decodes': 3}, {'num_decodes': 2, 'temperature': 1.5, 'seed': 3}):
    same_answers(ours.predict(QUESTIONS, **options), theirs.predict(QUESTIONS, **options))


@pytest.mark.slow(held_by='test_an_export_answers_as_the_run_does')
@pytest.mark.parametrize('name', ['mtl', 'prompt_tuning', 'adapter', 'hyperformer'])
def test_every_method_is_exported(tmp_path, name):
  check_same(*exported(tmp_path, tiny.METHODS[name]))


@pytest.mark.slow(held_by='test_an_export_answers_as_the_run_does')
def test_networks_of_t5_1_0_and_umt5_are_exported(tmp_path):
  """The first ties and scales its output layer; the second has biases of each layer."""
  method = tiny.METHODS['hyperprompt_share']
  old = {'mlp_activations': ('relu',), 'logits_via_embedding': True}
  (tmp_path / 'old').mkdir()
  check_same(*exported(tmp_path / 'old', method, **old))
  check_same(*exported(tmp_path, method, position_bias_per_layer=True))


def test_no_row_in_int8_depends_on_its_batch(tmp_path):
  _, model = exported(tmp_path, tiny.hyperprompt(), 'int8')
  together = model.predict(QUESTIONS)
  alone = [model.predict([question])[0] for question in QUESTIONS]
  same_answers(together, alone)
  # In float32 the weights take more room.
  weights = tmp_path / 'onnx' / 'weights.bin'
  convert.to_onnx(str(tmp_path / 'bundle'), str(tmp_path / 'whole'))
  assert weights.stat().st_size < (tmp_path / 'whole' / 'weights.bin').stat().st_size


@pytest.mark.parametrize('outlier', [1.0, 300.0])
def test_products_in_int8_are_near_those_in_float32(tmp_path, outlier):
  """Rows and columns have scales of their own: large ones cost the others nothing."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 5, 64)).astype(np.float32)
  kernel = rng.normal(size=(64, 48)).astype(np.float32)
  x[0, 0] *= outlier
  kernel[:, 7] *= outlier
  x[1, 2] = 0
  with open(tmp_path / 'weights.bin', 'wb') as file:
    graph = Graph(WeightFile(file, 'weights.bin', int8=True))
    name = graph.input('x', np.float32, ['B', 'P', 64])
    graph.output(
      'y', graph.matmul(name, 'kernel', lambda: kernel), np.float32, ['B', 'P', 48]
    )
    graph.save(tmp_path / 'graph.onnx')
  session = onnxruntime.InferenceSession(str(tmp_path / 'graph.onnx'))
  (got,) = session.run(None, {'x': x})
  want = x @ kernel
  sizes = np.abs(x).max(2)[..., None] * np.abs(kernel).max(0)
  error = np.abs(got - want) / np.maximum(sizes, 1e-6)
  assert (got[1, 2] == 0).all()
  assert 0 < error.max() < 0.15  # of at most 64 summands
  assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.02


def test_verbs_take_an_export_where_they_can(pair, tmp_path, capsys):
  (ours, _), folder = pair
  questions, answers = tmp_path / 'q.jsonl', tmp_path / 'a.jsonl'
  questions.write_text('{"task": "a", "inputs": "some words"}\n')
  words = [f'--model_dir={folder}/onnx', f'--input={questions}', f'--output={answers}']
  assert cli.main(['infer', *words]) == 0
  answer = json.loads(answers.read_text())
  assert answer['prediction'] == ours.predict('a', ['some words'])[0].text
  assert cli.main(['infer', *words, '--weights=int8']) == 2
  assert 'chosen by convert --dtype: leave out weights=int8' in capsys.readouterr().err
  words = [f'--input={folder}/onnx', f'--output={tmp_path}/out', '--to=t5x']
  assert cli.main(['convert', *words]) == 2
  message = 'was exported to ONNX, from which no parameters are read'
  assert message in capsys.readouterr().err


def test_a_server_has_nothing_to_compile(pair):
  (ours, theirs), _ = pair
  for model, compiles in ((ours, True), (theirs, False)):
    group = requests.Group(model, requests.RANK, None)
    pairs = [(model.question('a', 'x' * 17), model.label_set(['p', 'q', 'r', 's', 't']))]
    assert requests.takes_compilation(group, pairs) is compiles
  assert theirs.engine.adopt(ours.engine) and not ours.engine.adopt(theirs.engine)


def test_a_damaged_export_is_refused(pair, tmp_path):
  _, folder = pair
  with pytest.raises(UserError, match='holds one step alone'):
    hyperprompt_jax.load(folder / 'onnx', 3)
  copy = tmp_path / 'copy'
  copy.mkdir()
  for path in (folder / 'onnx').iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  weights = bytearray((copy / 'weights.bin').read_bytes())
  weights[5000] ^= 1
  (copy / 'weights.bin').write_bytes(weights)
  with pytest.raises(UserError, match=r'weights\.bin is damaged'):
    hyperprompt_jax.load(copy)


def test_missing_packages_are_named(pair, tmp_path, monkeypatch):
  _, folder = pair
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  with pytest.raises(UserError, match=r"pip install 'hyperprompt-jax\[onnx\]'"):
    hyperprompt_jax.load(folder / 'onnx')
  for name in [name for name in sys.modules if name.startswith('hyperprompt_jax.onnx')]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(UserError, match=r"pip install 'hyperprompt-jax\[onnx\]'"):
    convert.to_onnx(str(folder / 'bundle'), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('to', 'dtype', 'choices'),
  [('onnx', 'bfloat16', 'float32 or int8'), ('bundle', 'int8', 'float32 or bfloat16')],
)
def test_each_format_has_its_precisions(tmp_path, capsys, to, dtype, choices):
  words = [f'--input={tmp_path}', f'--output={tmp_path}/out', f'--to={to}']
  assert cli.main(['convert', *words, f'--dtype={dtype}']) == 2
  assert f'--to={to} takes --dtype={choices}, not {dtype}' in capsys.readouterr().err
