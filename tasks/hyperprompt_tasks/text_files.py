"""Sources of own tasks: the examples of files, held in memory once they are asked for."""

import abc
import dataclasses
import hashlib
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
Example = tuple[str, tuple[str, ...]]
Examples = Mapping[str, Sequence[Example]]


@dataclasses.dataclass(frozen=True)
class Facts:
  """The facts of a task's examples that a start needs before it reads them.

  Attributes:
    sizes: is the number of examples of each split.
    digests: is a digest of the examples of each split.
    several: whether any example has several targets.
  """

  sizes: Mapping[str, int]
  digests: Mapping[str, str]
  several: bool

  @classmethod
  def from_examples(cls, examples: Examples) -> 'Facts':
    """Returns the facts about examples by split."""
    return cls(
      {split: len(rows) for split, rows in examples.items()},
      {split: _digest(rows) for split, rows in examples.items()},
      any(len(targets) > 1 for rows in examples.values() for _, targets in rows),
    )


def _digest(examples: Sequence[Example]) -> str:
  digest = hashlib.blake2b(digest_size=16)
  for inputs, targets in examples:
    for text in (inputs, *targets):
      data = text.encode()
      digest.update(b'%d ' % len(data))
      digest.update(data)
    digest.update(b'.')
  return digest.hexdigest()


class TextSource(sources.ColumnSource):
  """Examples of texts, which are read when they are first asked for.

  Args:
    splits: are the splits.
    files: the source reads these files, which it shares with no other source.
    reading: describes how the files are read.
  """

  def __init__(self, splits: Sequence[str], files: Sequence[str] = (), reading: str = ''):
    super().__init__(splits=splits)
    self.files = files
    self.reading = reading
    self._facts: Facts | None = None
    self._columns: dict[str, sources.Columns] = {}

  @abc.abstractmethod
  def read(self) -> Examples:
    """Returns the examples of all splits; each has one at least.

    Raises:
      DataError: if a file cannot be used; the error names the place.
    """

  @property
  def facts(self) -> Facts:
    """Returns the facts, for which all is read unless they have been set."""
    if self._facts is None:
      self._facts = Facts.from_examples(self.read())
    return self._facts

  @facts.setter
  def facts(self, facts: Facts) -> None:
    self._facts = facts

  def digest(self, split: str) -> str:
    """Returns a digest of the columns of a split."""
    return self.facts.digests[split] + REFERENCES * self.facts.several

  @override
  def columns(self, split: str) -> sources.Columns:
    """Returns the strings `inputs` and `targets` of a split.

    Where any example of any split has several targets, `targets` is the first, and the
    string vectors `references` are all of them.

    Raises:
      DataError: if a file cannot be used; the error names the place.
    """
    if not self._columns:
      examples = self.read()
      self._facts = self._facts or Facts.from_examples(examples)
      self._columns = {
        name: _to_columns(rows, self._facts.several) for name, rows in examples.items()
      }
    return self._columns[split]

  @override
  def num_input_examples(self, split: str) -> int:
    return self.facts.sizes[split]


class TextFileSource(TextSource):
  """The files of one task.

  Args:
    paths: is the file, the files or the pattern of each split, which
      `file_readers.expand` describes.
    labels: is the closed set of targets, or None for any text.
    layout: where inputs and targets are in a row.
    numbers: whether all targets are numbers.

  Raises:
    DataError: if a split or a format of a file does not exist, or a pattern matches
      nothing.
  """

  def __init__(
    self,
    paths: Mapping[str, str | Sequence[str]],
    labels: Sequence[str] | None = None,
    layout: layouts.Layout | None = None,
    numbers: bool = False,
  ):
    self._layout = layout or layouts.Layout()
    self._files = files_of_splits(paths, self._layout)
    super().__init__(
      splits=[*self._files],
      files=[path for files in self._files.values() for path in files],
      reading=repr((self._files, self._layout, labels, numbers)),
    )
    self._labels = labels
    self._numbers = numbers

  @override
  def read(self) -> Examples:
    examples = {split: list(self._examples_of(split)) for split in self.splits}
    for split, rows in examples.items():
      if not rows:
        raise errors.DataError(
          f'{", ".join(self._files[split])}: expected examples; found none'
        )
    return examples

  def _examples_of(self, split: str) -> Iterator[Example]:
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


def files_of_splits(
  paths: Mapping[str, str | Sequence[str]], layout: layouts.Layout
) -> dict[str, list[str]]:
  """Returns the files of each split, in the order of the splits.

  Args:
    paths: is the file, the files or the pattern of each split.
    layout: where inputs and targets are in a row.

  Raises:
    DataError: if a split or a format of a file does not exist, or a pattern matches
      nothing.
  """
  if unknown := [str(split) for split in paths if split not in SPLITS]:
    raise errors.DataError(
      f'{paths[unknown[0]]}: {unknown[0]} is no split; there are {", ".join(SPLITS)}'
    )
  files = {split: file_readers.expand(paths[split]) for split in SPLITS if split in paths}
  for path in (path for of_split in files.values() for path in of_split):
    if not file_readers.is_known(path):
      raise errors.DataError(
        f'{path}: expected a file {", ".join(file_readers.FORMATS)}, or one of these '
        'with .gz'
      )
    if not (layout.has_header or file_readers.has_lines(path)):
      raise errors.DataError(f'{path}: columns have names; numbers are for .csv and .tsv')
  return files


def _to_columns(examples: Sequence[Example], several: bool) -> sources.Columns:
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
