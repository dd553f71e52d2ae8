"""Tasks whose examples are in files."""

import gzip
import io
import json
import re

import pyarrow as pa
import pytest
import seqio
from pyarrow import parquet

import hyperprompt_tasks
from hyperprompt_tasks import errors, layouts, named_metrics, text_files

LENGTHS = {'inputs': 16, 'targets': 8, 'task_ids': 1}


def examples(name, split):
  dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split, shuffle=False)
  return list(dataset.as_numpy_iterator())


ROWS = [('a "b"', 'yes'), ('c, d', 'no'), ('é\n\tf', 'yes')]


def content(kind, rows):
  """The bytes of a file of a kind, with a column that no task uses."""
  values = [{'inputs': i, 'targets': t, 'id': 3} for i, t in rows]
  if kind == 'jsonl':
    return '\n\n'.join(map(json.dumps, values)).encode()
  if kind == 'json':
    return json.dumps(values, indent=1).encode()
  if kind == 'parquet':
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(values), file)
    return file.getvalue()
  if kind == 'arrow':
    file, table = io.BytesIO(), pa.Table.from_pylist(values)
    with pa.ipc.new_stream(file, table.schema) as writer:
      writer.write_table(table)
    return file.getvalue()
  quoted = lambda text: '"' + text.replace('"', '""') + '"' if kind == 'csv' else text
  lines = [('id', 'inputs', 'targets'), *(('3', *row) for row in rows)]
  separator = ',' if kind == 'csv' else '\t'
  text = '\r\n'.join(separator.join(map(quoted, line)) for line in lines)
  return text.encode('utf-8-sig')


def write(folder, kind, rows=ROWS, name='train'):
  path = folder / f'{name}.{kind}'
  data = content(kind.removesuffix('.gz'), rows)
  path.write_bytes(gzip.compress(data) if kind.endswith('.gz') else data)
  return str(path)


def text_of(name, split='train'):
  return [
    (row['inputs_pretokenized'].decode(), row['targets_pretokenized'].decode())
    for row in examples(name, split)
  ]


KINDS = ('jsonl', 'json', 'csv', 'parquet', 'arrow', 'jsonl.gz', 'json.gz', 'csv.gz')


def test_files_of_every_kind_give_the_same_examples(tmp_path):
  files = {
    kind.replace('.', '_'): {'train': write(tmp_path, kind)} for kind in (*KINDS, 'tsv')
  }
  # In TSV a tab or the end of a line cannot be part of a text, and quotes are text.
  table = [('"Heroes" is a show', 'yes'), ('"a" b', 'no'), ('"Unbalanced', 'yes')]
  write(tmp_path, 'tsv', table)
  files['csv']['validation'] = files['jsonl']['validation'] = files['jsonl']['train']
  options = {'rates': {'tsv': 9.0}, 'labels': {'csv': ['no', 'yes']}}
  name = hyperprompt_tasks.from_files('own_files', files, **options)
  for task_id, kind in enumerate(sorted(files)):
    assert text_of(f'own_files.{kind}') == (table if kind == 'tsv' else ROWS)
    (first, *_) = examples(f'own_files.{kind}', 'train')
    assert first['task_ids'].tolist() == [task_id]
  mixture = seqio.MixtureRegistry.get(name)
  rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert rates == {f'own_files.{kind}': 9.0 if kind == 'tsv' else 3 for kind in files}
  assert hyperprompt_tasks.from_files('own_files', files, **options) == name
  task = seqio.TaskRegistry.get('own_files.csv')
  assert [task.postprocess_fn(text) for text in ('no', 'yes', 'No')] == [0, 1, -1]
  assert seqio.TaskRegistry.get('own_files.jsonl').postprocess_fn('No') == 'No'


def test_json_lines_under_the_name_of_json(tmp_path):
  (tmp_path / 'a.json').write_bytes(content('jsonl', ROWS))
  assert read({'train': str(tmp_path / 'a.json')}) == ROWS


def read(paths, split='train', **options):
  """The texts of a task by itself, which is not registered."""
  columns = text_files.TextFileSource(paths, **options).columns(split)
  texts = zip(columns['inputs'].numpy(), columns['targets'].numpy(), strict=True)
  return [(inputs.decode(), targets.decode()) for inputs, targets in texts]


def test_several_files_shards_and_patterns(tmp_path):
  for i, row in enumerate(ROWS):
    write(tmp_path, 'jsonl', [row], f'part{i}')
    path = tmp_path / f'shard.jsonl-0000{i}-of-00003'
    path.write_bytes(content('jsonl', [row]))
    write(tmp_path, 'parquet', [row], f'train-0000{i}-of-00003')
  first, second = str(tmp_path / 'part0.jsonl'), str(tmp_path / 'part1.jsonl')
  assert read({'train': [second, first]}) == [ROWS[1], ROWS[0]]
  for pattern in ('part*.jsonl', 'shard.jsonl-*-of-00003', 'train-*.parquet'):
    assert read({'train': str(tmp_path / pattern)}) == ROWS
  # A name with the signs of a pattern is a file if there is one.
  assert read({'train': write(tmp_path, 'csv', name='odd[1]')}) == ROWS
  with pytest.raises(errors.DataError, match=r'none\*\.csv: no file matches this pattern'):
    read({'train': str(tmp_path / 'none*.csv')})


def test_columns_by_name_and_by_number(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('sentence\tlabel\tlabel_text\nx\t1\tone\n')
  layout = layouts.make('t', {'inputs': 'sentence', 'targets': 'label_text'})
  assert read({'train': str(path)}, layout=layout) == [('x', 'one')]
  # T5's TSV has no line of names.
  layout = layouts.make('t', {'inputs': 0, 'targets': 2})
  texts = [('sentence', 'label_text'), ('x', 'one')]
  assert read({'train': str(path)}, layout=layout) == texts
  with pytest.raises(errors.DataError, match='columns have names; numbers are for'):
    read({'train': write(tmp_path, 'jsonl')}, layout=layout)


def test_templates_make_texts_of_columns(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('premise,hypothesis,score\np,"h, {i}",3.84\n')
  layout = layouts.make(
    't',
    templates={
      'inputs': 'nli {{x}} premise: {premise} hypothesis: {hypothesis}',
      'targets': '{score:.1f}',
    },
  )
  texts = [('nli {x} premise: p hypothesis: h, {i}', '3.8')]
  assert read({'train': str(path)}, layout=layout) == texts
  numbered = layouts.make('t', templates={'inputs': '{1} {0}', 'targets': '{2:>7}'})
  texts = read({'train': str(path)}, layout=numbered)
  assert texts == [('hypothesis premise', '  score'), ('h, {i} p', '   3.84')]


@pytest.mark.parametrize(
  ('columns', 'templates', 'message'),
  [
    ({'input': 'a'}, {}, 'columns of task t: input is neither inputs nor targets'),
    ({'inputs': 'a'}, {'inputs': '{a}'}, 'inputs has a column and a template'),
    ({'inputs': 'a', 'targets': 1}, {}, 'some are names and some numbers'),
    ({}, {'inputs': '{a'}, "template '{a': expected '}' before end of string"),
    ({}, {'inputs': '{}'}, 'expected the name of a column between braces'),
    ({}, {'inputs': '{a!r}'}, 'expected the name of a column between braces'),
    ({}, {'inputs': '{a:{b}}'}, 'expected the name of a column between braces'),
    ({}, {'targets': 3}, "template '3'"),
  ],
)
def test_layouts_that_mean_nothing(columns, templates, message):
  with pytest.raises(errors.TaskError, match=re.escape(message)):
    layouts.make('t', columns, templates)


@pytest.mark.parametrize('value', [1, '1', True, 'good'])
def test_labels_as_numbers_are_their_names(tmp_path, value):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps({'inputs': 'x', 'targets': value}))
  assert read({'train': str(path)}, labels=['bad', 'good']) == [('x', 'good')]


def test_labels_that_are_digits_are_text_first(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"inputs": "x", "targets": 1}\n{"inputs": "x", "targets": "2"}')
  texts = [('x', '1'), ('x', '2')]
  assert read({'train': str(path)}, labels=['1', '2', '3']) == texts


def evaluate(name, answers):
  """The metrics of a task with these predictions, by SeqIO."""
  task = seqio.TaskRegistry.get(name)
  rows = list(
    task.get_dataset(
      None, 'validation', shuffle=False, use_cached=False
    ).as_numpy_iterator()
  )
  values = {}
  for metric in task.metric_fns:
    values |= metric(
      [
        task.postprocess_fn(
          row['targets_pretokenized'].decode(), example=row, is_target=True
        )
        for row in rows
      ],
      [
        task.postprocess_fn(answer, example=row, is_target=False)
        for answer, row in zip(answers, rows, strict=True)
      ],
    )
  return values


def test_numbers_as_targets(tmp_path):
  path = tmp_path / 'a.jsonl'
  values = [3.8, 1, 2.5]
  lines = [json.dumps({'inputs': 's1 s2', 'targets': value}) for value in values]
  path.write_text('\n'.join(lines))
  metrics = {'score': ['pearson', 'spearman_corrcoef', 'mean_absolute_error']}
  name = hyperprompt_tasks.from_files(
    'own_numbers',
    {task: {'validation': str(path)} for task in ('score', 'text')},
    metric_fns=metrics,
  )
  assert text_of('own_numbers.score', 'validation') == [
    ('s1 s2', '3.8'),
    ('s1 s2', '1'),
    ('s1 s2', '2.5'),
  ]
  assert evaluate('own_numbers.score', ['3.8', '1.0', '2.5']) == pytest.approx(
    {'pearson_corrcoef': 100.0, 'spearman_corrcoef': 100.0, 'mean_absolute_error': 0.0}
  )
  # A prediction that is no finite number counts as -1; the error is in the targets' unit.
  results = evaluate('own_numbers.score', ['4.8', 'good', 'inf'])
  assert results['mean_absolute_error'] == pytest.approx((1 + 2 + 3.5) / 3)
  assert evaluate('own_numbers.text', ['3.8', '1.0', '2.5'])['accuracy'] == pytest.approx(
    200 / 3
  )
  # A score ranks checkpoints, so an error counts only if there is no other metric.
  both = {'pearson_corrcoef': 50.0, 'mean_absolute_error': 4.0}
  for results, score in ((both, 50.0), ({'mean_absolute_error': 4.0}, -4.0)):
    scores = hyperprompt_tasks.task_scores(name, {'own_numbers.score': results})
    assert scores == {'score': score}


def test_short_floats_of_parquet_are_the_numbers_that_were_written(tmp_path):
  path = str(tmp_path / 'a.parquet')
  table = {'inputs': ['x', 'y'], 'targets': pa.array([3.8, 0.1], pa.float32())}
  parquet.write_table(pa.table(table), path)
  assert read({'train': path}, numbers=True) == [('x', '3.8'), ('y', '0.1')]


def test_several_references(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text(
    '{"inputs": "s1 s2", "targets": ["a", "b c"]}\n{"inputs": "s3", "targets": "the d"}'
  )
  hyperprompt_tasks.from_files(
    'own_references',
    {'t': {'train': str(path), 'validation': str(path)}},
    metric_fns=['accuracy', 'exact_match', 'f1', 'rouge', 'bleu'],
  )
  # The first reference is learned, and any reference is right.
  assert text_of('own_references.t') == [('s1 s2', 'a'), ('s3', 'the d')]
  results = evaluate('own_references.t', ['b c', 'D.'])
  assert results['accuracy'] == 50.0
  assert results['exact_match'] == results['f1'] == 100.0
  assert results['rouge1'] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_metrics_of_labels_by_name(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('inputs,targets\nx,a\ny,b\nz,c\n')
  hyperprompt_tasks.from_files(
    'own_label_metrics',
    {'t': {'validation': str(path)}},
    labels={'t': ['a', 'b', 'c']},
    metric_fns=['accuracy', 'f1', 'matthews'],
  )
  results = evaluate('own_label_metrics.t', ['a', 'b', 'b'])
  assert results['accuracy'] == pytest.approx(200 / 3)
  assert results['f1'] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)
  assert results['matthews_corrcoef'] == pytest.approx(100 * 3 / 24**0.5)


def no_metric(targets):
  return {}


@pytest.mark.parametrize(
  ('metrics', 'labels', 'message'),
  [
    (['rough'], None, "'rough' is no metric; nearest: rouge,"),
    (['rouge', 'rouge'], None, 'metric_fns of task t: rouge is named twice'),
    (['pearson', 'accuracy'], None, 'accuracy is no metric of numbers; for numbers there'),
    (['rouge'], ['a'], 'rouge is no metric of labels; for labels there are accuracy, f1'),
    (['spearman'], ['a'], r'\(numbers as targets need no labels\)'),
    ([no_metric], None, r'the function no_metric takes \(targets\)'),
    ([3], None, r'expected a function of \(targets, predictions\), or the name of'),
    ('rouge', None, 'metric_fns of task t: expected a list such as'),
  ],
)
def test_metrics_that_do_not_fit(metrics, labels, message):
  with pytest.raises(errors.TaskError, match=message):
    named_metrics.choose('t', metrics, labels)


def test_a_function_beside_a_metric_of_numbers_sees_numbers(tmp_path):
  def squared(targets, predictions):
    return {'mse': sum((t - p) ** 2 for t, p in zip(targets, predictions, strict=True))}

  path = tmp_path / 'a.jsonl'
  path.write_text('{"inputs": "x", "targets": 2}')
  hyperprompt_tasks.from_files(
    'own_beside', {'t': {'validation': str(path)}}, metric_fns=['pearson', squared]
  )
  assert evaluate('own_beside.t', ['5'])['mse'] == 9.0


def test_a_test_split_needs_no_targets(tmp_path):
  path = tmp_path / 'test.jsonl'
  path.write_text('{"inputs": "a"}\n{"inputs": "b", "targets": "c"}\n')
  hyperprompt_tasks.from_files('own_test', {'t': {'test': str(path)}})
  assert text_of('own_test.t', 'test') == [('a', '<unk>'), ('b', 'c')]


def test_a_long_passage(tmp_path):
  long = 'x' * 200_000
  files = {
    kind: {'train': write(tmp_path, kind, [(long, 'y')])} for kind in ('csv', 'jsonl')
  }
  hyperprompt_tasks.from_files('own_long', files)
  for kind in files:
    assert text_of(f'own_long.{kind}') == [(long, 'y')]
    assert len(examples(f'own_long.{kind}', 'train')[0]['inputs']) == LENGTHS['inputs']


@pytest.mark.parametrize(
  ('file', 'content', 'message'),
  [
    (
      'a.jsonl',
      b'{"inputs": "a", "targets": "b"}\n{"inputs": ',
      r'a.jsonl:2: expected one JSON',
    ),
    ('a.jsonl', b'["a"]', r'a.jsonl:1: expected one JSON object; found'),
    ('a.jsonl', b'{"inputs": "a"}', r"a.jsonl:1: expected 'targets'; found 'inputs'"),
    ('a.jsonl', b'{"inputs": "a", "targets": true}', r"'targets' to be text; found true"),
    ('a.jsonl', b'{"inputs": "a", "targets": NaN}', r"'targets' to be text; found NaN"),
    ('a.jsonl', b'{"inputs": "a", "targets": []}', r"'targets' to be text; found a list"),
    ('a.jsonl', b'{"inputs": "a", "targets": ["b", ""]}', r'to be text; found \"\"'),
    (
      'a.json',
      b'[{"inputs": "a", "targets": "b"}, 3]',
      r'a.json: item 2: expected one JSON',
    ),
    ('a.json', b'[{"inputs": "a"', r'a.json: expected an array of objects; Expecting'),
    ('a.jsonl.gz', b'{"inputs"', r'a.jsonl.gz: expected a whole gzip file'),
    ('a.parquet', b'PAR1', r'a.parquet: expected a Parquet file; '),
    ('a.arrow', b'ARROW1', r'a.arrow: expected an Arrow file; '),
    ('a.tsv', b'inputs\ttargets\na\tb\tc', r'a.tsv:2: expected 2 fields, .*; found 3'),
    ('a.csv', b'inputs,targets\na,"b\n\nc"d,e\n"x",y', r'a.csv:2: the quote that opens h'),
    ('a.csv', b'inputs,targets\n"a\nb","c\nd,e\n', r'a.csv:3: the quote that opens here'),
    ('a.csv', b'inputs,targets\ra,b\r"c,d', r'a.csv:3: the quote that opens here'),
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
    ('a.csv', b'inputs,targets\n"a,b', r'a.csv:2: the quote that opens here is not closed'),
    (
      'a.csv',
      b'input,targets\na,b',
      r"a.csv:2: expected 'inputs'; found 'input', 'targets'",
    ),
    ('a.tsv', b'inputs\ttargets\na\t ', r"a.tsv:2: expected 'targets' to be text"),
    ('a.csv', b'inputs,targets,targets\na,b,c', r"a.csv:1: two columns 'targets'"),
    ('a.csv', b'inputs,targets\na,maybe', r"'targets' to be one of yes, no; found 'maybe'"),
    ('a.txt', b'', r'a.txt: expected a file .jsonl, .json, .csv, .tsv'),
    ('a.csv', None, r'a.csv: cannot be read'),
  ],
)
def test_what_files_cannot_hold(tmp_path, file, content, message):
  path = tmp_path / file
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.DataError, match=message) as raised:
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
  assert 'own_names' not in seqio.MixtureRegistry.names()


def test_a_name_too_long_for_a_folder(tmp_path):
  path = write(tmp_path, 'csv')
  with pytest.raises(errors.TaskError, match='is too long for the name of a task'):
    hyperprompt_tasks.from_files('own_long_name', {'t' * 300: {'train': path}})


@pytest.mark.parametrize('rate', [-1.0, float('nan'), float('inf')])
def test_rates_of_files_that_mean_nothing(tmp_path, rate):
  files = {task: {'train': write(tmp_path, 'csv')} for task in ('mood', 'head')}
  with pytest.raises(errors.TaskError, match='mixture own_rates: the rate of mood is'):
    hyperprompt_tasks.from_files('own_rates', files, rates={'mood': rate, 'head': 1.0})
  with pytest.raises(errors.TaskError, match='mixture own_rates: the rate of every task'):
    hyperprompt_tasks.from_files('own_rates', files, rates={'mood': 0.0, 'head': 0.0})
  assert not any(name.startswith('own_rates') for name in seqio.TaskRegistry.names())


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'files': ['a.csv']}, 'its tasks must be a dict'),
    (
      {'files': {'t': 'a.csv'}},
      "files of task t: expected a dict such as {'train': 'FILE'}",
    ),
    ({'files': {'t': {'train': 3}}}, "'3' is no path of a file"),
    ({'files': {'t': {'train': 'a\0.csv'}}}, 'is no path of a file'),
    ({'labels': ['a']}, 'labels of mixture own_w must be a dict by task'),
    ({'labels': {'t': 'yes'}}, 'labels of task t: expected a list of texts'),
    ({'labels': {'t': [0, 1]}}, 'labels of task t: expected a list of texts'),
    ({'labels': {'t': ['yes', 'yes']}}, 'a label stands twice'),
    ({'columns': {'t': {'targets': 'label'}}}, "expected 'label'; found 'id', 'inputs'"),
    ({'templates': {'t': {'targets': '{id:.1q}'}}}, "does not fit the format '.1q'"),
    ({'metric_fns': {'u': ['f1']}}, 'metric_fns of mixture own_w: u is not among'),
  ],
)
def test_arguments_that_do_not_fit(tmp_path, arguments, message):
  files = {'t': {'train': write(tmp_path, 'csv')}}
  with pytest.raises((errors.TaskError, errors.DataError), match=message) as raised:
    hyperprompt_tasks.from_files(**{'name': 'own_w', 'files': files, **arguments})
  assert len(str(raised.value).splitlines()) == 1
  assert not any(name.startswith('own_w') for name in seqio.TaskRegistry.names())
