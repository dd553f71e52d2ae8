"""`hyperprompt eval --compare`, on the records of training."""

import csv
import json

import numpy as np
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.evaluation import comparison, intervals

CONFIG = """\
import hyperprompt_jax.methods

# Macros:
METHOD = @methods.{method}()
MODEL_DIR = \\
    '/somewhere/{method}'
RANDOM_SEED = {seed}
TRAIN_STEPS = {steps}
"""


def run(folder, method, seed, scores, steps=10):
  """A MODEL_DIR whose evaluations gave `scores`, by step and task."""
  folder.mkdir(parents=True)
  (folder / 'config.gin').write_text(CONFIG.format(method=method, seed=seed, steps=steps))
  lines = [{'step': 1, 'train/loss': 3.0}]
  for step, by_task in scores.items():
    record = {f'eval/score/{task}': score for task, score in by_task.items()}
    lines.append(
      {'step': step, 'eval/average': float(np.mean([*by_task.values()])), **record}
    )
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  return str(folder)


@pytest.fixture
def folders(tmp_path):
  """Three seeds of two methods: one is always better at `a`, and sometimes at `b`."""
  result = []
  for seed, (a, b) in enumerate([(60.0, 50.0), (70.0, 40.0), (65.0, 60.0)]):
    result.append(
      run(tmp_path / f'm{seed}', 'MultiTaskLearning', seed, {5: {'a': a, 'b': b}})
    )
    result.append(
      run(
        tmp_path / f'g{seed}',
        'HyperPromptGlobal',
        seed,
        # The average is best at step 10, `b` at step 5.
        {5: {'a': 0.0, 'b': 99.0}, 10: {'a': a + 10 + seed, 'b': 50.0}},
      )
    )
  return result


def test_methods_by_tasks_with_the_winner_marked(folders, capsys):
  assert cli.main(['eval', '--compare', *folders]) == 0
  out = capsys.readouterr().out
  lines = [
    [cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines()[:4]
  ]
  assert lines[0] == ['method', 'seeds', 'a', 'b', 'average']
  assert lines[2] == [
    'MultiTaskLearning',
    '3',
    '65.00 ± 5.00',
    '50.00 ± 10.00',
    '57.50 ± 4.33',
  ]
  # 11 points on `a`, one more with each seed; on `b` now more, now less.
  assert lines[3][:4] == ['HyperPromptGlobal', '3', '**76.00 ± 5.57**', '50.00 ± 0.00']
  assert not lines[3][4].startswith('**')
  assert '(best), mean' in out


def test_best_per_task_is_the_mean_of_each_tasks_best(folders, capsys):
  assert cli.main(['eval', '--compare', *folders, '--step=best_per_task', '--json']) == 0
  report = json.loads(capsys.readouterr().out)
  result = {(row['method'], row['task']): row for row in report['scores']}
  prompted = result['HyperPromptGlobal', 'b']
  assert (prompted['mean'], prompted['std'], prompted['seeds']) == (99.0, 0.0, 3)
  assert prompted['best']
  assert result['HyperPromptGlobal', 'average']['mean'] == pytest.approx((76 + 99) / 2)


def test_numbers_as_csv(folders, tmp_path, capsys):
  path = tmp_path / 'table.csv'
  assert cli.main(['eval', '--compare', *folders, f'--csv={path}']) == 0
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 6
  assert rows[0] == {
    'method': 'MultiTaskLearning',
    'task': 'a',
    'seeds': '3',
    'mean': '65.0',
    'std': '5.0',
    'best': 'False',
  }
  capsys.readouterr()
  assert cli.main(['eval', '--compare', *folders, f'--csv={tmp_path}/no/table.csv']) == 2
  assert 'cannot be written' in capsys.readouterr().err


def test_one_seed_has_no_spread_and_no_winner(folders, capsys):
  assert cli.main(['eval', '--compare', *folders[:2], '--step=latest']) == 0
  out = capsys.readouterr().out
  assert '| HyperPromptGlobal | 1 | 70.00 | 50.00 | 60.00 |' in out
  assert '**' not in out and '±' not in out.splitlines()[2]


def test_configurations_are_methods_of_their_own(tmp_path):
  scores = {5: {'a': 1.0}}
  folders = [
    run(tmp_path / 'short', 'HyperPromptGlobal', 0, scores),
    run(tmp_path / 'long', 'HyperPromptGlobal', 0, scores, steps=20),
  ]
  names = [method.name for method in comparison.compare(folders)]
  assert names == ['HyperPromptGlobal (short)', 'HyperPromptGlobal (long)']


def test_single_task_runs_are_put_together(tmp_path):
  for task, score in (('a', 40.0), ('b', 60.0)):
    run(tmp_path / 'single' / task, 'SingleTask', 0, {5: {task: score}})
  (method,) = comparison.compare([str(tmp_path / 'single')])
  assert method.name == 'SingleTask'
  assert method.scores == {0: {'a': 40.0, 'b': 60.0, 'average': 50.0}}


def test_what_cannot_be_compared(folders, tmp_path, capsys):
  nothing = tmp_path / 'nothing'
  nothing.mkdir()
  fresh = run(tmp_path / 'fresh', 'MultiTaskLearning', 9, {})
  again = run(tmp_path / 'again', 'MultiTaskLearning', 0, {5: {'a': 1.0}})
  for arguments, message in (
    ([str(nothing)], f'{nothing} is no folder of a training run: it has no config.gin'),
    ([str(tmp_path / 'gone')], 'gone is no folder of a training run'),
    ([fresh], f'{fresh} has no scores yet'),
    ([folders[0], again], 'are runs of the same configuration and seed, 0: name one'),
    ([folders[0], '--step=7'], '--step=7: --compare takes best, best_per_task, latest'),
    ([], 'expected at least one argument'),
  ):
    assert cli.main(['eval', '--compare', *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == '' and message in err and len(err.splitlines()) == 1


def test_intervals_of_means():
  # Student's t of 4 degrees of freedom is 2.776 at 97.5 %.
  values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
  half = 2.7764 * 2.5**0.5 / 5**0.5
  assert intervals.bounds(values) == pytest.approx((3 - half, 3 + half), rel=1e-4)
  assert intervals.bounds([2.0, 2.0]) == (2.0, 2.0)
  assert np.isnan(intervals.bounds([1.0])).all()
