"""Cases for Hypothesis: seeds with values exchanged, cut, spliced and damaged."""

import json
from typing import Any

from hypothesis import strategies as st

from tools.fuzz.case import ODD, Target

_NUMBERS = (0, -1, 1, 2, 255, 2**31, 2**32, 2**62, 2**63, 10**18, 10**40, 0.5, 1e308)
_SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.sampled_from(_NUMBERS),
  st.integers(),
  st.floats(),
  st.text(max_size=8),
  st.sampled_from(('', '..', '/etc', 'a/../../b', 'x' * 3_000, '\n', '\x1b[2J', '\ud800')),
)
_VALUES = st.recursive(
  _SCALARS,
  lambda values: (
    st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
  ),
  max_leaves=5,
)


def cases(target: Target) -> st.SearchStrategy[bytes]:
  """Returns the strategy for cases of a target."""
  damaged = _damaged(target)
  return st.one_of(damaged, _exchanged(target)) if target.is_json else damaged


@st.composite
def _damaged(draw: Any, target: Target) -> bytes:
  """Draws a seed with edits: parts removed, repeated or overwritten, words inserted."""
  case = bytearray(draw(st.sampled_from(target.seeds)))
  words = st.sampled_from((*target.words, *ODD)) | st.binary(max_size=8)
  for _ in range(draw(st.integers(0, 4))):
    start = draw(st.integers(target.prefix, max(target.prefix, len(case))))
    stop = min(len(case), start + draw(st.sampled_from((0, 0, 1, 1, 2, 8, 64, 10**6))))
    edit = draw(st.integers(0, 3))
    if edit == 0:
      case[start:stop] = draw(words)
    elif edit == 1:
      del case[start:stop]
    elif edit == 2:
      case[start:start] = case[start:stop]
    elif start < len(case):
      case[start] ^= 1 << draw(st.integers(0, 7))
  return bytes(case)


@st.composite
def _exchanged(draw: Any, target: Target) -> bytes:
  """Draws a seed of JSON, or of JSON lines, with one or two values exchanged."""
  seed = draw(st.sampled_from(target.seeds))
  prefix, text = seed[: target.prefix], seed[target.prefix :]
  lines = [text] if _is_json(text) else text.split(b'\n')
  number = draw(
    st.sampled_from([n for n, line in enumerate(lines) if _is_json(line)] or [-1])
  )
  if number < 0:
    return seed
  value = json.loads(lines[number])
  for _ in range(draw(st.integers(1, 2))):
    value = _with_another(draw, value)
  changed = json.dumps(value, ensure_ascii=draw(st.booleans()))
  lines[number] = changed.encode('utf-8', 'surrogatepass')
  return prefix + b'\n'.join(lines)


def _is_json(text: bytes) -> bool:
  try:
    json.loads(text)
  except ValueError:
    return False
  return True


def _with_another(draw: Any, value: Any) -> Any:
  """Returns a JSON value with a part exchanged or removed."""
  if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
    return draw(_VALUES)
  keys = list(value) if isinstance(value, dict) else list(range(len(value)))
  key = draw(st.sampled_from(keys))
  changed = value.copy()
  what = draw(st.integers(0, 9))
  if what == 0:
    del changed[key]
  elif what == 1 and isinstance(changed, dict):
    changed[draw(st.text(max_size=8))] = changed.pop(key)
  else:
    changed[key] = _with_another(draw, value[key])
  return changed
