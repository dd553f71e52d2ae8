"""Reads the official GLUE TSV files into rows in the form of TFDS.

See section 5 of docs/reference/task_specification.md. Tabs alone separate fields, and
quotes have no meaning.
`idx` counts the rows of a file from 0. Lines that TFDS leaves out are left out here too,
and a warning counts them. A line at which TFDS fails is an error that names the line.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import errors, official_files
from hyperprompt_tasks.official_files import ENTAILMENT, Row

_SENTENCES = {'sentence1': 'sentence1', 'sentence2': 'sentence2'}
_MRPC_JOINT = 'msr_paraphrase_train.txt'
_MRPC_TEST = 'msr_paraphrase_test.txt'
_MRPC_DEV_IDS = 'dev_ids.tsv'


@dataclasses.dataclass(frozen=True)
class Fields:
  """A line's fields by column, and its place, which errors name.

  A field after the end of the line is None. Every method raises DataError where the line
  lacks `column` or holds another kind of value there.
  """

  where: str
  values: Mapping[str, str | None]

  def text(self, column: str) -> bytes:
    """Returns a field as UTF-8."""
    value = self.values.get(column)
    if value is None:
      held = sum(value is not None for value in self.values.values())
      raise self.error(f'a field {column!r}', f'a line of {held} fields')
    return value.encode('utf-8')

  def class_id(self, column: str, classes: Sequence[str]) -> int:
    """Returns the id of the class that a field names or numbers."""
    value = self.text(column).decode('utf-8')
    if value in classes:
      return classes.index(value)
    ids = [str(i) for i in range(len(classes))]
    if value in ids:
      return int(value)
    raise self.error(f'{column!r} to be one of {", ".join((*classes, *ids))}', repr(value))

  def number(self, column: str) -> float:
    """Returns the number in a field."""
    value = self.text(column).decode('utf-8')
    try:
      number = float(value)
    except ValueError:
      number = math.nan
    if not math.isfinite(number):
      raise self.error(f'{column!r} to be a number', repr(value))
    return number

  def error(self, expected: str, actual: str) -> errors.DataError:
    """Returns an error that names this place and the expected value."""
    return errors.DataError(f'{self.where}: expected {expected}; found {actual[:80]}')


@dataclasses.dataclass(frozen=True)
class Format(official_files.Format):
  """The layout of the TSV files of one TFDS configuration.

  Attributes:
    files: is the name of the file of each split.
    label: the label is in this column, which a test file may lack. Without classes it
      holds a number.
    texts: each string feature is given with its column.
    columns: the labelled files have these columns if they have no header.
  """

  files: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {
      'train': 'train.tsv',
      'validation': 'dev.tsv',
      'test': 'test.tsv',
    }
  )
  label: str = 'label'
  texts: Mapping[str, str] = dataclasses.field(default_factory=lambda: _SENTENCES)
  columns: tuple[str, ...] = ()

  @override
  def read(self, path: str, split: str) -> list[Row]:
    rows: list[Row] = []
    total = 0
    for total, line in enumerate(self._table(path, split), start=1):
      if not self._is_corrupt(line, split):
        rows.append(self._row(line, total - 1))
    if len(rows) < total:
      official_files.warn_once(
        f'{path}: left out {total - len(rows)} of {total} lines, which lack a text or a '
        'label'
      )
    return _checked(rows, path)

  def _columns(self, split: str) -> tuple[str, ...]:
    """Returns the columns of a file without a header; none of a file with one."""
    return () if split.startswith('test') else self.columns

  def _table(self, path: str, split: str) -> Iterator[Fields]:
    """Yields the lines of a file without its header and blank lines.

    Raises:
      DataError: if the header lacks a column.
    """
    columns, longer = self._columns(split), 0
    for where, line in self.lines(path, split, 'a line of text'):
      if not line:
        continue
      fields = line.split('\t')
      if not columns:
        # MRPC's file begins with a byte order mark.
        columns = tuple(line.removeprefix('\ufeff').split('\t'))
        self._check_header(Fields(where, dict.fromkeys(columns)), split)
        continue
      missing = [None] * (len(columns) - len(fields))
      yield Fields(where, dict(zip(columns, [*fields, *missing], strict=False)))
      longer += len(fields) > len(columns)
    if longer:
      official_files.warn_once(
        f'{path}: {longer} lines have more fields than there are columns; the first ones '
        'are taken, as TFDS takes them'
      )

  def _check_header(self, header: Fields, split: str) -> None:
    expected = list(self.texts.values())
    if not split.startswith('test'):
      expected.append(self.label)
    if not header.values.keys() >= set(expected):
      raise header.error(
        f'a header with {", ".join(map(repr, expected))}',
        ', '.join(map(repr, header.values)),
      )

  def _is_corrupt(self, line: Fields, split: str) -> bool:
    """Returns whether TFDS leaves a line out: it ends early or has no class."""
    columns = (*self.texts.values(), self.label)
    # Where there is no header, TFDS fails at a line that ends early.
    ends_early = not self._columns(split) and any(
      line.values.get(column, '') is None for column in columns
    )
    return ends_early or (bool(self.classes) and line.values.get(self.label) == '')

  def _row(self, line: Fields, idx: int) -> Row:
    label: int | float = -1 if self.classes else -1.0
    if self.label in line.values:
      label = (
        line.class_id(self.label, self.classes) if self.classes else line.number(self.label)
      )
    texts = {feature: line.text(column) for feature, column in self.texts.items()}
    return {**texts, 'label': label, 'idx': idx}


@dataclasses.dataclass(frozen=True)
class MrpcFormat(Format):
  """MRPC in Microsoft's two files with GLUE's list of dev rows, or in split files.

  TFDS reads Microsoft's files, and `idx` counts the rows of the joint file. Split files
  do not hold that number, so `idx` counts their own rows.
  """

  @override
  def path(self, directory: str, split: str) -> str:
    path = super().path(directory, split)
    folder = os.path.dirname(path)
    names = [_MRPC_TEST] if split == 'test' else [_MRPC_JOINT, _MRPC_DEV_IDS]
    first, *others = (os.path.join(folder, name) for name in names)
    return first if all(map(tf.io.gfile.exists, (first, *others))) else path

  @override
  def read(self, path: str, split: str) -> list[Row]:
    folder, name = os.path.split(path)
    dev = None
    if name == _MRPC_JOINT:
      dev = self._dev_ids(os.path.join(folder, _MRPC_DEV_IDS))
    rows = []
    for idx, line in enumerate(self._table(path, split)):
      if dev is not None:
        ids = (line.text('#1 ID'), line.text('#2 ID'))
        if (ids in dev) != (split == 'validation'):
          continue
      rows.append(self._row(line, idx))
    if split == 'test':  # Microsoft's file has labels, and GLUE's test split has none
      rows = [{**row, 'label': -1} for row in rows]
    return _checked(rows, path)

  def _dev_ids(self, path: str) -> set[tuple[bytes, bytes]]:
    ids = set()
    for where, line in self.lines(path, 'validation', 'two ids'):
      first, *rest = line.encode('utf-8').split(b'\t')
      if not rest:
        raise errors.DataError(f'{where}: expected two ids; found {line[:80]!r}')
      ids.add((first, rest[0]))
    return ids


def _mnli(folder: str = 'MNLI', **files: str) -> Format:
  return Format(
    folder,
    classes=('entailment', 'neutral', 'contradiction'),
    files=files,
    label='gold_label',
    texts={'premise': 'sentence1', 'hypothesis': 'sentence2'},
  )


# The keys are the names of TFDS configurations.
FORMATS: Mapping[str, Format] = {
  'cola': Format(
    'CoLA',
    classes=('unacceptable', 'acceptable'),
    label='is_acceptable',
    texts={'sentence': 'sentence'},
    columns=('source', 'is_acceptable', 'mark', 'sentence'),
  ),
  'sst2': Format('SST-2', classes=('negative', 'positive'), texts={'sentence': 'sentence'}),
  'mrpc': MrpcFormat(
    'MRPC',
    classes=('not_equivalent', 'equivalent'),
    label='Quality',
    texts={'sentence1': '#1 String', 'sentence2': '#2 String'},
  ),
  'qqp': Format(
    'QQP',
    classes=('not_duplicate', 'duplicate'),
    label='is_duplicate',
    texts={'question1': 'question1', 'question2': 'question2'},
  ),
  'stsb': Format('STS-B', classes=(), label='score'),
  'mnli': _mnli(
    train='train.tsv',
    validation_matched='dev_matched.tsv',
    validation_mismatched='dev_mismatched.tsv',
    test_matched='test_matched.tsv',
    test_mismatched='test_mismatched.tsv',
  ),
  'mnli_matched': _mnli(validation='dev_matched.tsv', test='test_matched.tsv'),
  'mnli_mismatched': _mnli(validation='dev_mismatched.tsv', test='test_mismatched.tsv'),
  'qnli': Format(
    'QNLI',
    classes=ENTAILMENT,
    texts={'question': 'question', 'sentence': 'sentence'},
  ),
  'rte': Format('RTE', classes=ENTAILMENT),
  'wnli': Format('WNLI', classes=('not_entailment', 'entailment')),
  'ax': _mnli('diagnostic', test='diagnostic.tsv'),
}


def _checked(rows: list[Row], path: str) -> list[Row]:
  if not rows:
    raise errors.DataError(f'{path}: expected one row per line; found no rows')
  return rows
