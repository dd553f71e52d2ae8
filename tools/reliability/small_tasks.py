"""Official files of CB, COPA and WSC with few rows, so that a short run has many epochs.

The readers and preprocessors are those of SuperGLUE. The rows are numbered sentences.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]


def _cb(number: int) -> Row:
  labels = ('entailment', 'contradiction', 'neutral')
  return {
    'premise': f'Premise {number}' + ' so' * (number % 4),
    'hypothesis': f'H {number}',
    'label': labels[number % 3],
  }


def _copa(number: int) -> Row:
  return {
    'premise': f'P {number}',
    'choice1': f'A {number}',
    'choice2': 'B' * (1 + number % 5),
    'question': ('cause', 'effect')[number % 2],
    'label': number % 2,
  }


def _wsc(number: int) -> Row:
  noun = f'Vera{number}'
  return {
    'text': f'{noun} left because she slept .',
    'target': {
      'span1_text': noun,
      'span1_index': 0,
      'span2_text': 'she',
      'span2_index': 3,
    },
    'label': True,
  }


# The maker of a row, and the number of training rows. CB has 250; COPA and WSC have 400 and
# 554, and fewer here, so that a run of 640 examples begins several epochs of them.
TASKS: Mapping[str, tuple[Callable[[int], Row], int]] = {
  'CB': (_cb, 250),
  'COPA': (_copa, 96),
  'WSC': (_wsc, 32),
}
_VALIDATION_ROWS = 8


def write(folder: pathlib.Path) -> None:
  """Writes the files as `SUPER_GLUE_DIR` holds them."""
  for task, (make, rows) in TASKS.items():
    (folder / task).mkdir(parents=True)
    for file, numbers in (
      ('train', range(rows)),
      ('val', range(rows, rows + _VALIDATION_ROWS)),
    ):
      lines = [json.dumps({**make(number), 'idx': number}) for number in numbers]
      text = '\n'.join(lines) + '\n'
      (folder / task / f'{file}.jsonl').write_text(text, encoding='utf-8')
