"""The rows that an evaluation reads."""

import hyperprompt_tasks
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.evaluation.evaluator import Evaluator
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings
from tests import tiny, tiny_run

UNSCORED, SCORED = f'{tiny_run.UNSCORED}_copy', 'hp_builtin_first'
MIXED = 'hp_test_scored_and_not'
hyperprompt_tasks.add_mixture(MIXED, {UNSCORED: 1.0, SCORED: 1.0})


def test_losses_and_answers_read_a_split_that_is_opened_once(tmp_path, monkeypatch):
  hyperprompt_tasks.use_vocabulary('bytes')
  opened, open_tasks = [], Access.open

  def count(access, tasks, *args, **kwargs):
    opened.extend(task.name for task in tasks)
    return open_tasks(access, tasks, *args, **kwargs)

  monkeypatch.setattr(Access, 'open', count)
  data = DataSettings(
    MIXED,
    {'inputs': 16, 'targets': 8},
    vocabulary='bytes',
    batch_size=4,
    cache=str(tmp_path),
  )
  evaluation = EvaluationSettings(steps=2, num_examples=5)
  evaluator = Evaluator(tiny.model(), Partitioner(), data, evaluation)
  assert {task: len(rows) for task, rows in evaluator._losses.items()} == {
    UNSCORED: 8,
    SCORED: 8,
  }
  assert {task: len(rows) for task, rows in evaluator._rows.items()} == {SCORED: 5}
  assert sorted(opened) == sorted([UNSCORED, SCORED])
  # Without losses, a task that is not scored is not read.
  opened.clear()
  answers = Evaluator(tiny.model(), Partitioner(), data, EvaluationSettings(steps=0))
  assert answers._losses == {} and answers._rows.keys() == {SCORED}
  assert opened == [SCORED]
