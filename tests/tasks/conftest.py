"""Rows in the official JSONL and TSV layouts, written for these tests, and fixtures."""

import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_tasks import tfds_downloads, vocabulary

# Rows in the official layouts, by folder, and GLUE's tables, by file.
_ROWS = json.loads(pathlib.Path(__file__).with_name('official_rows.json').read_text())
OFFICIAL, GLUE = _ROWS['super_glue'], _ROWS['glue']


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
