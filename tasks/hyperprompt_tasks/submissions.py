"""What the SuperGLUE and GLUE servers take: files, fields and label strings.

They are those of jiant, the benchmarks' own toolkit. What is no label counts as the first
one, as a server refuses a file with anything else in it; how often is returned.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import errors

# An example of a test split, strings in it as bytes, and the text that a model answers.
Answer = tuple[Mapping[str, Any], str]

_ENTAILMENT = ('entailment', 'not_entailment')
_CB = ('entailment', 'contradiction', 'neutral')
_MNLI = ('entailment', 'neutral', 'contradiction')
_NUMBERS = (0, 1)
_LOWER = ('false', 'true')


@dataclasses.dataclass(frozen=True)
class File:
  """One file of a submission.

  Attributes:
    name: that the server expects.
    task: the SeqIO task whose test split is answered.
    rows: how many examples that has.
    labels: what stands in the file for each class; None for the answer itself.
  """

  name: str
  task: str
  rows: int
  labels: tuple[Any, ...] | None


# By mixture; row counts are those of the official test splits (spec 2, 4 and 5).
_FILES = {
  'hp_super_glue_v102_proportional': tuple(
    File(f'{name}.jsonl', f'hp_super_glue_{task}', rows, labels)
    for name, task, rows, labels in (
      ('BoolQ', 'boolq_v102', 3_245, _LOWER),
      ('CB', 'cb_v102', 250, _CB),
      ('COPA', 'copa_v102', 500, _NUMBERS),
      ('MultiRC', 'multirc_v102', 9_693, _NUMBERS),
      ('ReCoRD', 'record_v102', 10_000, None),
      ('RTE', 'rte_v102', 3_000, _ENTAILMENT),
      ('WiC', 'wic_v102', 1_400, _LOWER),
      ('WSC', 'wsc_v102_simple_eval', 146, ('False', 'True')),
      ('AX-b', 'axb_v102', 1_104, _ENTAILMENT),
      ('AX-g', 'axg_v102', 356, _ENTAILMENT),
    )
  ),
  'hp_glue_v002_proportional': tuple(
    File(f'{name}.tsv', f'hp_glue_{task}_v002', rows, labels)
    for name, task, rows, labels in (
      ('CoLA', 'cola', 1_063, _NUMBERS),
      ('SST-2', 'sst2', 1_821, _NUMBERS),
      ('MRPC', 'mrpc', 1_725, _NUMBERS),
      ('STS-B', 'stsb', 1_379, None),
      ('QQP', 'qqp', 390_965, _NUMBERS),
      ('MNLI-m', 'mnli_matched', 9_796, _MNLI),
      ('MNLI-mm', 'mnli_mismatched', 9_847, _MNLI),
      ('QNLI', 'qnli', 5_463, _ENTAILMENT),
      ('RTE', 'rte', 3_000, _ENTAILMENT),
      ('AX', 'ax', 1_104, _MNLI),
    )
  ),
}


def files(mixture: str) -> tuple[File, ...]:
  """Returns the files of a benchmark's submission.

  GLUE's server wants WNLI.tsv besides, which no task of the mixture answers.

  Raises:
    TaskError: the mixture is no benchmark's.
  """
  if mixture not in _FILES:
    raise errors.TaskError(
      f'{mixture} is no benchmark with a server: there are {", ".join(_FILES)}'
    )
  return _FILES[mixture]


def check_rows(file: File, rows: int) -> None:
  """Checks how many examples a test split has.

  Raises:
    DataError: they are more or fewer than the server expects.
  """
  if rows != file.rows:
    raise errors.DataError(
      f'{file.task}: the test split in use has {rows} examples; the server expects '
      f'{file.rows} in {file.name}: use the official test split'
    )


def contents(file: File, answers: Sequence[Answer]) -> tuple[str, int]:
  """Returns what a file holds, in the order of the official test split.

  Args:
    file: which.
    answers: to all examples of the test split, in any order.

  Returns:
    The text of the file, and how many answers are none of its labels.

  Raises:
    DataError: there are more or fewer answers than the server expects.
  """
  check_rows(file, len(answers))
  task = seqio.TaskRegistry.get(file.task)
  found, strange = [], 0
  for example, text in answers:
    value = task.postprocess_fn(text, example=example, is_target=False)
    if isinstance(value, Mapping):
      value = value['value']
    if file.labels is not None:
      known = 0 <= value < len(file.labels)
      strange += not known
      value = file.labels[value if known else 0]
    found.append((example, value))
  if 'idx' in found[0][0]:
    found.sort(key=lambda pair: int(pair[0]['idx']))
    if file.name.endswith('.tsv'):
      return _table(found), strange
    return _lines({'idx': int(of['idx']), 'label': value} for of, value in found), strange
  if 'idx/answer' in found[0][0]:
    return _lines(_multirc(found)), strange
  found.sort(key=lambda pair: int(pair[0]['idx/query']))
  return _lines(
    {'idx': int(of['idx/query']), 'label': value} for of, value in found
  ), strange


def _lines(objects: Any) -> str:
  return ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in objects)


def _table(found: Sequence[tuple[Mapping[str, Any], Any]]) -> str:
  show = lambda value: f'{value:.3f}' if isinstance(value, float) else str(value)
  rows = [f'{int(of["idx"])}\t{show(value)}' for of, value in found]
  return '\n'.join(['index\tprediction', *rows, ''])


def _multirc(found: Sequence[tuple[Mapping[str, Any], Any]]) -> list[dict[str, Any]]:
  """MultiRC's answers under their questions, under their paragraphs."""
  number = lambda example, name: int(example[f'idx/{name}'])
  paragraphs: dict[int, dict[int, list[dict[str, int]]]] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  in_order = sorted(
    found,
    key=lambda pair: tuple(
      number(pair[0], name) for name in ('paragraph', 'question', 'answer')
    ),
  )
  for example, value in in_order:
    questions = paragraphs[number(example, 'paragraph')]
    questions[number(example, 'question')].append(
      {'idx': number(example, 'answer'), 'label': value}
    )
  return [
    {
      'idx': paragraph,
      'passage': {
        'questions': [{'idx': q, 'answers': answers} for q, answers in questions.items()]
      },
    }
    for paragraph, questions in paragraphs.items()
  ]
