"""Task-conditioning of SeqIO tasks that another module registered."""

import functools
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_tasks import errors, task_lists

LENGTHS = {'inputs': 16, 'targets': 8, 'task_ids': 1}
BYTES = seqio.ByteVocabulary()
SMALL_VOCABULARY = str(
  pathlib.Path(seqio.__file__).parent / 'test_data/sentencepiece/sentencepiece.model'
)


def agreement(targets, predictions):
  return {
    'agreement': float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))
  }


def shout(text, is_target=False, **_):
  return text.upper()


def theirs(name, splits=('train', 'validation'), **more):
  """A task as another project registers it: another vocabulary, no task ids."""
  rows = [{'inputs': f'{name} {i}', 'targets': f'{i % 2}'} for i in range(4)]

  def dataset(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(
      {key: [row[key] for row in rows] for key in rows[0]}
    )

  feature = seqio.Feature(BYTES, add_eos=True)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset, splits=splits),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos,
    ],
    **{
      'output_features': {'inputs': feature, 'targets': feature},
      'postprocess_fn': shout,
      'metric_fns': [agreement],
      **more,
    },
  )
  return name


@functools.cache
def two():
  """A mixture of two tasks of another module."""
  hyperprompt_tasks.use_vocabulary('bytes')
  tasks = {theirs('own_theirs_a'): 1.0, theirs('own_theirs_b'): 3.0}
  return hyperprompt_tasks.condition('own_two', tasks)


def examples(name, split='validation'):
  dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split, shuffle=False)
  return list(dataset.as_numpy_iterator())


def test_copies_are_the_tasks_with_ids_of_a_list():
  assert two() == 'own_two'
  assert hyperprompt_tasks.task_list('own_two') == ('own_theirs_a', 'own_theirs_b')
  for task_id, task in enumerate(('own_theirs_a', 'own_theirs_b')):
    result = examples(f'own_two.{task}')
    original = list(
      seqio.get_mixture_or_task(task)
      .get_dataset({'inputs': 16, 'targets': 8}, 'validation', shuffle=False)
      .as_numpy_iterator()
    )
    assert len(result) == len(original) == 4
    for got, want in zip(result, original, strict=True):
      assert got['task_ids'].tolist() == [task_id]
      for name in ('inputs', 'targets', 'inputs_pretokenized'):
        np.testing.assert_array_equal(got[name], want[name])
  mixture = seqio.MixtureRegistry.get('own_two')
  assert [mixture.get_rate(task) for task in mixture.tasks] == [1.0, 3.0]
  # Each task has a mixture of its own, for training task by task.
  assert set(hyperprompt_tasks.single_task_mixtures('own_two')) == {
    'own_theirs_a',
    'own_theirs_b',
  }


def test_the_originals_stay_as_they_are():
  two()
  task = seqio.TaskRegistry.get('own_theirs_a')
  assert set(task.output_features) == {'inputs', 'targets'}
  assert task.output_features['inputs'].vocabulary is BYTES
  assert 'own_theirs_a' not in task_lists._declared


def test_metrics_come_along_and_make_the_score():
  two()
  copy = seqio.TaskRegistry.get('own_two.own_theirs_a')
  assert copy.metric_fns == [agreement] and copy.postprocess_fn('x') == 'X'
  assert copy.cache_dir is None and copy.supports_caching
  metrics = {
    'own_two.own_theirs_a': {'agreement': 1.0, 'other': 0.5},
    'own_two.own_theirs_b': {'agreement': 0.25},
  }
  assert hyperprompt_tasks.task_scores('own_two', metrics) == {
    'own_theirs_a': 0.75,
    'own_theirs_b': 0.25,
  }
  assert hyperprompt_tasks.average('own_two', metrics) == 0.5
  assert hyperprompt_tasks.task_scores('own_two', {'own_two.own_theirs_a': {}}) == {}


def test_list_scores_and_what_is_shared_can_be_said():
  name = hyperprompt_tasks.condition(
    'own_said',
    {
      theirs('own_c_train', splits=('train',), metric_fns=[]): 2,
      theirs('own_c_eval', splits=('validation',)): 0,
      theirs('own_d'): 1,
    },
    task_list=['d', 'c'],
    conditioned_as={'own_c_train': 'c', 'own_c_eval': 'c', 'own_d': 'd'},
    scores={'own_c_eval': ['agreement']},
  )
  assert hyperprompt_tasks.task_list(name) == ('d', 'c')
  assert examples('own_said.own_c_eval')[0]['task_ids'].tolist() == [1]
  assert hyperprompt_tasks.groups(name) == {
    'c': (('own_said.own_c_eval', 'agreement'),),
    'd': (('own_said.own_d', '*'),),
  }


def test_the_same_call_again_registers_nothing():
  two()
  tasks = {'own_theirs_a': 1.0, 'own_theirs_b': 3.0}
  assert hyperprompt_tasks.condition('own_two', tasks) == 'own_two'
  with pytest.raises(errors.TaskError, match='own_two is made already, of other tasks'):
    hyperprompt_tasks.condition('own_two', {'own_theirs_a': 1.0})


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    ({'tasks': {'own_their_a': 1}}, 'no registered SeqIO task; nearest: own_theirs_a,'),
    ({'name': 'hp_builtin'}, 'hp_builtin is registered already'),
    ({'task_list': ['own_theirs_b']}, 'task_list of mixture own_x lacks own_theirs_a'),
    ({'task_list': ['own_theirs_a'] * 2}, 'names a task twice'),
    ({'conditioned_as': {'b': 'c'}}, 'conditioned_as of mixture own_x: b is not among'),
    ({'scores': {'b': ['c']}}, 'scores of mixture own_x: b is not among its tasks'),
  ],
)
def test_what_cannot_be_conditioned(more, message):
  two()
  with pytest.raises((errors.TaskError, errors.UnknownNameError), match=message):
    hyperprompt_tasks.condition(**{'name': 'own_x', 'tasks': {'own_theirs_a': 1}, **more})
  assert 'own_x' not in seqio.MixtureRegistry.names()
  assert not any(name.startswith('own_x') for name in seqio.TaskRegistry.names())


def score(targets, scores):
  return {'score': 0.0}


def test_tasks_of_another_kind_are_refused():
  theirs('own_scored', metric_fns=[score])
  only = {'targets': seqio.Feature(BYTES)}
  theirs('own_language', output_features=only)
  for name, message in (
    ('own_scored', 'own_scored has metrics of scores'),
    ('own_language', 'own_language has the features targets; a task to be conditioned'),
  ):
    with pytest.raises(errors.TaskError, match=message):
      hyperprompt_tasks.condition('own_y', {name: 1})


@pytest.mark.parametrize('name', ['../own', 'own/../../x', '..', '/own', 'own a', ''])
def test_no_conditioned_task_leads_out_of_a_folder(name):
  """Where tasks are trained one by one, each has a folder of its name."""
  two()
  with pytest.raises(errors.TaskError, match='is no name of a task'):
    hyperprompt_tasks.condition(
      'own_names', {'own_theirs_a': 1.0}, conditioned_as={'own_theirs_a': name}
    )
  assert 'own_names' not in seqio.MixtureRegistry.names()


def test_a_mixture_of_nothing():
  with pytest.raises(errors.TaskError, match='mixture own_none has no tasks'):
    hyperprompt_tasks.condition('own_none', {})


def rates_of(name):
  mixture = seqio.MixtureRegistry.get(name)
  return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_a_mixture_inside_a_mixture_shares_its_rate():
  two()
  seqio.MixtureRegistry.add('own_inner', [('own_theirs_a', 1.0), ('own_theirs_b', 3.0)])
  tasks = {'own_inner': 2.0, theirs('own_outer'): 6.0}
  hyperprompt_tasks.condition('own_nested', tasks)
  assert rates_of('own_nested') == {
    'own_nested.own_theirs_a': 0.5,
    'own_nested.own_theirs_b': 1.5,
    'own_nested.own_outer': 6.0,
  }
  assert hyperprompt_tasks.task_list('own_nested') == (
    'own_outer',
    'own_theirs_a',
    'own_theirs_b',
  )


def test_conditioned_tasks_can_be_members_with_others():
  two()
  name = hyperprompt_tasks.condition(
    'own_again', {'hp_wsc_dpr_simple_proportional': 4.0, 'own_two': 4.0}
  )
  # WSC's three SeqIO tasks keep their one conditioned task and the metric of its score.
  assert hyperprompt_tasks.task_list(name) == ('own_theirs_a', 'own_theirs_b', 'wsc')
  assert hyperprompt_tasks.groups(name)['wsc'] == (
    ('own_again.hp_super_glue_wsc_v102_simple_eval', 'accuracy'),
  )
  rates = rates_of(name)
  assert rates['own_again.own_two.own_theirs_b'] == 3.0
  assert rates['own_again.hp_super_glue_wsc_v102_simple_eval'] == 0.0
  for example in examples('own_again.own_two.own_theirs_b'):
    assert example['task_ids'].tolist() == [1]
  # A conditioned task of two SeqIO tasks gets a mixture; one of a single task is the task.
  assert hyperprompt_tasks.single_task_mixtures(name) == {
    'own_theirs_a': 'own_again.own_two.own_theirs_a',
    'own_theirs_b': 'own_again.own_two.own_theirs_b',
    'wsc': 'own_again.wsc',
  }
  assert set(rates_of('own_again.wsc')) == {
    'own_again.hp_dpr_v001_simple',
    'own_again.hp_super_glue_wsc_v102_simple_eval',
    'own_again.hp_super_glue_wsc_v102_simple_train',
  }


def test_equal_names_of_two_lists_are_not_taken_for_one_task():
  tasks = {'hp_glue_rte_v002': 1.0, 'hp_super_glue_rte_v102': 1.0}
  with pytest.raises(errors.TaskError, match='both belong to a conditioned task rte, in'):
    hyperprompt_tasks.condition('own_rte', tasks)
  name = hyperprompt_tasks.condition(
    'own_rte', tasks, conditioned_as={'hp_glue_rte_v002': 'glue_rte'}
  )
  assert hyperprompt_tasks.task_list(name) == ('glue_rte', 'rte')


@pytest.mark.parametrize(
  ('rate', 'shown'),
  [
    (-1.0, '-1.0'),
    (float('nan'), 'nan'),
    (float('inf'), 'inf'),
    ('1', '1'),
    (True, 'True'),
  ],
)
def test_rates_that_mean_nothing_are_refused_on_every_path(rate, shown):
  two()
  expected = f'the rate of .* is {shown}; expected a finite number of 0 or more'
  for register in (
    lambda: hyperprompt_tasks.condition('own_rated', {'own_theirs_a': rate}),
    lambda: hyperprompt_tasks.add_mixture('own_rated', {'hp_builtin_copy': rate}),
  ):
    with pytest.raises(errors.TaskError, match=expected):
      register()
    assert 'own_rated' not in seqio.MixtureRegistry.names()
    assert 'own_rated.own_theirs_a' not in seqio.TaskRegistry.names()
  seqio.MixtureRegistry.add('own_rated_by_seqio', [('hp_builtin_copy', rate)])
  try:
    with pytest.raises(errors.TaskError, match=expected):
      hyperprompt_tasks.task_list('own_rated_by_seqio')
  finally:
    seqio.MixtureRegistry.remove('own_rated_by_seqio')


def test_rates_that_are_all_zero_are_refused_where_there_is_something_to_train_on():
  two()
  expected = 'the rate of every task is 0, so there is nothing to train on'
  with pytest.raises(errors.TaskError, match=expected):
    hyperprompt_tasks.condition('own_zero', {'own_theirs_a': 0, 'own_theirs_b': 0.0})
  with pytest.raises(errors.TaskError, match=expected):
    hyperprompt_tasks.add_mixture('own_zero', {'hp_builtin_copy': 0})
  assert 'own_zero' not in seqio.MixtureRegistry.names()
  assert 'own_zero.own_theirs_a' not in seqio.TaskRegistry.names()
  evaluated = theirs('own_only_evaluated', splits=('validation',))
  assert hyperprompt_tasks.condition('own_zero', {evaluated: 0}) == 'own_zero'


def test_rates_that_cannot_be_computed():
  def rate(task):
    raise ValueError(f'no cache of {task.name}\nand more')

  two()
  seqio.MixtureRegistry.add('own_uncomputed', [('own_theirs_a', rate)])
  with pytest.raises(errors.TaskError, match='own_uncomputed: its rates cannot be comp'):
    hyperprompt_tasks.condition('own_of_uncomputed', {'own_uncomputed': 1.0})


def test_labels_that_the_vocabulary_cannot_write():
  labels = functools.partial(class_of, label_classes=['0', '1'])
  name = theirs('own_labelled', postprocess_fn=labels)
  hyperprompt_tasks.condition('own_of_labelled', {name: 1.0})
  assert hyperprompt_tasks.labels('own_of_labelled.own_labelled') == ('0', '1')
  assert len(examples('own_of_labelled.own_labelled')) == 4
  hyperprompt_tasks.use_vocabulary(SMALL_VOCABULARY)  # knows no digits
  with pytest.raises(errors.VocabularyError, match="cannot write the label '0', which bec"):
    examples('own_of_labelled.own_labelled')


def class_of(text, label_classes, **_):
  return label_classes.index(text) if text in label_classes else -1
