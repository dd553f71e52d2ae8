"""JSON arrays, gzip, Parquet, Arrow and CSV of one's own tasks, by columns and template."""

import gzip
import io
import json
import pathlib

import pyarrow as pa
from pyarrow import parquet

from hyperprompt_tasks import layouts, text_files
from tools.fuzz.case import Target

_ROWS = [
  {'premise': 'it rains', 'score': 3.5, 'label': 1},
  {'premise': '\u00e9 {x}', 'score': 0.25, 'label': 'no'},
]
_ENDINGS = {
  b'j': '.json',
  b'g': '.jsonl.gz',
  b'p': '.parquet',
  b'a': '.arrow',
  b'c': '.csv',
}
_LAYOUT = layouts.make(
  'fuzzed', {'targets': 'label'}, {'inputs': 'premise: {premise} {score:.1f} {{}}'}
)


def _table() -> pa.Table:
  return pa.table(
    {'premise': ['it rains', '\u00e9'], 'score': [3.5, 0.25], 'label': ['yes', 'no']}
  )


def _parquet() -> bytes:
  file = io.BytesIO()
  parquet.write_table(_table(), file)
  return file.getvalue()


def _arrow() -> bytes:
  file = io.BytesIO()
  with pa.ipc.new_stream(file, _table().schema) as writer:
    writer.write_table(_table())
  return file.getvalue()


SEEDS = (
  b'j' + json.dumps(_ROWS).encode(),
  b'j' + '\n'.join(map(json.dumps, _ROWS)).encode(),
  b'g' + gzip.compress('\n'.join(map(json.dumps, _ROWS)).encode(), mtime=0),
  b'p' + _parquet(),
  b'a' + _arrow(),
  b'cpremise,score,label\n"it, rains",3.5,1\nb,1e3,yes\n',
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  path = folder / f'train{_ENDINGS.get(case[:1], ".json")}'
  path.write_bytes(case[1:])
  source = text_files.TextFileSource({'train': str(path)}, ['no', 'yes'], _LAYOUT)
  columns = source.columns('train')
  assert len({len(column) for column in columns.values()}) == 1
  assert set(columns['targets'].numpy()) <= {b'no', b'yes'}


TARGET = Target(SEEDS, _run, (b'"premise"', b'"label"'), prefix=1)
