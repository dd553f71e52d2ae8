"""Importers of many tasks: Super-NaturalInstructions, a column of tasks, paths by task."""

import json
import os

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import errors, file_facts, natural_instructions, text_files


@pytest.fixture(autouse=True)
def _bytes():
  hyperprompt_tasks.use_vocabulary('bytes')


def document(number, instances=5):
  """A task file in the official form, whose answers are one text or several."""
  return {
    'Contributors': ['nobody'],
    'Categories': ['Question Answering'],
    'Definition': [f'Repeat the input {number} times.'],
    'Positive Examples': [
      {'input': word, 'output': word * number, 'explanation': ''} for word in 'xyz'
    ],
    'Instances': [
      {'id': f't-{n}', 'input': f'i{n}', 'output': [f'i{n}' * number, 'other'][: n % 2 + 1]}
      for n in range(instances)
    ],
  }


def write_folder(folder, number_of_tasks=3, **options):
  folder.mkdir(exist_ok=True)
  for n in range(1, number_of_tasks + 1):
    path = folder / f'task{n}_repeat.json'
    path.write_text(json.dumps(document(n, **options)))
  return str(folder)


def texts(name, split):
  rows = seqio.get_mixture_or_task(name).source.columns(split)
  columns = [column.numpy().tolist() for column in (rows['inputs'], rows['targets'])]
  return [(a.decode(), b.decode()) for a, b in zip(*columns, strict=True)]


def rates_of(name):
  mixture = seqio.MixtureRegistry.get(name)
  return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_a_folder_of_natural_instructions_is_a_mixture(tmp_path):
  folder = write_folder(tmp_path / 'tasks')
  name = hyperprompt_tasks.from_natural_instructions('sni_a', folder, num_validation=2)
  assert hyperprompt_tasks.task_list(name) == tuple(f'task{n}_repeat' for n in (1, 2, 3))
  definition = 'Repeat the input 2 times.\n\n'
  task = 'sni_a.task2_repeat'
  assert texts(task, 'validation') == [
    (f'{definition}i0', 'i0i0'),
    (f'{definition}i1', 'i1i1'),
  ]
  assert [inputs[-2:] for inputs, _ in texts(task, 'train')] == ['i2', 'i3', 'i4']
  references = seqio.TaskRegistry.get(task).source.columns('train')['references']
  assert [len(row) for row in references.to_list()] == [1, 2, 1]
  assert set(rates_of(name).values()) == {3.0}


def test_tasks_template_and_rates_are_chosen(tmp_path):
  folder = write_folder(tmp_path / 'tasks')
  listed = tmp_path / 'train_tasks.txt'
  listed.write_text('task3_repeat\ntask1_repeat\n')
  name = hyperprompt_tasks.from_natural_instructions(
    'sni_b',
    folder,
    tasks=str(listed),
    inputs='{examples}Input: {input}',
    num_validation=0,
    rates=hyperprompt_tasks.Proportional(cap=4, temperature=2.0),
  )
  assert rates_of(name) == {'sni_b.task1_repeat': 2.0, 'sni_b.task3_repeat': 2.0}
  (first, *_), (third, *_) = (texts(f'sni_b.task{n}_repeat', 'train') for n in (1, 3))
  shown = 'Input: x\nOutput: xxx\n\nInput: y\nOutput: yyy\n\nInput: i0'
  assert (first[0], third[0]) == (shown.replace('xxx', 'x').replace('yyy', 'y'), shown)
  assert seqio.TaskRegistry.get('sni_b.task1_repeat').splits == ['train']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'Instances': None}, 'expected an object with a list Instances'),
    ({'Instances': []}, 'expected instances; found none'),
    ({'Instances': [3]}, 'instance 1: expected an object; found 3'),
    ({'Instances': [{'output': 'a'}]}, "instance 1: expected 'input'"),
    ({'Instances': [{'input': 'a', 'output': ['']}]}, 'expected instances; found none'),
    ({'Definition': {}}, 'expected Definition to be a text or a list of texts'),
    ({'Positive Examples': [{}]}, 'positive example 1: expected an object with input and'),
  ],
)
def test_a_file_that_is_no_task_is_named(change, message, tmp_path):
  path = tmp_path / 'task1.json'
  path.write_text(json.dumps({**document(1), **change}))
  template = natural_instructions.layouts.Template.parse('{input} {examples}')
  source = natural_instructions.InstructionSource(str(path), template, 1)
  with pytest.raises(errors.DataError) as error:
    source.read()
  assert f'{path}' in str(error.value)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'tasks': 'none*'}, "has no file of a task 'none*'"),
    ({'inputs': '{output}'}, '{output} is none of {definition}, {examples}, {input}'),
    ({'num_validation': -1}, 'num_validation of mixture sni_c must be an integer of 0 or'),
  ],
)
def test_wrong_options_are_told(options, message, tmp_path):
  folder = write_folder(tmp_path / 'tasks', 1)
  with pytest.raises(errors.TaskError) as error:
    hyperprompt_tasks.from_natural_instructions('sni_c', folder, **options)
  assert message in str(error.value)
  with pytest.raises(errors.DataError, match='found none'):
    hyperprompt_tasks.from_natural_instructions('sni_c', str(tmp_path / 'empty'))


def write_table(path, rows):
  path.write_text('\n'.join(json.dumps(row) for row in rows))
  return str(path)


def test_a_column_names_the_tasks_of_a_file(tmp_path):
  rows = [
    {'inputs': f'q{n}', 'targets': f'a{n}', 'task': f'group/{n % 3}'} for n in range(12)
  ]
  path = write_table(tmp_path / 'all.jsonl', rows)
  name = hyperprompt_tasks.from_task_column('flan_a', {'train': path}, num_validation=1)
  assert hyperprompt_tasks.task_list(name) == ('group_0', 'group_1', 'group_2')
  assert texts('flan_a.group_1', 'validation') == [('q1', 'a1')]
  assert texts('flan_a.group_1', 'train') == [('q4', 'a4'), ('q7', 'a7'), ('q10', 'a10')]


def test_columns_templates_and_splits_of_a_table(tmp_path):
  row = lambda n, task: {'question': f'q{n}', 'hint': 'h', 'answer': f'a{n}', 'set': task}
  train = write_table(tmp_path / 'a.jsonl', [row(0, 'x'), row(1, 'y')])
  validation = write_table(tmp_path / 'b.jsonl', [row(2, 'x')])
  hyperprompt_tasks.from_task_column(
    'flan_b',
    {'train': train, 'validation': validation},
    columns={'targets': 'answer', 'task': 'set'},
    templates={'inputs': '{hint}: {question}'},
    metric_fns={'x': ['exact_match']},
  )
  assert texts('flan_b.x', 'validation') == [('h: q2', 'a2')]
  assert seqio.TaskRegistry.get('flan_b.y').splits == ['train']
  functions = {t: seqio.TaskRegistry.get(f'flan_b.{t}').metric_fns for t in 'xy'}
  assert [f.__name__ for f in functions['x']] == ['exact_match']
  assert [f.__name__ for f in functions['y']] == ['accuracy']


def test_two_tasks_of_one_name_are_refused(tmp_path):
  rows = [{'inputs': 'q', 'targets': 'a', 'task': task} for task in ('a/b', 'a-b')]
  path = write_table(tmp_path / 'all.jsonl', rows)
  with pytest.raises(errors.DataError, match="'a/b' and 'a-b' would both be named a_b"):
    hyperprompt_tasks.from_task_column('flan_c', {'train': path})


def test_a_path_with_task_in_it_stands_for_the_tasks_that_there_are(tmp_path):
  for task, splits in {
    'one': ('train', 'dev'),
    'two': ('train',),
    'own': ('train',),
  }.items():
    (tmp_path / task).mkdir()
    for split in splits:
      write_table(tmp_path / task / f'{split}.jsonl', [{'inputs': task, 'targets': split}])
  folder = f'{tmp_path}/{{task}}'
  name = hyperprompt_tasks.from_files(
    'each',
    {
      'a_{task}': {'train': f'{folder}/train.jsonl', 'validation': f'{folder}/dev*.jsonl'},
      'a_own': {'train': f'{tmp_path}/two/train.jsonl'},
    },
  )
  assert hyperprompt_tasks.task_list(name) == ('a_one', 'a_own', 'a_two')
  assert texts('each.a_one', 'validation') == [('one', 'dev')]
  assert texts('each.a_own', 'train') == [('two', 'train')]
  assert list(seqio.TaskRegistry.get('each.a_two').splits) == ['train']
  with pytest.raises(errors.DataError, match='no file matches'):
    hyperprompt_tasks.from_files('none', {'{task}': {'train': f'{folder}/no.jsonl'}})
  with pytest.raises(errors.TaskError, match='expected a path that holds'):
    hyperprompt_tasks.from_files('none', {'{task}': {'train': f'{tmp_path}/a.jsonl'}})


def test_files_that_have_not_changed_are_not_read_again(tmp_path, monkeypatch):
  monkeypatch.setenv('HYPERPROMPT_DATA_CACHE', str(tmp_path / 'cache'))
  path = tmp_path / 'a.jsonl'
  path.write_text('1')
  reads = []

  def learn(reading='plain'):
    facts = text_files.Facts({'train': 7}, {'train': 'd'}, several=True)
    known = file_facts.FileFacts('mixture', [str(path)])
    read = lambda: reads.append(reading) or {'task': facts}
    assert known.facts('part', [str(path)], reading, read) == {'task': facts}
    known.keep()

  learn()
  learn()
  assert reads == ['plain']
  learn('otherwise')
  os.utime(path, (1, 1))
  learn('otherwise')
  assert reads == ['plain', 'otherwise', 'otherwise']
  (kept,) = (tmp_path / 'cache' / 'tasks').iterdir()
  kept.write_text('{"part": ')
  learn('otherwise')
  assert len(reads) == 4
