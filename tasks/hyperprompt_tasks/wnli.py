"""WNLI in the form of WSC: the target is the noun that the marked pronoun stands for.

The hypothesis repeats a clause of the premise with a noun in the pronoun's place. So the
pronoun is the one whose neighbours the hypothesis repeats, and the noun stands between
them (section 3.4 of docs/reference/task_specification.md).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

_PRONOUNS = frozenset(['he', 'she', 'they', 'it', 'her', 'his', 'their', 'them', 'him'])
_ARTICLES = ('a', 'an', 'the')
_LAST_MARK = re.compile('[.,?!]$')


@dataclasses.dataclass(frozen=True)
class _Word:
  """A word in the form in which it is compared, and its place in the text."""

  text: str
  place: int


def recast(premise: str, hypothesis: str) -> tuple[str, str]:
  """Returns the premise with its pronoun in stars, and the noun of the hypothesis.

  Raises:
    ValueError: if the premise has no pronoun, or the hypothesis does not hold the noun.
  """
  words, others = _words(premise), [word.text for word in _words(hypothesis)]
  texts = [word.text for word in words]
  best: tuple[int, int, str] | None = None
  for i, word in enumerate(words):
    if word.text in _PRONOUNS:
      score, candidate = _candidate(texts[:i], texts[i + 1 :], others)
      if best is None or score > best[0]:
        best = (score, word.place, candidate)
  if best is None:
    raise ValueError(f'WNLI: no pronoun in {premise!r}')
  _, place, candidate = best
  return _marked(premise, place), _noun(candidate, hypothesis)


@seqio.map_over_dataset
def wnli(row: Mapping[str, Any]) -> dict[str, Any]:
  """Makes WNLI's text in the form of WSC, for evaluation.

  Args:
    row: has strings `sentence1 sentence2`, `label` int64 and `idx` int32.

  Returns:
    Strings `inputs targets premise hypothesis`, `label`, `idx`. The pipeline fails with
    InvalidArgumentError where `recast` raises.
  """
  premise, hypothesis = row['sentence1'], row['sentence2']

  def recast_bytes(premise: bytes, hypothesis: bytes) -> tuple[bytes, bytes]:
    text, noun = recast(premise.decode('utf-8'), hypothesis.decode('utf-8'))
    return f'wsc: {text}'.encode(), noun.encode()

  # A pipeline with Python in it cannot be saved in the middle. Nobody trains on this one,
  # and TensorFlow has no counterpart of the loops and regular expressions of `recast`.
  inputs, targets = tf.numpy_function(
    recast_bytes, [premise, hypothesis], [tf.string, tf.string]
  )
  return {
    'inputs': tf.ensure_shape(inputs, []),
    'targets': tf.ensure_shape(targets, []),
    'premise': premise,
    'hypothesis': hypothesis,
    'label': row['label'],
    'idx': row['idx'],
  }


def _words(text: str) -> list[_Word]:
  """Returns the words of a text in lower case, each without one last mark."""
  words = [
    _Word(_LAST_MARK.sub('', part), place)
    for place, part in enumerate(text.lower().split(' '))
  ]
  return [word for word in words if word.text]


def _candidate(
  before: Sequence[str], after: Sequence[str], hypothesis: Sequence[str]
) -> tuple[int, str]:
  """Returns the number of a pronoun's neighbours that the hypothesis repeats, and the noun.

  The noun is the part of the hypothesis between these neighbours.
  """
  num_before = _overlap(before[::-1], hypothesis[::-1])
  num_after = _overlap(after, hypothesis)
  left = [re.escape(word) for word in before[len(before) - num_before :]]
  right = [re.escape(word) for word in after[:num_after]]
  score = num_before + num_after
  if not score:
    return 0, ''
  anything = '(.+)'
  patterns = ([*left, anything, *right], [f'^{anything}', *right], [*left, f'{anything}$'])
  for pattern in patterns:
    if match := re.search(' '.join(pattern), ' '.join(hypothesis)):
      return score, match[1]
  return score, ''


def _overlap(words: Sequence[str], hypothesis: Sequence[str]) -> int:
  """Returns the length of the longest prefix of `words` that the hypothesis contains."""
  text, count = ' '.join(hypothesis), 0
  while count < len(words) and ' '.join(words[: count + 1]) in text:
    count += 1
  return count


def _noun(candidate: str, hypothesis: str) -> str:
  """Returns a candidate from its last article on, in the hypothesis's own spelling."""
  words = candidate.split(' ')
  start = max([words.index(article) for article in _ARTICLES if article in words] or [0])
  pattern = ' '.join(f'{re.escape(word)}[.,?!]?' for word in words[start:])
  match = re.search(pattern, hypothesis, re.IGNORECASE)
  if match is None:
    raise ValueError(f'WNLI: {candidate!r} is not in {hypothesis!r}')
  return re.sub("'s?$", '', _LAST_MARK.sub('', match[0]))


def _marked(premise: str, place: int) -> str:
  parts = premise.split(' ')
  word = _LAST_MARK.sub('', parts[place])
  mark = parts[place].removeprefix(word)
  parts[place : place + 1] = [f'*{word}*', mark] if mark else [f'*{word}*']
  return ' '.join(parts)
