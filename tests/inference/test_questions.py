"""Questions in files of each format, and lines that are none."""

import gzip
import json
import os

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.questions import QuestionFile

TASKS = ('copy', 'max')
ROWS = [{'task': 'copy', 'inputs': 'a "b", c'}, {'task': 'max', 'inputs': 'é 日'}]
CONTENTS = {
  'q.jsonl': '\ufeff' + ''.join(f'{json.dumps(row)}\r\n\n' for row in ROWS),
  'q.csv': 'task,inputs\r\ncopy,"a ""b"", c"\r\nmax,é 日\r\n',
  'q.tsv': 'task\tinputs\ncopy\ta "b", c\nmax\té 日\n',
}


@pytest.mark.parametrize('name', CONTENTS)
@pytest.mark.parametrize('compressed', [False, True])
def test_the_ending_tells_the_format(tmp_path, name, compressed):
  contents = CONTENTS[name].encode()
  path = tmp_path / (f'{name}.gz' if compressed else name)
  path.write_bytes(gzip.compress(contents) if compressed else contents)
  file = QuestionFile(str(path), TASKS)
  assert list(file.read()) == ROWS and file.can_be_read_again


def test_parquet_is_read_with_its_other_columns(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  path = tmp_path / 'q.parquet'
  rows = [{**row, 'id': number} for number, row in enumerate(ROWS)]
  parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  assert list(QuestionFile(str(path), TASKS).read()) == rows
  path.write_bytes(b'PAR1 and no more')
  with pytest.raises(UserError, match=r'q.parquet cannot be read'):
    list(QuestionFile(str(path), TASKS).read())


def test_a_pipe_is_read_once(tmp_path):
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  file = QuestionFile(str(path), TASKS)
  assert not file.can_be_read_again and not QuestionFile('-', TASKS).can_be_read_again
  writer = os.open(path, os.O_RDWR)
  os.write(writer, CONTENTS['q.jsonl'].encode()[3:])
  questions = file.read()
  reader = next(questions)
  assert reader == ROWS[0]
  os.close(writer)
  assert list(questions) == ROWS[1:]


def test_a_model_of_one_task_needs_no_task(tmp_path):
  path = tmp_path / 'q.csv'
  path.write_text('inputs,id\nx,1\n')
  (question,) = QuestionFile(str(path), ('copy',)).read()
  assert question == {'task': 'copy', 'inputs': 'x', 'id': '1'}
  with pytest.raises(UserError, match=r'q.csv:2: expected an object with strings "task"'):
    list(QuestionFile(str(path), TASKS).read())


@pytest.mark.parametrize(
  ('name', 'contents', 'message'),
  [
    ('q.csv', 'task,inputs\ncopy,a,b\n', 'q.csv:2: 3 values for 2 columns'),
    ('q.csv', 'task,inputs\ncopy,"a\n', 'q.csv cannot be read'),
    ('q.csv', 'task,inputs\n', 'q.csv is empty'),
    ('q.tsv', '', 'q.tsv is empty'),
    ('q.jsonl.gz', 'no gzip', 'q.jsonl.gz cannot be read'),
    ('q.tsv', b'task\tinputs\ncopy\t\xe9\n', 'q.tsv cannot be read'),
    ('q.csv', 'task,inputs\nnone,a\n', "q.csv:2: task 'none' is not one of this model"),
  ],
)
def test_a_table_that_cannot_be_used(tmp_path, name, contents, message):
  path = tmp_path / name
  path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
  with pytest.raises(UserError, match=message) as error:
    list(QuestionFile(str(path), TASKS).read())
  assert '\n' not in str(error.value)
