import pytest

import hyperprompt_tasks

MIXTURE = 'hp_super_glue_v102_proportional'
METRICS = {
  'hp_super_glue_boolq_v102': {'accuracy': 80.0},
  'hp_super_glue_cb_v102': {'mean_3class_f1': 70.0, 'accuracy': 90.0},
  'hp_super_glue_copa_v102': {'accuracy': 60.0},
  'hp_super_glue_multirc_v102': {'f1': 50.0, 'exact_match': 20.0},
  'hp_super_glue_record_v102': {'em': 40.0, 'f1': 42.0},
  'hp_super_glue_rte_v102': {'accuracy': 75.0},
  'hp_super_glue_wic_v102': {'accuracy': 65.0},
  'hp_super_glue_wsc_v102_simple_eval': {'accuracy': 63.0},
}
SCORES = {
  'boolq': 80.0,
  'cb': 80.0,
  'copa': 60.0,
  'multirc': 35.0,
  'record': 41.0,
  'rte': 75.0,
  'wic': 65.0,
  'wsc': 63.0,
}


def test_super_glue_average_is_the_mean_over_tasks_of_means_over_metrics():
  assert hyperprompt_tasks.task_scores(MIXTURE, METRICS) == SCORES
  assert hyperprompt_tasks.super_glue_average(METRICS) == pytest.approx(499 / 8)


def test_diagnostics_and_dpr_do_not_count():
  extra = {
    'hp_dpr_v001_simple': {'accuracy': 0.0},
    'hp_super_glue_axb_v102': {'accuracy': 0.0},
    'hp_super_glue_axg_v102': {'accuracy': 0.0},
  }
  average = hyperprompt_tasks.super_glue_average({**METRICS, **extra})
  assert average == pytest.approx(499 / 8)


@pytest.mark.parametrize(
  'task', ['hp_super_glue_copa_v102', 'hp_super_glue_wsc_v102_simple_eval']
)
def test_there_is_no_average_without_every_task(task):
  rest = {name: values for name, values in METRICS.items() if name != task}
  assert hyperprompt_tasks.super_glue_average(rest) is None


def test_there_is_no_score_without_every_metric_of_the_task():
  half = {**METRICS, 'hp_super_glue_cb_v102': {'accuracy': 90.0}}
  scores = hyperprompt_tasks.task_scores(MIXTURE, half)
  assert scores == {name: s for name, s in SCORES.items() if name != 'cb'}
  assert hyperprompt_tasks.super_glue_average(half) is None


def test_a_single_task_is_scored_by_its_own_metrics():
  name = 'hp_super_glue_multirc_v102'
  assert hyperprompt_tasks.groups(name) == {
    'multirc': ((name, 'f1'), (name, 'exact_match'))
  }
  assert hyperprompt_tasks.average(name, METRICS) == 35.0


def test_a_task_that_is_never_scored_has_no_average():
  assert hyperprompt_tasks.average('hp_super_glue_axb_v102', METRICS) is None


def test_builtin_average_is_the_mean_accuracy():
  names = hyperprompt_tasks.task_list('hp_builtin')
  metrics = {f'hp_builtin_{name}': {'accuracy': float(i)} for i, name in enumerate(names)}
  expected = (len(names) - 1) / 2
  assert hyperprompt_tasks.average('hp_builtin', metrics) == pytest.approx(expected)
