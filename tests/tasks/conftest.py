"""Rows in the official JSONL and TSV layouts, written for these tests, and fixtures."""

import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_tasks import tfds_downloads, vocabulary

OFFICIAL = {
  'BoolQ': [
    {'question': 'is it on', 'passage': 'Kettle -- It is on.', 'idx': 4, 'label': True},
    {'question': 'is it é', 'passage': 'E -- No.', 'idx': 9, 'label': False},
  ],
  'CB': [
    {'premise': 'P. ', 'hypothesis': 'H', 'label': 'neutral', 'idx': 3},
    {'premise': 'Q', 'hypothesis': 'I', 'label': 'contradiction', 'idx': 1},
  ],
  'COPA': [
    {
      'premise': 'The pond froze.',
      'choice1': 'A.',
      'choice2': 'B.',
      'question': 'effect',
      'label': 1,
      'idx': 7,
    }
  ],
  'MultiRC': [
    {
      'idx': 2,
      'version': 1.1,
      'passage': {
        'text': 'Ida baked.',
        'questions': [
          {
            'question': 'Who baked?',
            'idx': 11,
            'answers': [
              {'text': 'Ida', 'idx': 40, 'label': 1},
              {'text': 'Rolf', 'idx': 41, 'label': 0},
            ],
          },
          {
            'question': 'Why?',
            'idx': 12,
            'answers': [{'text': 'Who knows', 'idx': 42, 'label': 0}],
          },
        ],
      },
    }
  ],
  'ReCoRD': [
    {
      'source': 'made',
      'idx': 5,
      'passage': {
        # The offsets count characters, include the last one, and repeat a name.
        'text': 'Éva Holm won.\n@highlight\nÉva Holm beat Rossi',
        'entities': [
          {'start': 25, 'end': 32},
          {'start': 39, 'end': 43},
          {'start': 0, 'end': 7},
        ],
      },
      'qas': [
        {
          'query': '@placeholder thanked the crowd.',
          'idx': 8,
          'answers': [
            {'start': 25, 'end': 32, 'text': 'Éva Holm'},
            {'start': 0, 'end': 7, 'text': 'Éva Holm'},
            {'start': 29, 'end': 32, 'text': 'Holm'},
          ],
        },
        {
          'query': '@placeholder lost.',
          'idx': 9,
          'answers': [{'start': 39, 'end': 43, 'text': 'Rossi'}],
        },
      ],
    }
  ],
  'RTE': [
    {'premise': 'P', 'hypothesis': 'H', 'label': 'not_entailment', 'idx': 0},
  ],
  'WiC': [
    {
      'word': 'pitch',
      'sentence1': 'A wet pitch.',
      'sentence2': 'A pitch.',
      'idx': 6,
      'label': False,
      'start1': 6,
      'end1': 11,
      'start2': 2,
      'end2': 7,
      'version': 1.1,
    }
  ],
  'WSC': [
    {
      'text': 'Then the lake froze because it was cold.',
      'target': {
        'span1_text': 'The\nlake.',
        'span1_index': 1,
        'span2_text': 'it',
        'span2_index': 5,
      },
      'idx': 1,
      'label': True,
    },
    {
      'text': 'Vera lent Paul a rake because he asked .',
      'target': {
        'span1_text': 'Vera',
        'span1_index': 0,
        'span2_text': 'he',
        'span2_index': 6,
      },
      'idx': 2,
      'label': False,
    },
  ],
}

_PAIRS = 'index\tsentence1\tsentence2'
_MNLI = 'index\tgenre\tsentence1\tsentence2'
_MNLI_ROWS = (
  '0\tfiction\tIt never rains here.\tIt rained today.',
  '1\tslate\tHe said "no.\tHe spoke.',
)


def _table(header, *rows):
  return ''.join(f'{row}\n' for row in (header, *rows))


def _labelled(folder, header, *rows):
  return {f'{folder}/{split}.tsv': _table(header, *rows) for split in ('train', 'dev')}


GLUE = {
  'CoLA/train.tsv': _table('gj04\t1\t\tThe dog ran.', 'gj04\t0\t*\tThe "dog the ran.'),
  'CoLA/dev.tsv': _table('gj04\t1\t\tÉva sings. ', "bc01\t0\t*\tSings Éva's."),
  'CoLA/test.tsv': _table('index\tsentence', '0\tWho ran?'),
  **_labelled('SST-2', 'sentence\tlabel', 'a warm , funny film \t1', 'dull \t0'),
  'SST-2/test.tsv': _table('index\tsentence', '0\tfine '),
  'MRPC/msr_paraphrase_train.txt': '\ufeff'
  + _table(
    'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String',
    '1\t70\t71\tSales rose 3 % .\tSales were up 3 % .',
    '0\t72\t73\t" Yes , " he said .\tHe left .',
    '1\t74\t75\tA .\tB .',
    '0\t71\t70\tC .\tD .',
  ),
  'MRPC/msr_paraphrase_test.txt': '\ufeff'
  + _table('Quality\t#1 ID\t#2 ID\t#1 String\t#2 String', '1\t76\t77\tE .\tF .'),
  'MRPC/dev_ids.tsv': _table('72\t73', '74\t75'),
  **_labelled(
    'QQP',
    'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate',
    '0\t1\t2\tHow do I peel garlic?\tWhy is garlic white?\t0',
    '9\t3\t4\tIs it late?\tIs it "late?\t1',
  ),
  'QQP/test.tsv': _table('id\tquestion1\tquestion2', '0\tWhy?\tHow?'),
  **_labelled('STS-B', f'{_PAIRS}\tscore', '0\tA man.\tA boy.\t4.500', '1\tA.\tZ.\t0.1'),
  'STS-B/test.tsv': _table(_PAIRS, '0\tA.\tB.'),
  'MNLI/train.tsv': _table(
    f'{_MNLI}\tlabel1\tgold_label',
    f'{_MNLI_ROWS[0]}\tcontradiction\tcontradiction',
    f'{_MNLI_ROWS[1]}\tneutral\tentailment',
  ),
  **{
    f'MNLI/dev_{which}.tsv': _table(
      f'{_MNLI}\tlabel1\tlabel2\tgold_label', f'{_MNLI_ROWS[i]}\tneutral\t-\t{label}'
    )
    for i, (which, label) in enumerate(
      [('matched', 'contradiction'), ('mismatched', 'neutral')]
    )
  },
  **{
    f'MNLI/test_{which}.tsv': _table(_MNLI, *_MNLI_ROWS)
    for which in ('matched', 'mismatched')
  },
  **_labelled(
    'QNLI',
    'index\tquestion\tsentence\tlabel',
    '0\tWhere is the mill?\tThe mill stands by the weir.\tentailment',
    '1\tWho?\tThe mill.\tnot_entailment',
  ),
  'QNLI/test.tsv': _table('index\tquestion\tsentence', '0\tWho?\tThe mill.'),
  **_labelled('RTE', f'{_PAIRS}\tlabel', '0\tOla sings.\tOla is mute.\tnot_entailment'),
  'RTE/test.tsv': _table(_PAIRS, '0\tA.\tB.'),
  **_labelled(
    'WNLI', f'{_PAIRS}\tlabel', '0\tTea beats milk since it is hot.\tTea is hot.\t1'
  ),
  'WNLI/test.tsv': _table(_PAIRS, '0\tAda fed Ben as he was hungry.\tAda was hungry.'),
  'diagnostic/diagnostic.tsv': _table(_PAIRS, '0\tNo guest came.\tSome guest came.'),
}


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
  """Every test starts with bytes and without folders of official files."""
  for variable in ('SUPER_GLUE_DIR', 'GLUE_DIR'):
    monkeypatch.delenv(variable, raising=False)
  hyperprompt_tasks.use_vocabulary('bytes')
  yield
  vocabulary._in_use.clear()


@pytest.fixture
def online(monkeypatch):
  """Lets TFDS try its downloads, as if its servers answered."""
  monkeypatch.setattr(tfds_downloads, 'obstacle', lambda builder: None)


@pytest.fixture
def official():
  return json.loads(json.dumps(OFFICIAL))


def write_lines(path, rows):
  path.parent.mkdir(exist_ok=True)
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


@pytest.fixture
def folder(tmp_path, monkeypatch, official):
  """The official layout with the rows above as train.jsonl and val.jsonl."""
  for name, rows in official.items():
    for file in ('train.jsonl', 'val.jsonl'):
      write_lines(tmp_path / name / file, rows)
  monkeypatch.setenv('SUPER_GLUE_DIR', str(tmp_path))
  return tmp_path


@pytest.fixture
def long_folder(folder, official):
  """The same folder with 200 times the training rows, so that epochs are long enough."""
  for name, rows in official.items():
    write_lines(folder / name / 'train.jsonl', rows * 200)
  return folder


@pytest.fixture
def glue_folder(tmp_path, monkeypatch):
  """The official layout of GLUE with the files above."""
  for name, text in GLUE.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding='utf-8')
  monkeypatch.setenv('GLUE_DIR', str(tmp_path))
  return tmp_path


@pytest.fixture
def write():
  return write_lines


@pytest.fixture
def shared():
  """The folder beside the repository that holds real rows and T5's answers."""
  path = pathlib.Path(__file__).resolve().parents[2].parent / 'shared'
  if not path.is_dir():
    pytest.skip('needs ../shared, which is not part of the project')
  return path


def _tensor(key, value):
  if isinstance(value, dict):
    return {k: _tensor(k, v) for k, v in value.items()}
  if isinstance(value, float):
    return tf.constant(value, tf.float32)
  if isinstance(value, int):
    return tf.constant(value, tf.int64 if key == 'label' else tf.int32)
  return tf.constant(value, tf.string)


def _plain(value):
  if isinstance(value, np.ndarray):
    return [_plain(v) for v in value]
  return value.decode() if isinstance(value, bytes) else value.item()


@pytest.fixture
def text_of():
  """Runs a task's preprocessors, up to tokenization, on one row in the form of TFDS."""

  def run(task_name, row):
    dataset = tf.data.Dataset.from_tensors(_tensor('', row))
    task = seqio.TaskRegistry.get(task_name)
    stages = list(task.preprocessors)
    for stage in stages[: stages.index(seqio.preprocessors.tokenize)]:
      dataset = stage(dataset)
    return [
      {key: _plain(value) for key, value in example.items()}
      for example in dataset.as_numpy_iterator()
    ]

  return run
