"""Rows in the official JSONL layout, written for these tests, and fixtures."""

import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_tasks import vocabulary

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


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
  """Every test starts with bytes and without a SuperGLUE folder."""
  monkeypatch.delenv('SUPER_GLUE_DIR', raising=False)
  hyperprompt_tasks.use_vocabulary('bytes')
  yield
  vocabulary._in_use.clear()


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
  """The same with 200 times the rows to train on, so that epochs are not too short."""
  for name, rows in official.items():
    write_lines(folder / name / 'train.jsonl', rows * 200)
  return folder


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
