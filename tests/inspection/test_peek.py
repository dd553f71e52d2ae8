"""Inspection: its numbers against a naive computation, its files, its errors."""

import csv
import json
import math

import jax
import numpy as np
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.inspection import files, pictures
from hyperprompt_jax.nn import statistics
from hyperprompt_jax.nn.stacking import stack_layers
from tests import naive, slow, tiny


def naive_statistics(weights, num_prompts):
  """Returns the mass on prompts and on tokens, the entropy, and each query's entropy.

  Args:
    weights: holds an array of each head and query of a layer, `[l + K]`.
    num_prompts: is the prompt length, l.
  """
  masses, rest, entropies = [], [], []
  for row in weights:
    tokens = [float(x) for x in row[num_prompts:]]
    masses.append(sum(float(x) for x in row[:num_prompts]))
    rest.append(sum(tokens))
    shares = [x / sum(tokens) for x in tokens]
    entropies.append(-sum(c * math.log(c) for c in shares if c > 0))
  mean = lambda values: sum(values) / len(values)
  return mean(masses), mean(rest), mean(entropies), entropies


@pytest.mark.parametrize('scan_layers', slow.all_but([True], [True, False]))
@pytest.mark.parametrize('method', ['hyperprompt_global', 'upper_layers_of_both', 'mtl'])
def test_mass_and_entropy_are_those_of_a_naive_computation(method, scan_layers):
  model = tiny.model(tiny.VARIANTS[method], scan_layers=False)
  params, batch = tiny.init(model), tiny.batch(inputs=11)
  maps = []
  naive.batch_logits(model, params, batch, maps)
  if scan_layers:
    model, params = tiny.model(tiny.VARIANTS[method]), stack_layers(params)
  conditioning = tiny.condition(model, params)
  computed = jax.jit(model.attention_statistics)(params, conditioning, batch)
  end = statistics.entropy_range(11)
  for row, of_row in enumerate(maps):
    for layer, weights in enumerate(of_row):
      prompts = layer >= getattr(model.method, 'first_layer', layer + 1)
      mass, tokens, entropy, each = naive_statistics(weights, 4 if prompts else 0)
      assert computed.prompt_mass[layer, row].mean() == pytest.approx(mass, abs=1e-6)
      assert computed.token_mass[layer, row].mean() == pytest.approx(tokens, abs=1e-6)
      assert computed.entropy[layer, row].mean() == pytest.approx(entropy, abs=1e-6)
      assert computed.histogram[layer, row].sum() == len(each)
      counts, _ = np.histogram(each, statistics.NUM_BINS, (0, end))
      # An entropy at the border of two bins may fall into either.
      apart = np.cumsum(counts - np.asarray(computed.histogram[layer, row]))
      assert np.abs(apart).max() <= 1
  np.testing.assert_allclose(computed.prompt_mass + computed.token_mass, 1.0, atol=1e-6)
  if method == 'mtl':
    assert not np.asarray(computed.prompt_mass).any()


def test_what_nobody_asks_for_is_not_computed():
  model = tiny.model()
  params, batch = tiny.init(model), tiny.batch()
  text = jax.jit(lambda p, b: model.logits(p, b)).lower(params, batch).as_text()
  # The logarithm is the entropy's alone, as there is no loss here.
  assert 'stablehlo.log ' not in text
  assert statistics.COLLECTION not in jax.eval_shape(
    model.init_variables, jax.random.key(0)
  )


@pytest.fixture(scope='module')
def seen(tmp_path_factory, trained):
  """The folder of a look at a run, beside what it was two steps before."""
  folder = tmp_path_factory.mktemp('seen')
  arguments = [f'--model_dir={trained}', f'--baseline={trained}', '--baseline_step=2']
  command = ['peek', *arguments, '--num_examples=11', f'--output={folder}']
  assert cli.main(command) == 0
  return folder


def test_all_files_are_written_and_say_the_same(seen):
  names = ('layers', 'tasks', 'entropy', 'similarity')
  pictured = {f'{name}.{suffix}' for name in names for suffix in ('png', 'svg')}
  tables = {'layers.csv', 'entropy.csv', 'similarity.csv'}
  assert {p.name for p in seen.iterdir()} == pictured | tables | {'peek.html', 'peek.json'}
  run, baseline = json.loads((seen / 'peek.json').read_text())
  assert run['examples'] == baseline['examples'] == [11]
  assert (run['tasks'], run['method']) == (['first'], 'HyperPromptGlobal')
  assert (run['step'], baseline['step']) == (4, 2)
  assert 0 < run['prompt_mass']['overall'][0] < 1
  assert run['prompt_mass'] != baseline['prompt_mass']
  rows = list(csv.DictReader((seen / 'layers.csv').open()))
  assert [(row['layer'], row['task']) for row in rows] == [('0', 'first'), ('0', '')] * 2
  assert float(rows[0]['prompt_mass']) == run['prompt_mass']['by_task'][0][0]
  for report in (run, baseline):
    assert sum(report['entropy_histogram'][0]) == pytest.approx(1.0, abs=1e-4)
  cosines = np.asarray(run['similarity']['task embeddings'])
  assert cosines.shape == (8, 8) and np.allclose(np.diag(cosines), 1)


def test_the_page_needs_no_other_file_and_defines_its_numbers(seen):
  page = (seen / 'peek.html').read_text()
  assert page.count('<svg') == 4
  assert 'src=' not in page and 'url(http' not in page
  for word in ('Definitions', 'attention mass on prompts', 'ln c', 'average linkage'):
    assert word in page
  (value,) = json.loads((seen / 'peek.json').read_text())[0]['prompt_mass']['overall']
  assert f'<td>{value:.4f}</td>' in page


@pytest.mark.slow(held_by='test_all_files_are_written_and_say_the_same')
def test_the_same_numbers_make_the_same_files(seen, tmp_path):
  files.write(str(tmp_path), json.loads((seen / 'peek.json').read_text()))
  for path in seen.iterdir():
    assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow(held_by='test_all_files_are_written_and_say_the_same')
def test_one_object_on_standard_output(trained, tmp_path, capsys):
  capsys.readouterr()
  folder = tmp_path / 'out'
  flags = [f'--model_dir={trained}', '--num_examples=3', f'--output={folder}']
  assert cli.main(['peek', *flags, '--step=2', '--json']) == 0
  report = json.loads(capsys.readouterr().out)
  assert (report['step'], report['baseline']) == (2, None)
  assert report['output'] == str(folder)


def test_like_tasks_are_joined_first():
  cosines = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
  tree = pictures.linkage(cosines)
  assert tree[0, :2].tolist() == [0, 1]
  np.testing.assert_allclose(tree[:, 2], [0.1, (0.9 + 0.8) / 2])


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (['--num_examples=0'], '--num_examples must be a positive integer, not 0'),
    (['--step=7'], '--step=7: there is no such checkpoint; there are 2, 4'),
    (['--baseline=/nowhere'], '/nowhere is no folder of a training run'),
    pytest.param(
      ['--output=/proc/peek', '--num_examples=1'],
      '--output /proc/peek cannot be written',
      marks=pytest.mark.slow,
    ),
    (["--gin.MIXTURE_OR_TASK_NAME='hp_super_glue_cb_v102'"], 'is of the task list'),
  ],
)
def test_what_cannot_be(trained, capsys, more, message):
  capsys.readouterr()
  assert cli.main(['peek', f'--model_dir={trained}', *more]) == 2
  out, err = capsys.readouterr()
  assert out == '' and message in err.splitlines()[-1]
