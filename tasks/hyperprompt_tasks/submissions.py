"""The files that the SuperGLUE and GLUE servers take, with their fields and labels.

They have the form of jiant, the benchmarks' own toolkit. An answer that is no label is
written as the first label, because a server refuses a file with anything else in it. The
number of such answers is returned.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import errors

# An example of a test split, whose strings are bytes, and the text that a model answers.
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
    name: the server expects this name.
    task: the test split of this SeqIO task is answered.
    rows: the test split has this many examples.
    labels: the file holds these values for the classes; None if it holds the answers.
  """

  name: str
  task: str
  rows: int
  labels: tuple[Any, ...] | None


# The keys are mixtures. Row counts are those of the official test splits.
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

  GLUE's server also wants WNLI.tsv, which no task of the mixture answers.

  Raises:
    TaskError: if the mixture belongs to no benchmark.
  """
  if mixture not in _FILES:
    raise errors.TaskError(
      f'{mixture} is no benchmark with a server: there are {", ".join(_FILES)}'
    )
  return _FILES[mixture]


def check_rows(file: File, rows: int) -> None:
  """Checks the number of examples of a test split.

  Raises:
    DataError: if the server expects more or fewer.
  """
  if rows != file.rows:
    raise errors.DataError(
      f'{file.task}: the test split in use has {rows} examples; the server expects '
      f'{file.rows} in {file.name}: use the official test split'
    )


def contents(file: File, answers: Sequence[Answer]) -> tuple[str, int]:
  """Returns the text of a file, in the order of the official test split.

  Args:
    file: the text is written for this file.
    answers: are the answers to all examples of the test split, in any order.

  Returns:
    The text of the file, and the number of answers that are none of its labels.

  Raises:
    DataError: if there are more or fewer answers than the server expects.
  """
  check_rows(file, len(answers))
  task = seqio.TaskRegistry.get(file.task)
  values, strange = [], 0
  for example, text in answers:
    value = task.postprocess_fn(text, example=example, is_target=False)
    if isinstance(value, Mapping):
      value = value['value']
    if file.labels is not None:
      known = 0 <= value < len(file.labels)
      strange += not known
      value = file.labels[value if known else 0]
    values.append((example, value))
  first, _ = values[0]
  if 'idx/answer' in first:
    return _lines(_multirc(values)), strange
  idx = 'idx' if 'idx' in first else 'idx/query'
  values.sort(key=lambda pair: int(pair[0][idx]))
  if file.name.endswith('.tsv'):
    return _table(values), strange
  lines = ({'idx': int(example[idx]), 'label': value} for example, value in values)
  return _lines(lines), strange


def _lines(objects: Any) -> str:
  return ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in objects)


def _table(values: Sequence[tuple[Mapping[str, Any], Any]]) -> str:
  show = lambda value: f'{value:.3f}' if isinstance(value, float) else str(value)
  rows = [f'{int(example["idx"])}\t{show(value)}' for example, value in values]
  return '\n'.join(['index\tprediction', *rows, ''])


def _multirc(values: Sequence[tuple[Mapping[str, Any], Any]]) -> list[dict[str, Any]]:
  """Returns MultiRC's paragraphs, which hold their questions, which hold their answers."""
  number = lambda example, name: int(example[f'idx/{name}'])
  paragraphs: dict[int, dict[int, list[dict[str, int]]]] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  in_order = sorted(
    values,
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
