"""Training ends once a metric no longer improves, wherever it was interrupted."""

import math

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.training import early_stopping
from hyperprompt_jax.training.early_stopping import Watch
from hyperprompt_jax.training.settings import EarlyStopping

RULE = EarlyStopping('average', patience=2)


def stops_at(rule, values):
  """Returns the number of the evaluation after which training ends, or None.

  At every evaluation the run may have been interrupted: a watch that is made of the
  records decides as the one that has seen them all.
  """
  watch, records = Watch(rule), []
  for number, value in enumerate(values):
    seen = {} if value is None else {rule.metric or 'average': value}
    watch.add(10 * number, seen)
    records += [
      {'step': 10 * number, **{f'eval/{name}': x for name, x in seen.items()}},
      {'step': 10 * number, 'train/average': -1.0},
    ]
    resumed = Watch(rule, records)
    assert resumed.reason_to_stop() == watch.reason_to_stop()
    if watch.reason_to_stop():
      return number
  return None


@pytest.mark.parametrize(
  ('rule', 'values', 'stop'),
  [
    (RULE, [1, 2, 3, 4], None),
    (RULE, [1, 3, 2, 2.5, 9], 3),
    # An equal value is no better one.
    (RULE, [3, 3, 3], 2),
    (RULE, [3, 2, 4, 3, 3], 4),
    # What is no number is never the best; what is absent does not count.
    (RULE, [3, math.nan, math.nan], 2),
    (RULE, [3, None, None, None], None),
    (EarlyStopping('a/loss', 1, 'min'), [3, 2, 2.5], 2),
    (EarlyStopping('a/loss', 1, 'max'), [3, 2], 1),
    (EarlyStopping(None, 1), [3, 2, 1], None),
  ],
)
def test_it_ends_where_the_metric_has_not_improved_for_so_long(rule, values, stop):
  assert stops_at(rule, values) == stop


def test_the_reason_names_the_metric_and_the_best_step():
  watch = Watch(RULE)
  for step, value in ((5, 70.0), (10, 60.0), (15, 65.0)):
    assert watch.add(step, {'average': value})
  assert 'average was best at step 5 (70), 2 evaluations ago' in watch.reason_to_stop()


def test_an_evaluation_without_the_metric_is_noticed():
  assert not Watch(RULE).add(5, {'score/mood': 1.0})
  assert Watch(EarlyStopping()).add(5, {})


@pytest.mark.parametrize(
  'metric',
  [None, 'average', 'score/copy', 'copy/loss', 'copy/accuracy', 'average ', 'x/loss'],
)
def test_a_metric_of_no_task_is_refused(metric):
  rule = EarlyStopping(metric)
  if metric in ('average ', 'x/loss'):
    with pytest.raises(UserError, match=r'is no metric of hp_builtin.*score/copy'):
      early_stopping.check(rule, 'hp_builtin')
  else:
    early_stopping.check(rule, 'hp_builtin')
