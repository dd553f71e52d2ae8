"""Turns texts of a model into the values that metrics compare.

The functions for SuperGLUE and GLUE follow docs/reference/task_specification.md. SeqIO
calls each with the decoded text, with the example, whose strings are bytes, and with
whether the text is the target.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# These words do not change which noun a phrase stands for (section 3.3).
_DETERMINERS = frozenset(
  [
    *('a', 'an', 'few', 'her', 'his', 'each', 'every', 'many', 'much', 'my', 'our'),
    *('some', 'that', 'the', 'their', 'these', 'this', 'those', 'which', 'whose'),
    'your',
  ]
)


def class_id(text: str, *, classes: Sequence[str], **_: Any) -> int:
  """Returns the index of `text` in `classes`, or -1 if it is not one of them."""
  return classes.index(text) if text in classes else -1


def number(text: str, **_: Any) -> float:
  """Returns the number that Python's `float` makes of `text`, or -1 if it makes none."""
  try:
    return float(text)
  except ValueError:
    return -1.0


def finite_number(text: str, **_: Any) -> float:
  """Returns the finite number that `text` is, or -1 if it is none."""
  value = number(text)
  return value if math.isfinite(value) else -1.0


def references(
  text: str, *, example: Mapping[str, Any], is_target: bool = False
) -> str | list[str]:
  """Returns all references of a target as a list, and a prediction as it is."""
  if not is_target:
    return text
  return [reference.decode('utf-8') for reference in example['references']]


def multirc(
  text: str, *, classes: Sequence[str], example: Mapping[str, Any], **_: Any
) -> dict[str, Any]:
  """Returns the class id as `value` and the question's number as `group`."""
  return {
    'value': class_id(text, classes=classes),
    'group': int(example['idx/question']),
  }


def record(
  text: str, *, example: Mapping[str, Any], is_target: bool = False
) -> dict[str, Any]:
  """Returns the text, for a target all answers, as `value` and the query as `group`."""
  group = (int(example['idx/passage']), int(example['idx/query']))
  if is_target:
    return {'value': [a.decode('utf-8') for a in example['answers']], 'group': group}
  return {'value': text, 'group': group}


def wsc(text: str, *, example: Mapping[str, Any], is_target: bool = False) -> int:
  """Returns a target's label; 1 if a prediction names the proposed referent, else 0.

  An empty prediction gives -1 (section 3.3).
  """
  if is_target:
    return int(example['label'])
  referent = _clean(example['targets_pretokenized'].decode('utf-8'))
  predicted = _clean(text)
  if not predicted:
    return -1
  # `Bob` is not `Bob's hat`.
  if ("'" in predicted) != ("'" in referent):
    return 0
  predicted_words, words = set(predicted.split(' ')), set(referent.split(' '))
  return int(predicted_words <= words or words <= predicted_words)


def _clean(phrase: str) -> str:
  words = phrase.strip().lower().split(' ')
  return ' '.join(word for word in words if word not in _DETERMINERS)
