"""Makes inputs and targets from the columns of a row."""

import dataclasses
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_tasks import errors, plain_json

INPUTS, TARGETS = 'inputs', 'targets'
FEATURES = (INPUTS, TARGETS)


@dataclasses.dataclass(frozen=True)
class _Part:
  """A literal text, or a column and how its value is formatted."""

  literal: str
  column: str | None
  format: str


@dataclasses.dataclass(frozen=True)
class Template:
  """Makes a text of a row, such as `premise: {premise} hypothesis: {hypothesis}`.

  Attributes:
    parts: are the parts whose concatenation is the text.
  """

  parts: tuple[_Part, ...]

  @classmethod
  def parse(cls, text: str) -> 'Template':
    """Parses Python's format strings: `{column}`, `{column:.1f}`, `{{` for a brace.

    Raises:
      TaskError: if the text is no format string of columns.
    """
    parts = []
    try:
      for literal, column, spec, conversion in string.Formatter().parse(text):
        parts.append(_Part(literal, column, spec or ''))
        if column == '' or conversion or '{' in (spec or ''):
          raise ValueError('expected the name of a column between braces')
    except (ValueError, TypeError) as error:
      raise errors.TaskError(
        f'template {str(text)[:200]!r}: {error}; write it like {{column}} or {{column:.1f}}'
      ) from error
    return cls(tuple(parts))

  @property
  def columns(self) -> list[str]:
    """Returns the columns that the template uses."""
    return [part.column for part in self.parts if part.column is not None]

  def fill(self, where: str, row: Mapping[str, Any]) -> str:
    """Returns the text of a row.

    Raises:
      DataError: if the row lacks a column, or a value does not fit its format.
    """
    text = ''
    for part in self.parts:
      text += part.literal
      if part.column is None:
        continue
      value = _value(where, row, part.column)
      if part.format:
        value = _formatted(where, part, value)
      text += _text(where, part.column, value)
    return text


@dataclasses.dataclass(frozen=True)
class Layout:
  """The columns of a row that hold a task's inputs and targets.

  Attributes:
    inputs: is the column of the inputs, or a template that makes them.
    targets: is the column of the targets, or a template that makes them.
    has_header: whether tables begin with a line of column names.
  """

  inputs: str | Template = INPUTS
  targets: str | Template = TARGETS
  has_header: bool = True

  @property
  def columns(self) -> list[str]:
    """Returns the columns that the layout uses."""
    sources = (self.inputs, self.targets)
    return [
      column
      for source in sources
      for column in (source.columns if isinstance(source, Template) else [source])
    ]

  def inputs_of(self, where: str, row: Mapping[str, Any]) -> str:
    """Returns the inputs of a row.

    Args:
      where: is the place that errors name.
      row: is given as its values by column.

    Raises:
      DataError: if the row lacks a column, or the value is no text that is not blank.
    """
    if isinstance(self.inputs, Template):
      return _checked(where, INPUTS, self.inputs.fill(where, row))
    value = _text(where, self.inputs, _value(where, row, self.inputs))
    return _checked(where, self.inputs, value)

  def has_targets(self, row: Mapping[str, Any]) -> bool:
    """Returns whether a row has a value in each column that its targets need."""
    source = self.targets
    columns = source.columns if isinstance(source, Template) else [source]
    return all(row.get(column) is not None for column in columns)

  def targets_of(
    self, where: str, row: Mapping[str, Any], labels: Sequence[str] | None
  ) -> tuple[str, ...]:
    """Returns the targets of a row: several if the column holds a list.

    Args:
      where: is the place that errors name.
      row: is given as its values by column.
      labels: is the closed set of targets, or None. A value may also be the number of
        a label, from 0, or false and true for the labels 0 and 1.

    Raises:
      DataError: if the row lacks a column, the value is no text that is not blank, or it is
        not one of the labels.
    """
    if isinstance(self.targets, Template):
      name, value = TARGETS, self.targets.fill(where, row)
    else:
      name, value = self.targets, _value(where, row, self.targets)
    if labels is not None:
      return (_label(where, name, value, labels),)
    values = value if isinstance(value, list) and value else [value]
    return tuple(_checked(where, name, _text(where, name, one)) for one in values)


def make(
  task: str,
  columns: Mapping[str, str | int] | None = None,
  templates: Mapping[str, str] | None = None,
) -> Layout:
  """Returns the layout that a user asks for.

  Args:
    task: is the task that errors name.
    columns: are the columns of `inputs` and of `targets`; by default they have these names.
      Numbers from 0 are columns of a table without a line of names.
    templates: are the templates of `inputs` and of `targets`, where given. Numbers between
      braces are columns of a table without a line of names.

  Raises:
    TaskError: if an entry is for neither, for both, or is no column or template.
  """
  columns, templates = dict(columns or {}), dict(templates or {})
  for argument, given in (('columns', columns), ('templates', templates)):
    if unknown := [str(key) for key in given if key not in FEATURES]:
      raise errors.TaskError(
        f'{argument} of task {task}: {", ".join(unknown)[:200]} is neither inputs '
        'nor targets'
      )
  if both := columns.keys() & templates.keys():
    raise errors.TaskError(
      f'task {task}: {", ".join(sorted(both))} has a column and a template; give one'
    )
  parsed = {feature: Template.parse(text) for feature, text in templates.items()}
  numbered = [isinstance(column, int) for column in columns.values()]
  numbered += [name.isdigit() for template in parsed.values() for name in template.columns]
  if any(numbered) and not all(numbered):
    raise errors.TaskError(
      f'columns of task {task}: some are names and some numbers; a table has names or not'
    )
  named = {feature: str(column) for feature, column in columns.items()}
  return Layout(**named, **parsed, has_header=not any(numbered))


def _value(where: str, row: Mapping[str, Any], column: str) -> Any:
  if column not in row:
    held = ', '.join(map(repr, row)) or 'nothing'
    raise errors.DataError(f'{where}: expected {column!r}; found {held[:200]}')
  return row[column]


def _text(where: str, column: str, value: Any) -> str:
  """Returns a text or a finite number as text."""
  if isinstance(value, str):
    return value
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if is_number and math.isfinite(value):
    return str(value)
  raise errors.DataError(
    f'{where}: expected {column!r} to be text; found {plain_json.shown(value)}'
  )


def _checked(where: str, column: str, text: str) -> str:
  if not text.strip():
    raise errors.DataError(
      f'{where}: expected {column!r} to be text; found {plain_json.shown(text)}'
    )
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.DataError(
      f'{where}: expected valid Unicode in {column!r}; {error.reason}'
    ) from error
  return text


def _formatted(where: str, part: _Part, value: Any) -> str:
  try:
    # Tables hold numbers as text; formats that are not of text are of numbers.
    is_of_text = part.format[-1] == 's' or not part.format[-1].isalpha()
    return format(value if is_of_text else float(value), part.format)
  except (ValueError, TypeError, OverflowError) as error:
    raise errors.DataError(
      f'{where}: {plain_json.shown(value)} in {part.column!r} does not fit the format '
      f'{part.format!r}'
    ) from error


def _label(where: str, column: str, value: Any, labels: Sequence[str]) -> str:
  text = value if isinstance(value, str) else plain_json.shown(value)
  if text in labels:
    return text
  number = int(value) if isinstance(value, bool) else value
  if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
    number = int(value)
  if isinstance(number, int) and 0 <= number < len(labels):
    return labels[number]
  raise errors.DataError(
    f'{where}: expected {column!r} to be one of {", ".join(labels)}; found {text[:80]!r}'
  )
