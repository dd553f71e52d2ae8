"""Examples from files of text: JSON Lines, CSV and TSV with `inputs` and `targets`."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import errors, plain_json, sources

INPUTS, TARGETS = 'inputs', 'targets'
SPLITS = ('train', 'validation', 'test')
DELIMITERS = {'.csv': ',', '.tsv': '\t'}
# The target of an example whose target nobody knows, as T5 writes it.
UNKNOWN = '<unk>'


class TextFileSource(sources.ColumnSource):
  """One task's files; nothing is read before it is asked for.

  Args:
    paths: of each split, a `.jsonl`, `.csv` or `.tsv` file, wherever TensorFlow reads.
    labels: what targets can be; None for any text.

  Raises:
    DataError: a split or a kind of file that there is not.
  """

  def __init__(self, paths: Mapping[str, str], labels: Sequence[str] | None = None):
    for split, path in paths.items():
      if split not in SPLITS:
        raise errors.DataError(
          f'{path}: {split} is no split; there are {", ".join(SPLITS)}'
        )
      if _kind(path) not in ('.jsonl', *DELIMITERS):
        raise errors.DataError(f'{path}: expected a file .jsonl, .csv or .tsv')
    super().__init__(splits=[split for split in SPLITS if split in paths])
    self._paths = dict(paths)
    self._labels = labels
    self._columns: dict[str, sources.Columns] = {}

  def check(self) -> None:
    """Reads all files.

    Raises:
      DataError: a file cannot be used; names file and line.
    """
    for split in self.splits:
      self.columns(split)

  def num_training_examples(self) -> int:
    """Returns how many examples there are to train on; 0 without a file of them."""
    return self.num_input_examples('train') or 0 if 'train' in self.splits else 0

  @override
  def columns(self, split: str) -> sources.Columns:
    """Returns the strings `inputs` and `targets` of a split.

    Raises:
      DataError: its file cannot be used; names file and line.
    """
    if split not in self._columns:
      examples = list(self._examples(split))
      if not examples:
        raise errors.DataError(f'{self._paths[split]}: expected examples; found none')
      self._columns[split] = {
        name: tf.constant(values, tf.string)
        for name, values in zip((INPUTS, TARGETS), zip(*examples, strict=True), strict=True)
      }
    return self._columns[split]

  def _examples(self, split: str) -> Iterator[tuple[str, str]]:
    path = self._paths[split]
    read = _json_lines if _kind(path) == '.jsonl' else _table
    for where, row in read(path):
      inputs = _text(where, row, INPUTS)
      if split == 'test' and row.get(TARGETS) is None:
        yield inputs, UNKNOWN
        continue
      target = _text(where, row, TARGETS)
      if self._labels is not None and target not in self._labels:
        raise errors.DataError(
          f'{where}: expected {TARGETS!r} to be one of {", ".join(self._labels)}; found '
          f'{target[:80]!r}'
        )
      yield inputs, target


def _kind(path: str) -> str:
  return os.path.splitext(path)[1]


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
  if name not in row:
    held = ', '.join(map(repr, row)) or 'nothing'
    raise errors.DataError(f'{where}: expected {name!r}; found {held[:200]}')
  value = row[name]
  if not isinstance(value, str) or not value.strip():
    raise errors.DataError(
      f'{where}: expected {name!r} to be text; found {plain_json.shown(value)}'
    )
  try:
    value.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.DataError(
      f'{where}: expected valid Unicode in {name!r}; {error.reason}'
    ) from error
  return value


def _read(path: str) -> str:
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      data = file.read()
  except tf.errors.OpError as error:
    raise errors.DataError(
      f'{path}: cannot be read; expected a file of examples'
    ) from error
  try:
    return data.decode('utf-8-sig')  # spreadsheets put a mark in front
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise errors.DataError(f'{path}:{line}: expected UTF-8; {error.reason}') from error


def _json_lines(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Each object, and where it stands; blank lines are none."""
  # Of all that Python takes for the end of a line, JSON Lines has one.
  for number, line in enumerate(_read(path).split('\n'), start=1):
    if not line.strip():
      continue
    where = f'{path}:{number}'
    try:
      row = plain_json.parse(line)
    except ValueError as error:
      raise errors.DataError(f'{where}: expected one JSON object; {error}') from error
    if not isinstance(row, dict):
      raise errors.DataError(f'{where}: expected one JSON object; found {line[:80]!r}')
    yield where, row


def _table(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Each row by the names in the first, and where it ends."""
  text = io.StringIO(_read(path), newline='')
  rows = csv.DictReader(text, delimiter=DELIMITERS[_kind(path)], strict=True)
  longest = csv.field_size_limit(2**31 - 1)  # of a field; a passage may be long
  try:
    for name in (INPUTS, TARGETS):
      if (rows.fieldnames or ()).count(name) > 1:
        raise errors.DataError(f'{path}:1: two columns {name!r}; expected one')
    for row in rows:
      where = f'{path}:{rows.line_num}'
      if None in row or (None in row.values()):
        raise errors.DataError(
          f'{where}: expected {len(rows.fieldnames or ())} fields, as in the first line'
        )
      yield where, row
  except csv.Error as error:
    raise errors.DataError(f'{path}:{rows.reader.line_num}: {error}') from error
  finally:
    csv.field_size_limit(longest)
