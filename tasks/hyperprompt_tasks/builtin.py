"""A mixture that needs no download: string functions on the same strings.

All tasks share their inputs and differ in their outputs, so a model must tell the tasks
apart to do well. From easy to hard, the output is one letter of the input, a copy, a fixed
permutation of positions, a map of letters, or a sort.
"""

import collections
import functools
import string
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import metrics, registration, sources, task_lists

ALPHABET = string.ascii_lowercase[:8]
LENGTH = 6
NUM_EXAMPLES = {'train': 8192, 'validation': 128}
_SEED = 0
_PREFIX = 'hp_builtin'


def _successor(text: str) -> str:
  return ''.join(ALPHABET[(ALPHABET.index(c) + 1) % len(ALPHABET)] for c in text)


FUNCTIONS: dict[str, Callable[[str], str]] = {
  'first': lambda text: text[0],
  'last': lambda text: text[-1],
  'max': max,
  'copy': lambda text: text,
  'reverse': lambda text: text[::-1],
  'rotate': lambda text: text[1:] + text[0],
  'successor': _successor,
  'sort': lambda text: ''.join(sorted(text)),
}

TASKS = task_lists.TaskList(
  tasks=tuple(FUNCTIONS),
  scores={name: ((f'{_PREFIX}_{name}', 'accuracy'),) for name in FUNCTIONS},
)


@functools.cache
def _strings(split: str) -> Sequence[str]:
  """Returns the strings of a split, which are distinct and not in the other split."""
  # NumPy promises that the stream of RandomState never changes.
  codes = np.random.RandomState(_SEED).permutation(len(ALPHABET) ** LENGTH)
  start = 0 if split == 'validation' else NUM_EXAMPLES['validation']
  codes = codes[start : start + NUM_EXAMPLES[split]]
  places = len(ALPHABET) ** np.arange(LENGTH)
  digits = codes[:, None] // places % len(ALPHABET)
  return [''.join(ALPHABET[digit] for digit in row) for row in digits]


class BuiltinSource(sources.ColumnSource):
  """Inputs `NAME: STRING` and the function's value as targets."""

  def __init__(self, name: str):
    super().__init__(splits=tuple(NUM_EXAMPLES), performs_internal_shuffling=True)
    self._name = name

  @override
  def columns(self, split: str) -> sources.Columns:
    function = FUNCTIONS[self._name]
    return {
      'inputs': tf.constant([f'{self._name}: {text}' for text in _strings(split)]),
      'targets': tf.constant([function(text) for text in _strings(split)]),
    }

  @override
  def num_input_examples(self, split: str) -> int:
    return NUM_EXAMPLES[split]


def chance(task_name: str) -> float:
  """Returns the accuracy, x 100, of the best constant answer on the validation split.

  Args:
    task_name: is the name of a task in the built-in mixture, such as `reverse` or
      `hp_builtin_reverse`.

  Raises:
    KeyError: if there is no such task.
  """
  function = FUNCTIONS[task_name.removeprefix(f'{_PREFIX}_')]
  targets = collections.Counter(map(function, _strings('validation')))
  return 100 * max(targets.values()) / targets.total()


for _name in FUNCTIONS:
  registration.add_task(
    f'{_PREFIX}_{_name}',
    source=BuiltinSource(_name),
    text=[],
    task_list=TASKS,
    conditioned_task=_name,
    metric_fns=[metrics.accuracy],
  )

registration.add_mixture(_PREFIX, {f'{_PREFIX}_{name}': 1.0 for name in FUNCTIONS})
