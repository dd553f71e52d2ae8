"""The choice of the checkpoints that a run keeps."""

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import AVERAGE
from hyperprompt_jax.checkpoints.retention import preserved
from hyperprompt_jax.training.settings import Retention
from tests import tiny_run


def kept(retention, scores):
  steps = sorted(scores)
  kept = preserved(retention, steps, scores)
  return [step for step, keep in zip(steps, kept, strict=True) if keep]


SCORES = {
  10: {AVERAGE: 50.0, 'a': 90.0, 'b': 10.0},
  20: {AVERAGE: 70.0, 'a': 60.0, 'b': 80.0},
  30: {AVERAGE: 70.0, 'a': 59.0, 'b': 81.0},
  40: {},
  50: {AVERAGE: 60.0, 'a': 60.0, 'b': 60.0},
  60: {},
}


@pytest.mark.parametrize(
  ('retention', 'expected'),
  [
    (Retention(keep=2, keep_best=0, keep_best_per_task=False), [50, 60]),
    (Retention(keep=1, keep_best=0, keep_best_per_task=False), [60]),
    (Retention(keep=9, keep_best=0, keep_best_per_task=False), [10, 20, 30, 40, 50, 60]),
    (Retention(keep=None, keep_best=0, keep_best_per_task=False), [10, 20, 30, 40, 50, 60]),
    # Of equal scores the first is kept, which the tables show.
    (Retention(keep=1, keep_best=1, keep_best_per_task=False), [20, 60]),
    (Retention(keep=1, keep_best=3, keep_best_per_task=False), [20, 30, 50, 60]),
    (Retention(keep=1, keep_best=0, keep_best_per_task=True), [10, 30, 60]),
    (Retention(keep=1, keep_best=1, keep_best_per_task=True), [10, 20, 30, 60]),
  ],
)
def test_retention_keeps_the_latest_the_best_and_the_best_of_each_task(retention, expected):
  assert kept(retention, SCORES) == expected


def test_retention_judges_by_the_checkpoints_that_are_there():
  retention = Retention(keep=1, keep_best=1, keep_best_per_task=False)
  assert preserved(retention, [10, 40, 50, 60], SCORES) == [False, False, True, True]
  assert preserved(retention, [], SCORES) == []


@pytest.mark.slow(
  held_by='test_retention_keeps_the_latest_the_best_and_the_best_of_each_task'
)
def test_a_run_keeps_what_its_retention_says(trained, tmp_path):
  folder = tmp_path / 'run'
  kept = {'KEEP_CHECKPOINTS': 1, 'KEEP_BEST': 0, 'KEEP_BEST_PER_TASK': False}
  assert cli.main(tiny_run.train_arguments(folder, EVAL_STEPS=0, **kept)) == 0
  assert [p.name for p in (folder / 'checkpoints').iterdir()] == ['4']
