"""The demonstration, shortened to two steps."""

import json

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.cli import demo


@pytest.fixture(scope='module')
def report(tmp_path_factory, compile_once):
  folder = tmp_path_factory.mktemp('demo')
  arguments = [
    'demo',
    f'--output_dir={folder}',
    '--gin.TRAIN_STEPS=2',
    '--gin.EVAL_PERIOD=2',
    '--gin.EVAL_STEPS=0',
    '--gin.EVALUATOR_NUM_EXAMPLES=2',
    '--gin.BATCH_SIZE=2',
  ]
  return folder, arguments


def test_the_demo_scores_both_methods_on_every_task_and_draws_their_curves(report, capsys):
  folder, arguments = report
  assert cli.main([*arguments, '--json']) == 0
  result = json.loads(capsys.readouterr().out)
  tasks = {'first', 'last', 'max', 'copy', 'reverse', 'rotate', 'successor', 'sort'}
  assert set(result['chance']) == {*tasks, 'average'}
  for method in ('mtl', 'hyperprompt_global'):
    assert set(result['scores'][method]) == {*tasks, 'average'}
    assert (folder / method / 'checkpoints' / '2').is_dir()
  assert result['curves'] == str(folder / 'learning_curves.png')
  assert (folder / 'learning_curves.png').read_bytes().startswith(b'\x89PNG')


def test_the_table_has_a_line_for_every_task(report, capsys, monkeypatch):
  scores = {'first': 99.5, 'average': 50.0}
  drawn = {'chance': scores, 'scores': dict.fromkeys(demo.METHODS, scores), 'curves': 'c'}
  monkeypatch.setattr(demo, 'demo', lambda *_: drawn)
  assert cli.main(report[1]) == 0
  out = capsys.readouterr().out
  header = out.splitlines()[2].split()
  assert header == ['task', 'chance', 'MTL', 'HyperPrompt']
  lines = [line.split() for line in out.splitlines() if line.strip()]
  assert ['first', '99.5', '99.5', '99.5'] in lines
  assert lines[-2][0] == 'average'
