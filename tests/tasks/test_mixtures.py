import logging

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from tests import tiny_run

SUPER_GLUE = 'hp_super_glue_v102_proportional'
GLUE = 'hp_glue_v002_proportional'
LENGTHS = {'inputs': 64, 'targets': 16, 'task_ids': 1}


class Converter(seqio.EncDecFeatureConverter):
  """SeqIO's converter, with the feature of task ids added."""

  TASK_FEATURES = {
    **seqio.EncDecFeatureConverter.TASK_FEATURES,
    'task_ids': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }


def evaluate(name, answer):
  """Returns the metrics of a model that answers `answer(target tokens)`."""
  evaluator = seqio.Evaluator(name, Converter(pack=False), sequence_length=None)

  def predict(dataset, *_):
    return [
      (int(i), answer(example['decoder_target_tokens'].tolist()))
      for i, example in dataset.as_numpy_iterator()
    ]

  metrics, _ = evaluator.evaluate(
    compute_metrics=True, predict_fn=predict, score_fn=None, step=0
  )
  return metrics.result(), evaluator


def rates(name):
  mixture = seqio.MixtureRegistry.get(name)
  return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_rates_are_t5s():
  assert rates(SUPER_GLUE) == {
    'hp_super_glue_record_v102': 138_854,
    'hp_super_glue_multirc_v102': 27_243,
    'hp_super_glue_boolq_v102': 9_427,
    'hp_super_glue_wic_v102': 5_428,
    'hp_super_glue_rte_v102': 2_490,
    'hp_dpr_v001_simple': 1_322,
    'hp_super_glue_copa_v102': 400,
    'hp_super_glue_wsc_v102_simple_train': 259,
    'hp_super_glue_cb_v102': 250,
    'hp_super_glue_wsc_v102_simple_eval': 0,
    'hp_super_glue_axb_v102': 0,
    'hp_super_glue_axg_v102': 0,
  }
  assert sum(rates(SUPER_GLUE).values()) == 185_673
  assert rates(GLUE) == {
    'hp_glue_mnli_v002': 392_702,
    'hp_glue_qqp_v002': 363_849,
    'hp_glue_qnli_v002': 104_743,
    'hp_glue_sst2_v002': 67_349,
    'hp_glue_cola_v002': 8_551,
    'hp_glue_stsb_v002': 5_749,
    'hp_glue_mrpc_v002': 3_668,
    'hp_glue_rte_v002': 2_490,
    'hp_glue_mnli_matched_v002': 0,
    'hp_glue_mnli_mismatched_v002': 0,
    'hp_glue_ax_v002': 0,
  }
  assert sum(rates(GLUE).values()) == 949_101
  assert rates('hp_wsc_dpr_simple_proportional') == {
    'hp_dpr_v001_simple': 1_322,
    'hp_super_glue_wsc_v102_simple_train': 259,
    'hp_super_glue_wsc_v102_simple_eval': 0,
  }
  assert rates('hp_glue_mnli_and_dev_v002') == {
    'hp_glue_mnli_v002': 1,
    'hp_glue_mnli_matched_v002': 1,
    'hp_glue_mnli_mismatched_v002': 1,
  }


@pytest.mark.parametrize(
  ('mixture', 'unscored'),
  [
    (
      SUPER_GLUE,
      [
        'hp_super_glue_axb_v102',
        'hp_super_glue_axg_v102',
        'hp_super_glue_wsc_v102_simple_train',
      ],
    ),
    (GLUE, ['hp_glue_ax_v002']),
  ],
)
def test_only_tasks_that_t5_scores_have_metrics(mixture, unscored):
  # SeqIO checks the signatures of metric functions here and not before.
  scored = {
    task.name: len(task.metric_fns) for task in seqio.MixtureRegistry.get(mixture).tasks
  }
  assert [name for name, count in scored.items() if not count] == unscored


@pytest.mark.parametrize(
  ('name', 'conditioned'),
  [
    ('hp_super_glue_boolq_v102', 'boolq'),
    ('hp_super_glue_cb_v102', 'cb'),
    ('hp_super_glue_copa_v102', 'copa'),
    ('hp_super_glue_multirc_v102', 'multirc'),
    ('hp_super_glue_record_v102', 'record'),
    ('hp_super_glue_rte_v102', 'rte'),
    ('hp_super_glue_wic_v102', 'wic'),
    ('hp_super_glue_wsc_v102_simple_train', 'wsc'),
  ],
)
def test_examples_carry_the_id_of_their_conditioned_task(folder, name, conditioned):
  task = seqio.TaskRegistry.get(name)
  tasks = hyperprompt_tasks.task_list(SUPER_GLUE)
  examples = list(task.get_dataset(None, 'train').as_numpy_iterator())
  assert examples
  for example in examples:
    assert example['task_ids'].tolist() == [tasks.index(conditioned)]
    assert example['task_ids'].dtype == np.int32


@pytest.mark.parametrize(
  ('name', 'mixture', 'conditioned'),
  [
    ('hp_super_glue_wsc_v102_simple_eval', SUPER_GLUE, 'wsc'),
    ('hp_dpr_v001_simple', SUPER_GLUE, 'wsc'),
    ('hp_glue_wnli_v002_simple_eval', SUPER_GLUE, 'wsc'),
    ('hp_super_glue_axb_v102', SUPER_GLUE, 'rte'),
    ('hp_super_glue_axg_v102', SUPER_GLUE, 'rte'),
    ('hp_glue_cola_v002', GLUE, 'cola'),
    ('hp_glue_sst2_v002', GLUE, 'sst2'),
    ('hp_glue_mrpc_v002', GLUE, 'mrpc'),
    ('hp_glue_stsb_v002', GLUE, 'stsb'),
    ('hp_glue_qqp_v002', GLUE, 'qqp'),
    ('hp_glue_qnli_v002', GLUE, 'qnli'),
    ('hp_glue_rte_v002', GLUE, 'rte'),
    ('hp_glue_mnli_v002', GLUE, 'mnli'),
    ('hp_glue_mnli_matched_v002', GLUE, 'mnli'),
    ('hp_glue_mnli_mismatched_v002', GLUE, 'mnli'),
    ('hp_glue_ax_v002', GLUE, 'mnli'),
    ('hp_glue_wnli_v002', 'hp_glue_wnli_v002', 'wnli'),
  ],
)
def test_tasks_have_the_id_of_their_conditioned_task(name, mixture, conditioned):
  task = seqio.TaskRegistry.get(name)
  tokens = tf.data.Dataset.from_tensors({'inputs': [5], 'targets': [6]})
  [example] = task.preprocess_postcache(tokens, None).as_numpy_iterator()
  tasks = hyperprompt_tasks.task_list(mixture)
  assert hyperprompt_tasks.task_list(name) == tasks
  assert example['task_ids'].tolist() == [tasks.index(conditioned)]


def test_the_folder_trains_without_dpr_and_says_so_once(folder, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    dataset = seqio.MixtureRegistry.get(SUPER_GLUE).get_dataset(
      LENGTHS, 'train', shuffle=False, seed=0
    )
  message = [r.getMessage() for r in caplog.records if 'runs without' in r.getMessage()]
  assert len(message) == 1
  assert message[0].startswith(
    f'{SUPER_GLUE}: SUPER_GLUE_DIR holds no train data for hp_dpr_v001_simple;'
  )
  # ReCoRD and MultiRC are nine tenths of T5's mixture.
  ids = [int(ex['task_ids'][0]) for ex in dataset.take(300).as_numpy_iterator()]
  assert 0.6 < np.mean(np.equal(ids, 4)) < 0.9
  assert 0.05 < np.mean(np.equal(ids, 3)) < 0.3


def test_evaluation_needs_no_data_beyond_the_folder(folder):
  mixture = seqio.MixtureRegistry.get(SUPER_GLUE)
  dataset = mixture.get_dataset(LENGTHS, 'validation', shuffle=False, num_epochs=1)
  assert {int(ex['task_ids'][0]) for ex in dataset.take(1000).as_numpy_iterator()}
  assert set(mixture.splits) == {'train', 'validation'}


@pytest.mark.slow(held_by='test_the_folder_trains_without_dpr_and_says_so_once')
def test_glue_trains_on_the_files_that_the_folder_has(glue_folder, caplog):
  (glue_folder / 'QQP' / 'train.tsv').unlink()
  with caplog.at_level(logging.WARNING, logger='absl'):
    dataset = seqio.MixtureRegistry.get(GLUE).get_dataset(
      LENGTHS, 'train', shuffle=False, seed=0
    )
  message = [r.getMessage() for r in caplog.records if 'runs without' in r.getMessage()]
  assert message == [
    f'{GLUE}: GLUE_DIR holds no train data for hp_glue_qqp_v002; the mixture runs without.'
  ]
  mnli = hyperprompt_tasks.task_list(GLUE).index('mnli')
  ids = [int(ex['task_ids'][0]) for ex in dataset.take(200).as_numpy_iterator()]
  assert 0.5 < np.mean(np.equal(ids, mnli)) < 0.85  # two thirds of the rest


def test_without_a_folder_dpr_is_a_member_like_any_other():
  dpr = seqio.TaskRegistry.get('hp_dpr_v001_simple')
  assert list(dpr.splits) == ['train', 'test']
  assert list(seqio.TaskRegistry.get('hp_super_glue_axb_v102').splits) == ['test']


def test_evaluator_finds_lengths_by_itself_and_scores_right_answers(folder):
  metrics, evaluator = evaluate(SUPER_GLUE, lambda target: target)
  perfect = {name: dict(values) for name, values in metrics.items()}
  # WSC's target is the proposed referent, which is right for one of the two rows. CB's
  # two rows lack a class, which counts as 0.
  assert perfect.pop('hp_super_glue_wsc_v102_simple_eval') == {'accuracy': 50.0}
  cb = perfect.pop('hp_super_glue_cb_v102')
  assert cb == pytest.approx({'mean_3class_f1': 200 / 3, 'accuracy': 100.0})
  assert len(perfect) == 6
  assert all(value == 100 for values in perfect.values() for value in values.values())
  assert evaluator.model_feature_shapes['decoder_target_tokens'] == (15,)
  average = hyperprompt_tasks.super_glue_average(metrics)
  assert average == pytest.approx((6 * 100 + 50 + (200 / 3 + 100) / 2) / 8)


@pytest.mark.slow(held_by='test_evaluator_finds_lengths_by_itself_and_scores_right_answers')
def test_evaluator_scores_right_answers_on_glue(glue_folder):
  # The matched and mismatched tasks stand in for MNLI, whose splits have other names.
  metrics, _ = evaluate(GLUE, lambda target: target)
  assert set(metrics) == {*rates(GLUE)} - {'hp_glue_mnli_v002', 'hp_glue_ax_v002'}
  assert all(
    value == pytest.approx(100) for values in metrics.values() for value in values.values()
  )
  assert hyperprompt_tasks.glue_average(metrics) == pytest.approx(100)


def test_evaluator_scores_wnli_by_its_referents(glue_folder):
  metrics, _ = evaluate('hp_glue_wnli_v002_simple_eval', lambda target: target)
  assert metrics == {'hp_glue_wnli_v002_simple_eval': {'accuracy': 100.0}}


def test_evaluator_scores_wrong_answers_as_zero():
  wrong, _ = evaluate('hp_builtin_first', lambda target: [3, 1])
  assert wrong == {'hp_builtin_first': {'accuracy': 0.0}}
  assert hyperprompt_tasks.average('hp_builtin_first', wrong) == 0


@pytest.mark.slow(held_by='test_a_stream_is_restored_at_any_step')
@pytest.mark.parametrize('name', [tiny_run.TWO_TASKS, SUPER_GLUE])
def test_a_saved_iterator_continues_in_a_fresh_pipeline(long_folder, tmp_path, name):
  def iterator():
    mixture = seqio.MixtureRegistry.get(name)
    return iter(mixture.get_dataset(LENGTHS, 'train', shuffle=True, seed=7))

  def take(it, count):
    return [
      {key: value.numpy().tolist() for key, value in next(it).items()} for _ in range(count)
    ]

  first = iterator()
  take(first, 40)
  path = tf.train.Checkpoint(it=first).write(str(tmp_path / 'iterator'))
  expected = take(first, 50)
  second = iterator()
  assert take(second, 50) != expected
  tf.train.Checkpoint(it=second).read(path).assert_consumed()
  assert take(second, 50) == expected
