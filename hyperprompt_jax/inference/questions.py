"""Questions in files: JSONL, CSV, TSV or Parquet, compressed or not, or standard input."""

import csv
import dataclasses
import gzip
import io
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from hyperprompt_jax.errors import UserError, nearest
from hyperprompt_jax.runtime import plain_json

STANDARD_INPUT = '-'
_TASK, _INPUTS = 'task', 'inputs'
# Python's own limit of a field is 128 kB.
csv.field_size_limit(2**27)


@dataclasses.dataclass(frozen=True)
class QuestionFile:
  """A file of questions.

  Attributes:
    path: names the file, or is `-`. Its ending gives the format: `.csv` and `.tsv` have a
      line of column names, `.parquet` has columns, and all others have a JSON object on
      each line. A further `.gz` is a compressed one.
    task_list: names the tasks that a question may be of.
  """

  path: str
  task_list: Sequence[str]

  @property
  def can_be_read_again(self) -> bool:
    """Whether the file is a regular one, so that all of it can be checked first."""
    if self.path == STANDARD_INPUT:
      return False
    try:
      return stat.S_ISREG(os.stat(self.path).st_mode)
    except OSError as error:
      raise self._unreadable(error) from error

  def read(self) -> Iterator[dict[str, Any]]:
    """Yields the questions: objects with a `task`, `inputs`, and maybe more.

    Raises:
      UserError: if the file cannot be read or is empty, or a line is no question; the
        message names file and line.
    """
    is_empty = True
    try:
      for where, value in self._values():
        is_empty = False
        yield self._checked(where, value)
    except (OSError, EOFError, csv.Error, UnicodeError) as error:
      raise self._unreadable(error) from error
    if is_empty:
      raise UserError(
        f'--input {self.path} is empty: expected a question with {_TASK} and {_INPUTS}'
      )

  def _unreadable(self, error: Exception) -> UserError:
    return UserError(f'--input {self.path} cannot be read: {error}')

  def _values(self) -> Iterator[tuple[str, Any]]:
    """Yields place and value of each question, not yet checked."""
    name = self.path.removesuffix('.gz')
    if name.endswith('.parquet'):
      yield from self._of_parquet()
    elif name.endswith(('.csv', '.tsv')):
      with self._open() as file:
        binary: Any = file
        lines = io.TextIOWrapper(binary, encoding='utf-8-sig', newline='')
        yield from self._of_table(lines, literal=name.endswith('.tsv'))
    else:
      with self._open() as file:
        for number, line in enumerate(file, 1):
          if line.strip():
            where = f'{self.path}:{number}'
            yield where, _parsed(where, line)

  def _open(self) -> IO[bytes] | gzip.GzipFile:
    if self.path == STANDARD_INPUT:
      return os.fdopen(os.dup(sys.stdin.fileno()), 'rb')
    if self.path.endswith('.gz'):
      return gzip.open(self.path, 'rb')
    return open(self.path, 'rb')

  def _of_table(
    self, lines: Iterable[str], *, literal: bool
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a table; in T5's TSV a quote is a character like any other."""
    if literal:
      rows = csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE)
    else:
      rows = csv.reader(lines, strict=True)
    columns = next(rows, [])
    for row in rows:
      if not row:
        continue
      where = f'{self.path}:{rows.line_num}'
      if len(row) != len(columns):
        raise UserError(
          f'{where}: {len(row)} values for {len(columns)} columns ({", ".join(columns)})'
        )
      yield where, dict(zip(columns, row, strict=True))

  def _of_parquet(self) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
      import pyarrow
      from pyarrow import parquet
    except ImportError as error:
      raise UserError(
        f'--input {self.path}: reading Parquet needs the package pyarrow: install it, or '
        'convert the file to JSONL'
      ) from error
    try:
      number = 0
      with parquet.ParquetFile(self.path) as file:
        for batch in file.iter_batches():
          for row in batch.to_pylist():
            number += 1
            yield f'{self.path}, row {number}', row
    except pyarrow.ArrowException as error:
      raise self._unreadable(error) from error

  def _checked(self, where: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and len(self.task_list) == 1:
      value = {_TASK: self.task_list[0], **value}
    if not isinstance(value, dict) or not all(
      isinstance(value.get(key), str) for key in (_TASK, _INPUTS)
    ):
      shown = json.dumps(value, ensure_ascii=False, default=str)[:80]
      raise UserError(
        f'{where}: expected an object with strings "task" and "inputs", got {shown!r}'
      )
    try:
      # It will be written again. An escaped half of a surrogate pair is JSON, but no text;
      # NaN is Python's own.
      json.dumps(value, ensure_ascii=False, allow_nan=False).encode('utf-8')
    except UnicodeError as error:
      raise UserError(f'{where}: no JSON in UTF-8: {error}') from error
    except (ValueError, TypeError, RecursionError) as error:
      raise UserError(f'{where}: no JSON: {error}') from error
    if value[_TASK] not in self.task_list:
      task = value[_TASK][:80]
      raise UserError(
        f'{where}: task {task!r} is not one of this model{nearest(task, self.task_list)}; '
        f'it knows {", ".join(self.task_list)}'
      )
    return value


def _parsed(where: str, line: bytes) -> Any:
  try:
    return plain_json.parse(line.decode('utf-8-sig'))  # some editors write a BOM
  except UnicodeError as error:
    raise UserError(f'{where}: no JSON in UTF-8: {error}') from error
  except ValueError as error:
    raise UserError(f'{where}: no JSON: {error}') from error
