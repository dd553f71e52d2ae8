import logging

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks

SUPER_GLUE = 'hp_super_glue_v102_proportional'
LENGTHS = {'inputs': 64, 'targets': 16, 'task_ids': 1}


class Converter(seqio.EncDecFeatureConverter):
  """SeqIO's, which knows of no task ids, told of them."""

  TASK_FEATURES = {
    **seqio.EncDecFeatureConverter.TASK_FEATURES,
    'task_ids': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }


def evaluate(name, answer):
  """Metrics of a model that answers `answer(target tokens)`."""
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


def test_rates_are_t5s():
  mixture = seqio.MixtureRegistry.get(SUPER_GLUE)
  assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
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
  assert mixture.total_rate == 185_673


def test_only_tasks_that_t5_scores_have_metrics():
  # SeqIO checks the signatures of metric functions here and not before.
  scored = {
    task.name: len(task.metric_fns) for task in seqio.MixtureRegistry.get(SUPER_GLUE).tasks
  }
  assert [name for name, count in scored.items() if not count] == [
    'hp_super_glue_axb_v102',
    'hp_super_glue_axg_v102',
    'hp_super_glue_wsc_v102_simple_train',
  ]


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
  ('name', 'conditioned'),
  [
    ('hp_super_glue_wsc_v102_simple_eval', 'wsc'),
    ('hp_dpr_v001_simple', 'wsc'),
    ('hp_super_glue_axb_v102', 'rte'),
    ('hp_super_glue_axg_v102', 'rte'),
  ],
)
def test_tasks_share_the_id_of_one_conditioned_task(name, conditioned):
  task = seqio.TaskRegistry.get(name)
  tokens = tf.data.Dataset.from_tensors({'inputs': [5], 'targets': [6]})
  [example] = task.preprocess_postcache(tokens, None).as_numpy_iterator()
  tasks = hyperprompt_tasks.task_list(SUPER_GLUE)
  assert example['task_ids'].tolist() == [tasks.index(conditioned)]


def test_the_folder_trains_without_dpr_and_says_so_once(folder, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    dataset = seqio.MixtureRegistry.get(SUPER_GLUE).get_dataset(
      LENGTHS, 'train', shuffle=False, seed=0
    )
  said = [r.getMessage() for r in caplog.records if 'runs without' in r.getMessage()]
  assert len(said) == 1
  assert 'hp_dpr_v001_simple' in said[0] and SUPER_GLUE in said[0]
  # ReCoRD and MultiRC are nine tenths of T5's mixture.
  ids = [int(ex['task_ids'][0]) for ex in dataset.take(300).as_numpy_iterator()]
  assert 0.6 < np.mean(np.equal(ids, 4)) < 0.9
  assert 0.05 < np.mean(np.equal(ids, 3)) < 0.3


def test_evaluation_needs_no_data_beyond_the_folder(folder):
  mixture = seqio.MixtureRegistry.get(SUPER_GLUE)
  dataset = mixture.get_dataset(LENGTHS, 'validation', shuffle=False, num_epochs=1)
  assert {int(ex['task_ids'][0]) for ex in dataset.take(1000).as_numpy_iterator()}
  assert set(mixture.splits) == {'train', 'validation'}


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


def test_evaluator_scores_wrong_answers_as_zero():
  wrong, _ = evaluate('hp_builtin_first', lambda target: [3, 1])
  assert wrong == {'hp_builtin_first': {'accuracy': 0.0}}
  assert hyperprompt_tasks.average('hp_builtin_first', wrong) == 0


@pytest.mark.parametrize('name', ['hp_builtin', SUPER_GLUE])
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
