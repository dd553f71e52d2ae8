"""Identifies the data of a run, so that a start with other data is refused by name.

For each task, a checkpoint records its rate, the number of its examples, and digests of
the examples and of all that they depend on. Equal examples are the same data, whatever
else has changed. If they differ, the other digests give the reason.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# The kept digits of a digest, so that two thousand tasks take some 200 kB.
_DIGITS = 12
# The parts of an identity, in the order in which they explain a difference.
_CAUSES = {
  'rows': 'the rows of its source have changed',
  'definition': 'its preprocessors or features have changed',
  'vocabulary': 'VOCABULARY has other contents',
  'packages': 'SeqIO, TensorFlow or Python has another version',
}


def described(
  identity: Mapping[str, str], rate: float, examples: int | None, digest: str | None
) -> list[Any]:
  """Describes the data of a task, as JSON.

  Args:
    identity: holds digests of what the examples depend on (`digests.Identity`).
    rate: is the task's rate in the mixture.
    examples: is their number; None for a stream.
    digest: is the digest of the materialised examples; None for a stream.
  """
  causes = '-'.join(identity[name][:_DIGITS] for name in _CAUSES)
  return [rate, examples, digest and digest[:_DIGITS], causes]


def differences(saved: Any, now: Mapping[str, Any]) -> Iterator[str]:
  """Says of each task whose data are not what they were what has changed.

  Args:
    saved: holds the tasks' descriptions in a checkpoint, by name.
    now: describes them as they are.
  """
  if not isinstance(saved, Mapping) or not all(map(_is_described, saved.values())):
    yield 'the checkpoint does not say what its data were'
    return
  for name in sorted(saved.keys() | now.keys()):
    if name not in now:
      yield f'{name} was trained on and is not in the mixture, or has no training data'
    elif name not in saved:
      yield f'{name} is new in the mixture'
    elif reason := _difference(saved[name], now[name]):
      yield f'{name}: {reason}'


def _difference(saved: list[Any], now: list[Any]) -> str | None:
  rate, examples, digest, causes = saved
  if rate != now[0]:
    return f'its rate was {rate:g} and is {now[0]:g}'
  same_examples = digest == now[2] if digest and now[2] else causes == now[3]
  if same_examples:
    return None
  pairs = zip(_CAUSES.values(), causes.split('-'), now[3].split('-'), strict=False)
  reasons = [text for text, before, after in pairs if before != after]
  sizes = '' if examples == now[1] else f' (it had {examples} examples and has {now[1]})'
  return (reasons[0] if reasons else 'its examples have changed') + sizes


def _is_described(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) == 4
    and isinstance(value[0], int | float)
    and isinstance(value[1], int | None)
    and isinstance(value[2], str | None)
    and isinstance(value[3], str)
  )
