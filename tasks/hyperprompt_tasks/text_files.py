"""The source of an own task: the examples in its files, held in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import errors, file_readers, layouts, sources
from hyperprompt_tasks.layouts import INPUTS, TARGETS

SPLITS = ('train', 'validation', 'test')
REFERENCES = 'references'
# T5 writes this target where nobody knows the target.
UNKNOWN = '<unk>'

# The inputs of an example and its targets: several where a row has a list of them.
_Example = tuple[str, tuple[str, ...]]


class TextFileSource(sources.ColumnSource):
  """The files of one task. Nothing is read before it is asked for.

  Args:
    paths: This is the file, the files or the pattern of each split, which
      `file_readers.expand` describes.
    labels: This is the closed set of targets, or None for any text.
    layout: Where inputs and targets are in a row.
    numbers: Whether all targets are numbers.

  Raises:
    DataError: A split or a format of a file does not exist, or a pattern matches nothing.
  """

  def __init__(
    self,
    paths: Mapping[str, str | Sequence[str]],
    labels: Sequence[str] | None = None,
    layout: layouts.Layout | None = None,
    numbers: bool = False,
  ):
    if unknown := [str(split) for split in paths if split not in SPLITS]:
      raise errors.DataError(
        f'{paths[unknown[0]]}: {unknown[0]} is no split; there are {", ".join(SPLITS)}'
      )
    super().__init__(splits=[split for split in SPLITS if split in paths])
    self._layout = layout or layouts.Layout()
    self._files = {split: file_readers.expand(paths[split]) for split in self.splits}
    self._labels = labels
    self._numbers = numbers
    self._columns: dict[str, sources.Columns] = {}
    for path in (path for files in self._files.values() for path in files):
      if not file_readers.is_known(path):
        raise errors.DataError(
          f'{path}: expected a file {", ".join(file_readers.FORMATS)}, or one of these '
          'with .gz'
        )
      if not (self._layout.has_header or file_readers.has_lines(path)):
        raise errors.DataError(f'{path}: columns have names; numbers are for .csv and .tsv')

  def num_training_examples(self) -> int:
    """Returns the number of training examples: 0 if no file holds any."""
    return self.num_input_examples('train') or 0 if 'train' in self.splits else 0

  def check(self) -> None:
    """Reads all files.

    Raises:
      DataError: A file cannot be used; the error names the place.
    """
    self._load()

  def has_references(self) -> bool:
    """Returns whether any example of any split has several targets; reads all files."""
    return any(REFERENCES in columns for columns in self._load().values())

  @override
  def columns(self, split: str) -> sources.Columns:
    """Returns the strings `inputs` and `targets` of a split.

    Where any example has several targets, `targets` is the first, and the string vectors
    `references` are all of them.

    Raises:
      DataError: A file cannot be used; the error names the place.
    """
    return self._load()[split]

  def _load(self) -> Mapping[str, sources.Columns]:
    """Returns the columns of all splits, which have the same names."""
    if not self._columns:
      examples = {split: list(self._examples_of(split)) for split in self.splits}
      for split, rows in examples.items():
        if not rows:
          raise errors.DataError(
            f'{", ".join(self._files[split])}: expected examples; found none'
          )
      several = any(len(targets) > 1 for rows in examples.values() for _, targets in rows)
      self._columns = {
        split: _to_columns(rows, several) for split, rows in examples.items()
      }
    return self._columns

  def _examples_of(self, split: str) -> Iterator[_Example]:
    layout = self._layout
    for path in self._files[split]:
      for where, row in file_readers.read(path, layout.columns, layout.has_header):
        inputs = layout.inputs_of(where, row)
        if split == 'test' and not layout.has_targets(row):
          yield inputs, (UNKNOWN,)
          continue
        targets = layout.targets_of(where, row, self._labels)
        if self._numbers:
          _check_number(where, targets)
        yield inputs, targets


def _to_columns(examples: Sequence[_Example], several: bool) -> sources.Columns:
  """Returns the columns of a split, with all references where `several` is set."""
  columns: dict[str, Any] = {
    INPUTS: tf.constant([inputs for inputs, _ in examples], tf.string),
    TARGETS: tf.constant([targets[0] for _, targets in examples], tf.string),
  }
  if several:
    columns[REFERENCES] = tf.RaggedTensor.from_row_lengths(
      tf.constant([one for _, targets in examples for one in targets], tf.string),
      [len(targets) for _, targets in examples],
    )
  return columns


def _check_number(where: str, targets: Sequence[str]) -> None:
  if len(targets) > 1:
    raise errors.DataError(f'{where}: expected one number as target; found a list')
  try:
    is_finite = abs(float(targets[0])) < float('inf')
  except ValueError:
    is_finite = False
  if not is_finite:
    raise errors.DataError(
      f'{where}: expected a finite number as target; found {targets[0][:80]!r}'
    )
