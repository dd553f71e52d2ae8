"""The official JSONL files give the rows that TFDS gives."""

import copy
import json

import gin
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import hyperprompt_tasks
from hyperprompt_tasks import sources, super_glue_files

# What TFDS makes of the rows in conftest.py, written by hand.
MULTIRC = {'paragraph': b'Ida baked.'}
RECORD = {
  'passage': 'Éva Holm won.\n@highlight\nÉva Holm beat Rossi'.encode(),
  'entities': [b'Rossi', 'Éva Holm'.encode()],
}
TFDS_ROWS = {
  'boolq': [
    {'question': b'is it on', 'passage': b'Kettle -- It is on.', 'idx': 4, 'label': 1},
    {'question': 'is it é'.encode(), 'passage': b'E -- No.', 'idx': 9, 'label': 0},
  ],
  'cb': [
    {'premise': b'P. ', 'hypothesis': b'H', 'label': 2, 'idx': 3},
    {'premise': b'Q', 'hypothesis': b'I', 'label': 1, 'idx': 1},
  ],
  'copa': [
    {
      'premise': b'The pond froze.',
      'choice1': b'A.',
      'choice2': b'B.',
      'question': b'effect',
      'label': 1,
      'idx': 7,
    }
  ],
  'multirc': [
    {
      **MULTIRC,
      'question': b'Who baked?',
      'answer': b'Ida',
      'label': 1,
      'idx': {'paragraph': 2, 'question': 11, 'answer': 40},
    },
    {
      **MULTIRC,
      'question': b'Who baked?',
      'answer': b'Rolf',
      'label': 0,
      'idx': {'paragraph': 2, 'question': 11, 'answer': 41},
    },
    {
      **MULTIRC,
      'question': b'Why?',
      'answer': b'Who knows',
      'label': 0,
      'idx': {'paragraph': 2, 'question': 12, 'answer': 42},
    },
  ],
  'record': [
    {
      **RECORD,
      'query': b'@placeholder thanked the crowd.',
      'answers': [b'Holm', 'Éva Holm'.encode()],
      'idx': {'passage': 5, 'query': 8},
    },
    {
      **RECORD,
      'query': b'@placeholder lost.',
      'answers': [b'Rossi'],
      'idx': {'passage': 5, 'query': 9},
    },
  ],
  'rte': [{'premise': b'P', 'hypothesis': b'H', 'label': 1, 'idx': 0}],
  'wic': [
    {
      'word': b'pitch',
      'sentence1': b'A wet pitch.',
      'sentence2': b'A pitch.',
      'start1': 6,
      'end1': 11,
      'start2': 2,
      'end2': 7,
      'label': 0,
      'idx': 6,
    }
  ],
  'wsc.fixed': [
    {
      'text': b'Then the lake froze because it was cold.',
      'span1_text': b'the lake',
      'span1_index': 1,
      'span2_text': b'it',
      'span2_index': 5,
      'label': 1,
      'idx': 1,
    },
    {
      'text': b'Vera lent Paul a rake because he asked .',
      'span1_text': b'Vera',
      'span1_index': 0,
      'span2_text': b'he',
      'span2_index': 6,
      'label': 0,
      'idx': 2,
    },
  ],
}


def plain(value):
  if isinstance(value, dict):
    return {key: plain(v) for key, v in value.items()}
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize('config', TFDS_ROWS)
def test_official_rows_become_rows_of_tfds(folder, config):
  dataset = sources.SuperGlueSource(config).get_dataset('train', shuffle=False)
  assert [plain(row) for row in dataset.as_numpy_iterator()] == TFDS_ROWS[config]


@pytest.mark.parametrize('config', super_glue_files.FORMATS)
def test_features_have_the_types_and_shapes_of_tfds(
  folder, write, official, tmp_path, config
):
  layout = super_glue_files.FORMATS[config]
  split = 'train' if 'train' in layout.files else 'test'
  if split == 'test':
    row = {'label': 'entailment', 'idx': 0, **dict.fromkeys(layout.texts, 'text')}
    write(folder / layout.folder / layout.files['test'], [row])
  dataset = sources.SuperGlueSource(config, (split,)).get_dataset(split)
  builder = tfds.builder(f'super_glue/{config}:1.0.2', data_dir=str(tmp_path / 'tfds'))
  assert dataset.element_spec == builder.info.features.get_tensor_spec()
  if layout.classes:
    assert tuple(builder.info.features['label'].names) == layout.classes


def test_a_test_split_may_lack_labels_and_answers(folder, write, official):
  unlabelled = {key: v for key, v in official['BoolQ'][0].items() if key != 'label'}
  write(folder / 'BoolQ' / 'test.jsonl', [unlabelled])
  for query in official['ReCoRD'][0]['qas']:
    del query['answers']
  write(folder / 'ReCoRD' / 'test.jsonl', official['ReCoRD'])
  del official['MultiRC'][0]['passage']['questions'][0]['answers'][0]['label']
  write(folder / 'MultiRC' / 'test.jsonl', official['MultiRC'])

  def rows(config):
    dataset = sources.SuperGlueSource(config).get_dataset('test', shuffle=False)
    return list(dataset.as_numpy_iterator())

  assert [row['label'] for row in rows('boolq')] == [-1]
  assert [row['answers'].tolist() for row in rows('record')] == [[], []]
  assert [row['label'] for row in rows('multirc')] == [-1, 0, 0]


@pytest.mark.parametrize(
  ('file', 'edit', 'expected'),
  [
    ('BoolQ', lambda row: row.pop('passage'), "expected field 'passage' (a string)"),
    ('BoolQ', lambda row: row.update(question=3), "'question' to be a string; found 3"),
    ('BoolQ', lambda row: row.update(idx=True), "'idx' to be a whole number"),
    ('BoolQ', lambda row: row.update(idx=2**31), "'idx' to be a whole number of 32 bits"),
    ('BoolQ', lambda row: row.pop('label'), "field 'label'"),
    ('BoolQ', lambda row: row.update(label=2), 'true or false, 1 or 0; found 2'),
    ('BoolQ', lambda row: row.update(label='True'), 'true or false, 1 or 0'),
    ('CB', lambda row: row.update(label='maybe'), "contradiction, neutral; found 'ma"),
    ('CB', lambda row: row.update(label=1), 'one of entailment, contradiction'),
    ('CB', lambda row: row.update(premise='\ud800'), "valid Unicode in 'premise'"),
    ('WSC', lambda row: row.pop('target'), "field 'target' (an object)"),
    ('WSC', lambda row: row['target'].pop('span2_index'), "field 'span2_index'"),
    (
      'WSC',
      lambda row: row['target'].update(span1_text='no', span1_index=99),
      'span index below',
    ),
    ('MultiRC', lambda row: row.update(passage=[]), "'passage' to be an object"),
    (
      'MultiRC',
      lambda row: row['passage']['questions'][1].pop('answers'),
      "field 'answers' (a list of objects)",
    ),
    (
      'MultiRC',
      lambda row: row['passage']['questions'][1]['answers'][0].pop('label'),
      "field 'label'",
    ),
    (
      'ReCoRD',
      lambda row: row['passage'].update(entities=['Eva']),
      "'entities' to be a list of objects",
    ),
    ('ReCoRD', lambda row: row['qas'][0].pop('answers'), "field 'answers'"),
  ],
)
def test_a_wrong_line_is_named_with_its_file_and_number(
  folder, write, official, file, edit, expected
):
  rows = official[file]
  last = copy.deepcopy(rows[0])
  edit(last)
  path = folder / file / 'train.jsonl'
  path.write_text('\n'.join(json.dumps(row) for row in [*rows, last]), encoding='utf-8')
  [config] = [c for c, f in super_glue_files.FORMATS.items() if f.folder == file]
  with pytest.raises(hyperprompt_tasks.DataError) as error:
    sources.SuperGlueSource(config).get_dataset('train')
  message = str(error.value)
  assert message.startswith(f'{path}:{len(rows) + 1}: expected ')
  assert expected in message
  assert '\n' not in message


@pytest.mark.parametrize(
  'line',
  [
    b'{"idx": 1',
    b'[1, 2]',
    b'\xff\xfe{}',
    b'{"idx": 1} {"idx": 2}',
    b'[' * 100_000,
    b'{"idx": ' + b'9' * 5_000 + b'}',
  ],
)
def test_a_line_that_is_no_json_object_is_named(folder, line):
  path = folder / 'RTE' / 'train.jsonl'
  path.write_bytes(path.read_bytes() + b'\n' + line + b'\n')
  with pytest.raises(hyperprompt_tasks.DataError) as error:
    sources.SuperGlueSource('rte').get_dataset('train')
  # The blank line counts as a line, but is no row.
  assert str(error.value).startswith(f'{path}:3: expected one JSON object')
  assert '\n' not in str(error.value)


def test_an_empty_file_is_refused(folder):
  (folder / 'RTE' / 'train.jsonl').write_text('\n')
  with pytest.raises(hyperprompt_tasks.DataError, match=r'RTE/train.jsonl: .*no rows'):
    sources.SuperGlueSource('rte').get_dataset('train')


def test_a_folder_in_the_place_of_a_file(folder):
  (folder / 'RTE' / 'train.jsonl').unlink()
  (folder / 'RTE' / 'train.jsonl').mkdir()
  with pytest.raises(hyperprompt_tasks.DataError, match=r'RTE/train.jsonl: cannot be read'):
    sources.SuperGlueSource('rte').get_dataset('train')


@pytest.mark.parametrize(
  ('file', 'key', 'empty'),
  [
    ('MultiRC', 'questions', lambda row: row['passage'].update(questions=[])),
    ('MultiRC', 'answers', lambda row: row['passage']['questions'][1].update(answers=[])),
    ('ReCoRD', 'qas', lambda row: row.update(qas=[])),
  ],
)
def test_what_makes_no_rows_is_said(folder, write, official, caplog, file, key, empty):
  row = copy.deepcopy(official[file][0])
  empty(row)
  path = folder / file / 'train.jsonl'
  write(path, [official[file][0], row])
  super_glue_files.FORMATS[file.lower()].read(str(path), 'train')
  assert f'{path}:2: left out, as its {key!r} is empty' in caplog.text


def test_an_absent_file_is_not_among_the_splits_and_is_named_when_asked_for(folder):
  source = sources.SuperGlueSource('boolq')
  assert list(source.splits) == ['train', 'validation']
  with pytest.raises(hyperprompt_tasks.DataError, match=r'BoolQ/test.jsonl: no such'):
    source.get_dataset('test')


def test_an_absent_folder_is_named(monkeypatch, tmp_path):
  monkeypatch.setenv('SUPER_GLUE_DIR', str(tmp_path / 'nowhere'))
  with pytest.raises(hyperprompt_tasks.DataError, match='nowhere is no folder'):
    _ = sources.SuperGlueSource('boolq').splits


def test_gin_names_the_folder_before_the_environment(folder, tmp_path, monkeypatch):
  monkeypatch.setenv('SUPER_GLUE_DIR', str(tmp_path / 'nowhere'))
  with gin.unlock_config():
    gin.bind_parameter('hyperprompt_tasks.super_glue_dir.path', str(folder))
  try:
    assert hyperprompt_tasks.super_glue_dir() == str(folder)
    assert sources.SuperGlueSource('boolq').num_input_examples('train') == 2
  finally:
    gin.clear_config()


def test_without_a_folder_rows_come_from_tfds(monkeypatch, online):
  asked = []
  monkeypatch.setattr(
    seqio.TfdsDataSource,
    'get_dataset',
    lambda self, *arguments: asked.append((self.tfds_dataset.name, arguments)),
  )
  shard = seqio.ShardInfo(1, 4)
  sources.SuperGlueSource('wsc.fixed', ('train',)).get_dataset('train', True, 3, shard)
  assert asked == [('super_glue/wsc.fixed:1.0.2', ('train', True, 3, shard))]


def test_examples_are_counted_after_flattening(folder):
  counts = {
    config: sources.SuperGlueSource(config).num_input_examples('train')
    for config in TFDS_ROWS
  }
  assert counts == {config: len(rows) for config, rows in TFDS_ROWS.items()}


def test_shards_part_the_rows(folder):
  source = sources.SuperGlueSource('multirc')
  parts = [
    source.get_dataset('train', shuffle=True, seed=0, shard_info=seqio.ShardInfo(i, 2))
    for i in range(2)
  ]
  answers = [
    sorted(row['idx']['answer'] for row in part.as_numpy_iterator()) for part in parts
  ]
  assert answers == [[40, 42], [41]]


def test_shuffling_covers_the_whole_file_anew_in_each_epoch(folder, write, official):
  rows = [{**official['RTE'][0], 'idx': i} for i in range(500)]
  write(folder / 'RTE' / 'train.jsonl', rows)

  def order(seed):
    dataset = sources.SuperGlueSource('rte').get_dataset('train', True, seed).repeat(2)
    return [int(row['idx']) for row in dataset.as_numpy_iterator()]

  result = order(1)
  first, second = result[:500], result[500:]
  assert sorted(first) == sorted(second) == list(range(500))
  assert first != second
  assert max(first[:50]) > 400
  assert result == order(1) != order(2)


@pytest.mark.parametrize('config', TFDS_ROWS)
def test_real_files_load(shared, monkeypatch, config):
  data = shared / 'data' / 'super_glue'
  monkeypatch.setenv('SUPER_GLUE_DIR', str(data))
  source = sources.SuperGlueSource(config)
  for split in ('train', 'validation'):
    rows = list(source.get_dataset(split, shuffle=False).as_numpy_iterator())
    assert len(rows) == source.num_input_examples(split) >= 32
    assert all(row.get('label', 0) >= 0 for row in rows)


@pytest.mark.parametrize('config', ['record', 'wsc.fixed'])
def test_real_files_give_the_rows_of_tfds(shared, monkeypatch, config):
  monkeypatch.setenv('SUPER_GLUE_DIR', str(shared / 'data' / 'super_glue'))
  task = 'record_v102' if config == 'record' else 'wsc_v102_simple_train'
  cases = json.loads((shared / 'spec' / 'reference' / 'sources.json').read_text())
  expected = cases['cases'][f'super_glue_{task}/train32+dev32']['rows']
  source = sources.SuperGlueSource(config)
  rows = [
    json.loads(json.dumps(plain(row), default=bytes.decode))
    for split in ('train', 'validation')
    for row in source.get_dataset(split, shuffle=False).as_numpy_iterator()
  ]
  key = lambda row: json.dumps(row, sort_keys=True)
  assert sorted(rows, key=key) == sorted(expected, key=key)
