"""Somebody else's SeqIO tasks, conditioned; and tasks from files of text."""

import functools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_tasks import errors, task_lists

LENGTHS = {'inputs': 16, 'targets': 8, 'task_ids': 1}
BYTES = seqio.ByteVocabulary()


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
    found = examples(f'own_two.{task}')
    original = list(
      seqio.get_mixture_or_task(task)
      .get_dataset({'inputs': 16, 'targets': 8}, 'validation', shuffle=False)
      .as_numpy_iterator()
    )
    assert len(found) == len(original) == 4
    for got, want in zip(found, original, strict=True):
      assert got['task_ids'].tolist() == [task_id]
      for name in ('inputs', 'targets', 'inputs_pretokenized'):
        np.testing.assert_array_equal(got[name], want[name])
  mixture = seqio.MixtureRegistry.get('own_two')
  assert [mixture.get_rate(task) for task in mixture.tasks] == [1.0, 3.0]
  # A part for each, for training task by task.
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
  ('more', 'said'),
  [
    ({'tasks': {'own_their_a': 1}}, 'no registered SeqIO task; nearest: own_theirs_a,'),
    ({'name': 'hp_builtin'}, 'hp_builtin is registered already'),
    ({'tasks': {'hp_builtin_copy': 1}}, 'hp_builtin_copy is conditioned already'),
    ({'task_list': ['own_theirs_b']}, 'task_list of mixture own_x lacks own_theirs_a'),
    ({'task_list': ['own_theirs_a'] * 2}, 'names a task twice'),
    ({'conditioned_as': {'b': 'c'}}, 'conditioned_as of mixture own_x: b is not among'),
    ({'scores': {'b': ['c']}}, 'scores of mixture own_x: b is not among its tasks'),
  ],
)
def test_what_cannot_be_conditioned(more, said):
  two()
  with pytest.raises((errors.TaskError, errors.UnknownNameError), match=said):
    hyperprompt_tasks.condition(**{'name': 'own_x', 'tasks': {'own_theirs_a': 1}, **more})
  assert 'own_x' not in seqio.MixtureRegistry.names()
  assert not any(name.startswith('own_x') for name in seqio.TaskRegistry.names())


def score(targets, scores):
  return {'score': 0.0}


def test_tasks_of_another_kind_are_refused():
  theirs('own_scored', metric_fns=[score])
  only = {'targets': seqio.Feature(BYTES)}
  theirs('own_language', output_features=only)
  for name, said in (
    ('own_scored', 'own_scored has metrics of scores'),
    ('own_language', 'own_language has the features targets; a task to be conditioned'),
  ):
    with pytest.raises(errors.TaskError, match=said):
      hyperprompt_tasks.condition('own_y', {name: 1})


# ---- Files ----

ROWS = [('a "b"', 'yes'), ('c, d', 'no'), ('é\n\tf', 'yes')]


def write(folder, kind, rows=ROWS, name='train'):
  path = folder / f'{name}.{kind}'
  if kind == 'jsonl':
    lines = [json.dumps({'inputs': i, 'targets': t, 'id': 3}) for i, t in rows]
    path.write_text('\n\n'.join(lines), encoding='utf-8')
    return str(path)
  quoted = lambda text: '"' + text.replace('"', '""') + '"'
  separator = ',' if kind == 'csv' else '\t'
  lines = [('id', 'inputs', 'targets'), *(('3', *row) for row in rows)]
  path.write_text(
    '\r\n'.join(separator.join(map(quoted, line)) for line in lines), encoding='utf-8-sig'
  )
  return str(path)


def text_of(name, split='train'):
  return [
    (row['inputs_pretokenized'].decode(), row['targets_pretokenized'].decode())
    for row in examples(name, split)
  ]


def test_files_of_every_kind_give_the_same_examples(tmp_path):
  hyperprompt_tasks.use_vocabulary('bytes')
  files = {kind: {'train': write(tmp_path, kind)} for kind in ('jsonl', 'csv', 'tsv')}
  files['csv']['validation'] = files['jsonl']['validation'] = files['jsonl']['train']
  name = hyperprompt_tasks.from_files(
    'own_files', files, rates={'tsv': 9.0}, labels={'csv': ['no', 'yes']}
  )
  for task_id, kind in enumerate(sorted(files)):
    assert text_of(f'own_files.{kind}') == ROWS
    (first, *_) = examples(f'own_files.{kind}', 'train')
    assert first['task_ids'].tolist() == [task_id]
  mixture = seqio.MixtureRegistry.get(name)
  assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
    'own_files.jsonl': 3,
    'own_files.csv': 3,
    'own_files.tsv': 9.0,
  }
  assert hyperprompt_tasks.from_files(
    'own_files', files, rates={'tsv': 9.0}, labels={'csv': ['no', 'yes']}
  )
  task = seqio.TaskRegistry.get('own_files.csv')
  assert [task.postprocess_fn(text) for text in ('no', 'yes', 'No')] == [0, 1, -1]
  assert seqio.TaskRegistry.get('own_files.jsonl').postprocess_fn('No') == 'No'


def test_a_test_split_needs_no_targets(tmp_path):
  path = tmp_path / 'test.jsonl'
  path.write_text('{"inputs": "a"}\n{"inputs": "b", "targets": "c"}\n')
  hyperprompt_tasks.use_vocabulary('bytes')
  hyperprompt_tasks.from_files('own_test', {'t': {'test': str(path)}})
  assert text_of('own_test.t', 'test') == [('a', '<unk>'), ('b', 'c')]


def test_a_long_passage(tmp_path):
  hyperprompt_tasks.use_vocabulary('bytes')
  long = 'x' * 200_000
  files = {
    kind: {'train': write(tmp_path, kind, [(long, 'y')])} for kind in ('csv', 'jsonl')
  }
  hyperprompt_tasks.from_files('own_long', files)
  for kind in files:
    assert text_of(f'own_long.{kind}') == [(long, 'y')]
    assert len(examples(f'own_long.{kind}', 'train')[0]['inputs']) == LENGTHS['inputs']


@pytest.mark.parametrize(
  ('file', 'content', 'said'),
  [
    (
      'a.jsonl',
      b'{"inputs": "a", "targets": "b"}\n{"inputs": ',
      r'a.jsonl:2: expected one JSON',
    ),
    ('a.jsonl', b'["a"]', r'a.jsonl:1: expected one JSON object; found'),
    ('a.jsonl', b'{"inputs": "a"}', r"a.jsonl:1: expected 'targets'; found 'inputs'"),
    ('a.jsonl', b'{"inputs": "a", "targets": 3}', r"'targets' to be text; found 3"),
    ('a.jsonl', b'{"inputs": "", "targets": "b"}', r"'inputs' to be text; found \"\""),
    (
      'a.jsonl',
      b'{"inputs": "\\ud800", "targets": "b"}',
      r'a.jsonl:1: expected valid Unicode',
    ),
    ('a.jsonl', b'[' * 100_000, r'a.jsonl:1: expected one JSON object'),
    (
      'a.jsonl',
      b'{"inputs": ' + b'9' * 5_000 + b'}',
      r'a.jsonl:1: .*; a number has too many digits',
    ),
    ('a.jsonl', b'{"\x1b[2J": 1}', r'a.jsonl:1: .*; Invalid control character'),
    ('a.jsonl', b'{"inputs": [[]]}', r"a.jsonl:1: expected 'inputs' to be text; found a l"),
    ('a.jsonl', b'"\xe2\x80\xa8"', r'expected one JSON object; found'),
    ('a.jsonl', b'{"inputs": "a", "targets": "b"}\n\xff', r'a.jsonl:2: expected UTF-8'),
    ('a.jsonl', b'\n', r'a.jsonl: expected examples; found none'),
    ('a.csv', b'inputs,targets\na', r'a.csv:2: expected 2 fields'),
    ('a.csv', b'inputs,targets\na,b,c', r'a.csv:2: expected 2 fields'),
    ('a.csv', b'inputs,targets\n"a,b', r'a.csv:2: unexpected end of data'),
    (
      'a.csv',
      b'input,targets\na,b',
      r"a.csv:2: expected 'inputs'; found 'input', 'targets'",
    ),
    ('a.tsv', b'inputs\ttargets\na\t ', r"a.tsv:2: expected 'targets' to be text"),
    ('a.csv', b'inputs,targets,targets\na,b,c', r"a.csv:1: two columns 'targets'"),
    ('a.csv', b'inputs,targets\na,maybe', r"'targets' to be one of yes, no; found 'maybe'"),
    ('a.txt', b'', r'a.txt: expected a file .jsonl, .csv or .tsv'),
    ('a.csv', None, r'a.csv: cannot be read'),
  ],
)
def test_what_files_cannot_hold(tmp_path, file, content, said):
  path = tmp_path / file
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.DataError, match=said) as raised:
    hyperprompt_tasks.from_files(
      'own_bad',
      {'t': {'train': str(path)}},
      labels={'t': ['yes', 'no']} if b'maybe' in (content or b'') else None,
    )
  assert len(str(raised.value).splitlines()) == 1 and str(raised.value).isprintable()
  assert not any(name.startswith('own_bad') for name in seqio.TaskRegistry.names())


def test_splits_and_arguments_of_files(tmp_path):
  path = write(tmp_path, 'csv')
  with pytest.raises(errors.DataError, match='dev is no split'):
    hyperprompt_tasks.from_files('own_z', {'t': {'dev': path}})
  with pytest.raises(errors.TaskError, match='labels of mixture own_z: u is not among'):
    hyperprompt_tasks.from_files('own_z', {'t': {'train': path}}, labels={'u': ['a']})


@pytest.mark.parametrize('name', ['../own', 'own/../../x', '..', '/own', 'own a', ''])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
  """Where tasks are trained one by one, each has a folder of its name."""
  path = write(tmp_path, 'csv')
  with pytest.raises(errors.TaskError, match='is no name of a task'):
    hyperprompt_tasks.from_files('own_names', {name: {'train': path}})
  if name not in ('..',):
    with pytest.raises(errors.TaskError, match='is no name of a task'):
      hyperprompt_tasks.from_files(name, {'t': {'train': path}})
  two()
  with pytest.raises(errors.TaskError, match='is no name of a task'):
    hyperprompt_tasks.condition(
      'own_names', {'own_theirs_a': 1.0}, conditioned_as={'own_theirs_a': name}
    )
  assert 'own_names' not in seqio.MixtureRegistry.names()


def test_a_mixture_of_nothing():
  with pytest.raises(errors.TaskError, match='mixture own_none has no tasks'):
    hyperprompt_tasks.condition('own_none', {})
