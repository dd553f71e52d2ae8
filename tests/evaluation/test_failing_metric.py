"""Training with a metric of the user's that raises."""

import json

import pytest

import hyperprompt_tasks
from hyperprompt_jax import cli
from hyperprompt_tasks import builtin
from tests import tiny_run

NAME = 'hp_test_raising'


def unfinished(targets, predictions):
  raise KeyError('a label that the author forgot')


hyperprompt_tasks.add_task(
  NAME,
  source=builtin.BuiltinSource('first'),
  text=[],
  task_list=builtin.TASKS,
  conditioned_task='first',
  metric_fns=[unfinished],
)


@pytest.mark.slow(held_by='test_a_metric_that_fails_is_named_and_the_others_count')
def test_a_metric_that_raises_costs_its_score_and_no_step(tmp_path, compile_once, capsys):
  run = tmp_path / 'run'
  assert cli.main(tiny_run.train_arguments(run, MIXTURE_OR_TASK_NAME=NAME)) == 0
  err = capsys.readouterr().err
  before, *others = (line for line in err.splitlines() if 'WARN' in line)
  assert 'when tried on a few rows; training begins' in before
  assert [line.split(':')[1] for line in others] == [' step 2', ' step 4']
  for warning in (before, *others):
    assert 'task first: ' in warning and 'unfinished' in warning and 'forgot' in warning
  assert 'Traceback' not in err
  assert sorted(path.name for path in (run / 'checkpoints').glob('[0-9]*')) == ['2', '4']
  records = [json.loads(line) for line in (run / 'metrics.jsonl').open()]
  assert any('eval/first/loss' in record for record in records)
  assert not any('eval/score/first' in record for record in records)


def test_a_metric_that_raises_ends_a_run_before_it_begins_where_that_is_asked_for(
  tmp_path, capsys
):
  macros = {'MIXTURE_OR_TASK_NAME': NAME, 'FAILING_METRICS': 'end'}
  assert cli.main(tiny_run.train_arguments(tmp_path / 'run', **macros)) == 2
  assert 'forgot' in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / 'run').exists()
