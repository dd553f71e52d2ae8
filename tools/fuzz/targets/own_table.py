"""CSV and TSV of one's own tasks: an example for every row, or an error."""

import csv
import io
import pathlib

from hyperprompt_tasks import text_files
from tools.fuzz.case import Target

SEEDS = (
  b'cinputs,targets\na,b\n',
  b'cid,inputs,targets\r\n3,"a ""b""",yes\r\n4,"c, d\n",no',
  b't' + '\ufeffinputs\ttargets\n\u00e9\tb\n\nc\td\n'.encode(),
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  kind, content = ('csv' if case[:1] == b'c' else 'tsv'), case[1:]
  path = folder / f'train.{kind}'
  path.write_bytes(content)
  columns = text_files.TextFileSource({'train': str(path)}).columns('train')
  text = content.decode('utf-8-sig')
  if kind == 'csv':
    lines = list(csv.reader(io.StringIO(text, newline=''), strict=True))
  else:  # quotes are text
    lines = [line.split('\t') for line in text.replace('\r\n', '\n').split('\n') if line]
  header, *rows = filter(None, lines)
  assert {len(column) for column in columns.values()} == {len(rows)}
  # A name twice would hide a column.
  assert header.count('inputs') == header.count('targets') == 1


TARGET = Target(SEEDS, _run, (b'inputs', b'targets'), prefix=1)
