"""Reads rows of own tasks from JSON, CSV, TSV, Parquet and Arrow files.

Every reader yields pairs of a place, such as `FILE:LINE`, and a row by column name. The
format of a file follows from its name; see FORMATS.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from hyperprompt_tasks import arrow_files, errors, plain_json

Rows = Iterator[tuple[str, Mapping[str, Any]]]
# One field of a CSV line (RFC 4180) and what ends it. Quantifiers are possessive, so that a
# quote that nothing closes is noticed in one pass.
_CSV_FIELD = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\r\n][^,\r\n]*+)?+)(,|\r\n|\n|\r|\Z)')
# Some tools number shards at the end of their names, as `train.jsonl-00000-of-00002`.
_SHARD = re.compile(r'-\d{5,}-of-\d{5,}$')
_GLOB_SIGNS = re.compile(r'[*?\[]')


def is_known(path: str) -> bool:
  """Returns whether a file of this name can be read."""
  return _format(path) in FORMATS


def has_lines(path: str) -> bool:
  """Returns whether a file is a table of lines, which may lack a line of column names."""
  return _format(path) in ('.csv', '.tsv')


def expand(paths: str | Sequence[str]) -> list[str]:
  """Returns the files that a path, a list of paths, or patterns with `* ? […]` name.

  The files of a pattern are sorted. A path that exists is never a pattern.

  Raises:
    DataError: if a path is not text, or no file matches a pattern.
  """
  files: list[str] = []
  for path in paths if isinstance(paths, list | tuple) else [paths]:
    if not isinstance(path, str) or not path or '\0' in path:
      raise errors.DataError(f'{str(path)[:80]!r} is no path of a file')
    if not _GLOB_SIGNS.search(path) or tf.io.gfile.exists(path):
      files.append(path)
      continue
    matches = sorted(tf.io.gfile.glob(path))
    if not matches:
      raise errors.DataError(f'{path}: no file matches this pattern')
    files.extend(matches)
  return files


def read(path: str, needed: Collection[str], has_header: bool = True) -> Rows:
  """Yields the rows of a file.

  Args:
    path: is wherever TensorFlow reads; its name says its format.
    needed: a table must not have two columns of such a name. Other columns are free.
    has_header: whether the first line of a table holds the names of its columns. Without
      it the columns are named `0`, `1`, …

  Raises:
    DataError: if the file or a row of it cannot be used; the error names the place.
  """
  reader = FORMATS[_format(path)]
  if reader in (_csv, _tsv):
    return _table(reader(path, text_of(path)), needed, has_header)
  return reader(path)


def _format(path: str) -> str:
  name = _SHARD.sub('', os.path.basename(path))
  return os.path.splitext(name.removesuffix('.gz'))[1]


def _bytes(path: str) -> bytes:
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      content = file.read()
  except tf.errors.OpError as error:
    raise errors.DataError(
      f'{path}: cannot be read; expected a file of examples'
    ) from error
  if not _SHARD.sub('', path).endswith('.gz'):
    return content
  try:
    return gzip.decompress(content)
  except (OSError, EOFError, zlib.error) as error:
    raise errors.DataError(f'{path}: expected a whole gzip file; {error}') from error


def text_of(path: str) -> str:
  """Returns the text of a file, which may be compressed.

  Raises:
    DataError: if the file cannot be read, or is no UTF-8.
  """
  content = _bytes(path)
  try:
    return content.decode('utf-8-sig')  # spreadsheets write a byte order mark
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise errors.DataError(f'{path}:{line}: expected UTF-8; {error.reason}') from error


def _json_lines(path: str) -> Rows:
  yield from _lines_of_json(path, text_of(path))


def _lines_of_json(path: str, text: str) -> Rows:
  """Yields the object on each line that is not blank."""
  # Python ends a line at more characters than JSON Lines does.
  for number, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    where = f'{path}:{number}'
    try:
      row = plain_json.parse(line)
    except ValueError as error:
      raise errors.DataError(f'{where}: expected one JSON object; {error}') from error
    yield where, _checked_object(where, row)


def _json(path: str) -> Rows:
  """Yields the objects of one array. Some tools write JSON Lines under this name too."""
  text = text_of(path)
  if not text.lstrip().startswith('['):
    yield from _lines_of_json(path, text)
    return
  try:
    rows = plain_json.parse(text)
  except ValueError as error:
    raise errors.DataError(f'{path}: expected an array of objects; {error}') from error
  for number, row in enumerate(rows, start=1):
    where = f'{path}: item {number}'
    yield where, _checked_object(where, row)


def _checked_object(where: str, row: Any) -> Mapping[str, Any]:
  if not isinstance(row, dict):
    raise errors.DataError(
      f'{where}: expected one JSON object; found {plain_json.shown(row)}'
    )
  return row


def _csv(path: str, text: str) -> Iterator[tuple[str, list[str]]]:
  """Yields the fields of each row (RFC 4180) and the place where the row begins.

  A quote inside a field that does not begin with one is text.
  """
  position, line, first_line = 0, 1, 1
  fields: list[str] = []
  while position < len(text) or fields:
    match = _CSV_FIELD.match(text, position)
    if match is None:
      raise errors.DataError(
        f'{path}:{line}: the quote that opens here is not closed before the end of a '
        'field; write a quote inside a quoted field twice'
      )
    quoted, plain, end = match.groups()
    position = match.end()
    if fields or end == ',' or quoted is not None or plain is not None:  # no blank line
      fields.append(plain or '' if quoted is None else quoted.replace('""', '"'))
    line += _num_lines(quoted or '')
    if end != ',':
      yield f'{path}:{first_line}', fields
      fields, line = [], line + 1
      first_line = line


def _num_lines(text: str) -> int:
  return text.count('\n') + text.count('\r') - text.count('\r\n')


def _tsv(path: str, text: str) -> Iterator[tuple[str, list[str]]]:
  """Yields the fields of each line: tabs alone divide it, and quotes are text."""
  for number, line in enumerate(text.split('\n'), start=1):
    line = line.removesuffix('\r')
    yield f'{path}:{number}', line.split('\t') if line else []


def _table(
  lines: Iterator[tuple[str, list[str]]], needed: Collection[str], has_header: bool
) -> Rows:
  """Yields the rows of a table by the names of its columns; blank lines are left out."""
  columns: list[str] = []
  for where, fields in lines:
    if not fields:
      continue
    if not columns:
      columns = fields if has_header else [str(i) for i in range(len(fields))]
      if repeated := sorted(name for name in needed if columns.count(name) > 1):
        raise errors.DataError(f'{where}: two columns {repeated[0]!r}; expected one')
      if has_header:
        continue
    if len(fields) != len(columns):
      raise errors.DataError(
        f'{where}: expected {len(columns)} fields, as in the first line; found '
        f'{len(fields)}'
      )
    yield where, dict(zip(columns, fields, strict=True))


# The reader of each format. A text file may be compressed, as in `.csv.gz`.
FORMATS: Mapping[str, Callable[..., Any]] = {
  '.jsonl': _json_lines,
  '.json': _json,
  '.csv': _csv,
  '.tsv': _tsv,
  '.parquet': lambda path: arrow_files.parquet(path, _bytes(path)),
  '.arrow': lambda path: arrow_files.arrow(path, _bytes(path)),
}
