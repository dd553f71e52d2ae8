"""The demonstration, shortened to eight steps."""

import json

import jax
import numpy as np
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.cli import demo
from hyperprompt_jax.demonstration import comparison, conflict, side_by_side


def made_up(mean):
  curves = [[mean - 1.0] * 8, [mean + 1.0] * 8]
  return {'label': f'L{mean}', 'parameters': 1000, 'steps': [*range(8)], 'right': curves}


@pytest.fixture
def trained(monkeypatch):
  """Numbers in place of training, and the arguments of each call."""
  calls = []
  names = ('hyperprompt_global', 'wide_mtl', 'mtl', 'single_task')
  report = {name: made_up(50 + number) for number, name in enumerate(names)}
  monkeypatch.setattr(demo, 'train_all', lambda *words: calls.append(words) or report)
  return report, calls


def test_the_demo_prints_a_table_and_draws_the_curves(trained, tmp_path, capsys):
  report, calls = trained
  assert cli.main(['demo', f'--output_dir={tmp_path}', '--steps=80', '--seeds=2']) == 0
  assert calls == [(80, 2)]
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ['L50', '1,000', '50.0', '49.0', 'to', '51.0'] in lines
  assert json.loads((tmp_path / 'results.json').read_text()) == report
  assert (tmp_path / 'learning_curves.png').read_bytes().startswith(b'\x89PNG')


def test_the_demo_prints_one_object(trained, tmp_path, capsys):
  report, _ = trained
  assert cli.main(['demo', f'--output_dir={tmp_path}', '--json']) == 0
  out = json.loads(capsys.readouterr().out)
  assert out == {'methods': report, 'curves': str(tmp_path / 'learning_curves.png')}


@pytest.mark.parametrize('flag', ['--steps=7', '--seeds=0'])
def test_a_number_that_is_too_small(flag, capsys):
  assert cli.main(['demo', flag]) == 2
  assert flag in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(trained, tmp_path, capsys):
  taken = tmp_path / 'taken'
  taken.touch()
  assert cli.main(['demo', f'--output_dir={taken}']) == 2
  assert f'--output_dir {taken} cannot be written' in capsys.readouterr().err


def test_the_networks_have_the_sizes_of_the_study():
  prompts, wider, plain = (
    comparison.CONTESTANTS[name].model().param_shapes()
    for name in ('hyperprompt_global', 'wide_mtl', 'mtl')
  )
  count = lambda shapes: sum(leaf.size for leaf in jax.tree.leaves(shapes))
  budget = comparison.EXTRA_PARAMETERS
  for shapes in (prompts, wider):
    assert count(shapes) - count(plain) == pytest.approx(budget, rel=0.02)


@pytest.mark.slow(held_by='test_right_symbols_are_those_of_the_targets')
def test_a_network_for_each_task_is_scored_on_its_own_task(monkeypatch, compile_once):
  def right(_, params, rows):
    # Each replica knows exactly one task: that of its number.
    replicas = params['token_embedder']['embedding'].shape[0]
    answers = [rows['task_ids'][:, 0] == replica for replica in range(replicas)]
    return np.repeat(np.array(answers)[:, :, None], comparison.LENGTH, axis=2)

  monkeypatch.setattr(side_by_side, 'right_symbols_of_replicas', right)
  alone = comparison.train('single_task', 8, 3)
  assert alone['right'] == [[100.0] * 8] and alone['steps'] == [*range(1, 9)]
  together = comparison.train('mtl', 8, 2)
  # Replica 0 knows the first of sixteen tasks, replica 1 the second.
  assert together['right'] == [[6.25] * 8] * 2
  assert alone['parameters'] == 16 * together['parameters']


def test_right_symbols_are_those_of_the_targets(compile_once):
  model = comparison.CONTESTANTS['mtl'].model()
  rows = conflict.rows(comparison.SHAPE, 1, 0)
  params = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
  right = np.asarray(side_by_side.right_symbols_of_replicas(model, params, rows))
  assert right.shape == (2, 16, 6)
  first = jax.tree.map(lambda x: x[0], params)
  best = np.argmax(jax.jit(model.logits)(first, rows), axis=-1)[:, :6]
  assert (right[0] == (best == rows['decoder_target_tokens'][:, :6])).all()
