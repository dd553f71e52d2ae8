import json

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
GLUE = 'hp_glue_v002_proportional'
GLUE_METRICS = {
  'hp_glue_cola_v002': {'matthews_corrcoef': 51.0},
  'hp_glue_sst2_v002': {'accuracy': 95.0},
  'hp_glue_mrpc_v002': {'f1': 92.0, 'accuracy': 88.0},
  'hp_glue_stsb_v002': {'pearson_corrcoef': 89.0, 'spearman_corrcoef': 88.0},
  'hp_glue_qqp_v002': {'f1': 72.0, 'accuracy': 89.0},
  'hp_glue_mnli_matched_v002': {'accuracy': 87.0},
  'hp_glue_mnli_mismatched_v002': {'accuracy': 86.0},
  'hp_glue_qnli_v002': {'accuracy': 93.0},
  'hp_glue_rte_v002': {'accuracy': 80.0},
}
GLUE_SCORES = {
  'cola': 51.0,
  'sst2': 95.0,
  'mrpc': 90.0,
  'stsb': 88.5,
  'qqp': 80.5,
  'mnli': 86.5,
  'qnli': 93.0,
  'rte': 80.0,
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


def test_glue_average_is_the_mean_over_tasks_of_means_over_metrics():
  assert hyperprompt_tasks.task_scores(GLUE, GLUE_METRICS) == GLUE_SCORES
  assert hyperprompt_tasks.glue_average(GLUE_METRICS) == pytest.approx(664.5 / 8)


def test_wnli_and_ax_do_not_count():
  extra = {name: {'accuracy': 0.0} for name in ('hp_glue_wnli_v002', 'hp_glue_ax_v002')}
  average = hyperprompt_tasks.glue_average({**GLUE_METRICS, **extra})
  assert average == pytest.approx(664.5 / 8)


@pytest.mark.parametrize('task', ['hp_glue_cola_v002', 'hp_glue_mnli_mismatched_v002'])
def test_there_is_no_glue_average_without_every_task(task):
  rest = {name: values for name, values in GLUE_METRICS.items() if name != task}
  assert hyperprompt_tasks.glue_average(rest) is None


def test_a_correlation_that_is_no_number_counts_as_zero():
  nan = {'pearson_corrcoef': float('nan'), 'spearman_corrcoef': float('nan')}
  metrics = {**GLUE_METRICS, 'hp_glue_stsb_v002': nan}
  assert hyperprompt_tasks.task_scores(GLUE, metrics) == {**GLUE_SCORES, 'stsb': 0.0}
  assert hyperprompt_tasks.glue_average(metrics) == pytest.approx(576 / 8)


def test_glue_average_of_t5s_metrics_on_reference_predictions(shared):
  path = shared / 'spec' / 'reference' / 'reference_metrics.json'
  cases = json.loads(path.read_text())['cases']
  metrics = {
    f'hp_{case.partition("/")[0]}': reference['sets']['alternating']['metrics']
    for case, reference in cases.items()
    if case.startswith('glue') and 'alternating' in reference['sets']
  }
  scores = hyperprompt_tasks.task_scores(GLUE, metrics)
  # Each task by hand, from the metrics in the file.
  expected = {
    'cola': 6.9006556,
    'sst2': 100 * 6 / 11,
    'mrpc': (100 * 4 / 9 + 100 * 6 / 11) / 2,
    'stsb': (0.7893316 + 0.7373331) / 2,
    'qqp': (100 * 4 / 9 + 100 * 6 / 11) / 2,
    'mnli': 100 * 5 / 11,
    'qnli': 100 * 6 / 11,
    'rte': 100 * 6 / 11,
  }
  assert scores == pytest.approx(expected)
  glue = hyperprompt_tasks.glue_average(metrics)
  assert glue == pytest.approx(sum(expected.values()) / 8)


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
