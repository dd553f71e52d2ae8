"""Reads the official SuperGLUE JSONL files into rows in the form of TFDS.

See sections 2 and 3 of docs/reference/task_specification.md. The same changes are made as
in TFDS: labels
become class ids, MultiRC and ReCoRD are flattened, entities and answers are sorted and
distinct, and WSC's spans are repaired.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from typing_extensions import override

from hyperprompt_tasks import errors, official_files, plain_json
from hyperprompt_tasks.official_files import ENTAILMENT, Row

BOOLEAN = ('False', 'True')


@dataclasses.dataclass(frozen=True)
class Fields:
  """A JSON object and its place, which errors name.

  Every method raises DataError where the object lacks `key` or holds another type.
  """

  where: str
  values: Mapping[str, Any]

  def text(self, key: str) -> bytes:
    """Returns the string `key` as UTF-8."""
    value = self._get(key, str, 'a string')
    try:
      return value.encode('utf-8')
    except UnicodeEncodeError as error:
      raise self.error(f'valid Unicode in {key!r}', error.reason) from error

  def integer(self, key: str) -> int:
    """Returns the whole number `key`, which fits 32 bits as in TFDS."""
    value = self._get(key, int, 'a whole number')
    if not -(2**31) <= value < 2**31:
      raise self.error(f'{key!r} to be a whole number of 32 bits', str(value))
    return value

  def child(self, key: str) -> 'Fields':
    """Returns the object `key`."""
    return Fields(self.where, self._get(key, dict, 'an object'))

  def children(self, key: str, *, make_rows: bool = False) -> list['Fields']:
    """Returns the objects in the list `key`; an empty list to make rows of is warned of."""
    values = self._get(key, list, 'a list of objects')
    if not all(isinstance(value, dict) for value in values):
      raise self.error(f'{key!r} to be a list of objects', 'something else in it')
    if make_rows and not values:
      official_files.warn_once(f'{self.where}: left out, as its {key!r} is empty')
    return [Fields(self.where, value) for value in values]

  def label(self, classes: Sequence[str], named: bool, split: str) -> int:
    """Returns the class id of `label`, -1 where the test split has none.

    Args:
      classes: are the names of the classes in id order.
      named: whether the file holds a name; else it holds true and false, or 1 and 0.
      split: is `train`, `validation` or `test`.
    """
    if split == 'test' and 'label' not in self.values:
      return -1
    if named:
      name = self._get('label', str, f'one of {", ".join(classes)}')
      if name in classes:
        return classes.index(name)
      raise self.error(f"'label' to be one of {', '.join(classes)}", repr(name))
    value = self._get('label', int | bool, 'true or false, 1 or 0')
    if value in (0, 1):
      return int(value)
    raise self.error("'label' to be true or false, 1 or 0", plain_json.shown(value))

  def error(self, expected: str, actual: str) -> errors.DataError:
    """Returns an error that names this place and the expected value."""
    return errors.DataError(f'{self.where}: expected {expected}; found {actual[:200]}')

  def _get(self, key: str, kind: Any, expected: str) -> Any:
    if key not in self.values:
      held = ', '.join(map(repr, self.values)) or 'an empty object'
      raise self.error(f'field {key!r} ({expected})', held)
    value = self.values[key]
    # In Python, unlike JSON, true is a whole number.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
      raise self.error(f'{key!r} to be {expected}', plain_json.shown(value))
    return value


def _flat_rows(layout: 'Format', line: Fields, split: str) -> Iterator[Row]:
  yield {
    **{key: line.text(key) for key in layout.texts},
    **{key: line.integer(key) for key in layout.integers},
    'label': line.label(layout.classes, layout.named_labels, split),
    'idx': line.integer('idx'),
  }


def _wsc_rows(layout: 'Format', line: Fields, split: str) -> Iterator[Row]:
  # The file nests the spans under `target`.
  spans = line.child('target')
  flat = dataclasses.replace(line, values={**line.values, **spans.values})
  for row in _flat_rows(layout, flat, split):
    for span in ('span1', 'span2'):
      row[f'{span}_text'] = _repaired_span(
        flat, row['text'], row[f'{span}_text'], row[f'{span}_index']
      )
    yield row


def _repaired_span(line: Fields, text: bytes, span: bytes, index: int) -> bytes:
  """Makes a span a substring of its text where that is possible (section 3.1).

  As in TFDS's wsc.fixed, the first letter takes the case of the text's word at `index`,
  final periods are removed, and a newline becomes a blank. A span that is still no
  substring stays as it was.
  """
  if span in text:
    return span
  words, phrase = text.decode('utf-8').split(), span.decode('utf-8')
  if not 0 <= index < len(words):
    raise line.error(f'a span index below {len(words)}, the number of words', str(index))
  first = phrase[:1].lower() if words[index][0].islower() else phrase[:1].upper()
  repaired = (first + phrase[1:]).rstrip('.').replace('\n', ' ').encode('utf-8')
  return repaired if repaired in text else span


def _multirc_rows(layout: 'Format', line: Fields, split: str) -> Iterator[Row]:
  passage = line.child('passage')
  for question in passage.children('questions', make_rows=True):
    for answer in question.children('answers', make_rows=True):
      yield {
        'paragraph': passage.text('text'),
        'question': question.text('question'),
        'answer': answer.text('text'),
        'label': answer.label(layout.classes, layout.named_labels, split),
        'idx': {
          'paragraph': line.integer('idx'),
          'question': question.integer('idx'),
          'answer': answer.integer('idx'),
        },
      }


def _record_rows(layout: 'Format', line: Fields, split: str) -> Iterator[Row]:
  del layout  # ReCoRD has neither labels nor flat fields.
  passage = line.child('passage')
  text = passage.text('text').decode('utf-8')
  # Offsets count characters and include the last one.
  entities = {
    text[entity.integer('start') : entity.integer('end') + 1]
    for entity in passage.children('entities')
  }
  for query in line.children('qas', make_rows=True):
    unlabelled = split == 'test' and 'answers' not in query.values
    answers = [] if unlabelled else query.children('answers')
    yield {
      'passage': passage.text('text'),
      'query': query.text('query'),
      'entities': [entity.encode('utf-8') for entity in sorted(entities)],
      # UTF-8 sorts as code points do, which is how TFDS sorts.
      'answers': sorted({answer.text('text') for answer in answers}),
      'idx': {'passage': line.integer('idx'), 'query': query.integer('idx')},
    }


@dataclasses.dataclass(frozen=True)
class Format(official_files.Format):
  """The layout of the JSONL files of one TFDS configuration.

  Attributes:
    classes: are the names of the labels in id order; ReCoRD has none.
    files: is the name of the file of each split.
    named_labels: whether the file holds those names.
    texts: a line holds these string features.
    integers: a line holds these int32 features besides `idx`.
    rows: makes the rows of one line, given the format, the line and the
      split.
  """

  classes: tuple[str, ...] = BOOLEAN
  files: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {
      'train': 'train.jsonl',
      'validation': 'val.jsonl',
      'test': 'test.jsonl',
    }
  )
  named_labels: bool = False
  texts: tuple[str, ...] = ()
  integers: tuple[str, ...] = ()
  rows: Callable[['Format', Fields, str], Iterator[Row]] = _flat_rows

  @override
  def read(self, path: str, split: str) -> list[Row]:
    rows: list[Row] = []
    for where, line in self.lines(path, split, 'one JSON object'):
      if line.strip():
        rows.extend(self.rows(self, _parse(line, where), split))
    if not rows:
      raise errors.DataError(f'{path}: expected one JSON object per line; found no rows')
    return rows


# The keys are the names of TFDS configurations.
FORMATS = {
  'boolq': Format('BoolQ', texts=('passage', 'question')),
  'cb': Format(
    'CB',
    classes=('entailment', 'contradiction', 'neutral'),
    named_labels=True,
    texts=('hypothesis', 'premise'),
  ),
  'copa': Format(
    'COPA',
    classes=('choice1', 'choice2'),
    texts=('choice1', 'choice2', 'premise', 'question'),
  ),
  'multirc': Format('MultiRC', rows=_multirc_rows),
  'record': Format('ReCoRD', classes=(), rows=_record_rows),
  'rte': Format(
    'RTE', classes=ENTAILMENT, named_labels=True, texts=('hypothesis', 'premise')
  ),
  'wic': Format(
    'WiC',
    texts=('sentence1', 'sentence2', 'word'),
    integers=('start1', 'end1', 'start2', 'end2'),
  ),
  'wsc.fixed': Format(
    'WSC',
    texts=('text', 'span1_text', 'span2_text'),
    integers=('span1_index', 'span2_index'),
    rows=_wsc_rows,
  ),
  'axb': Format(
    'AX-b',
    classes=ENTAILMENT,
    named_labels=True,
    texts=('sentence1', 'sentence2'),
    files={'test': 'AX-b.jsonl'},
  ),
  'axg': Format(
    'AX-g',
    classes=ENTAILMENT,
    named_labels=True,
    texts=('hypothesis', 'premise'),
    files={'test': 'AX-g.jsonl'},
  ),
}


def _parse(line: str, where: str) -> Fields:
  expected = f'{where}: expected one JSON object'
  try:
    values = plain_json.parse(line)
  except ValueError as error:
    raise errors.DataError(f'{expected}; {error}') from error
  if not isinstance(values, dict):
    raise errors.DataError(f'{expected}; found {plain_json.shown(values)}')
  return Fields(where, values)
