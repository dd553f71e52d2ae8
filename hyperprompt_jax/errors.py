"""The error of a user's mistake."""

import reprlib
from collections.abc import Sequence
from typing import Any

_LONGEST = 1_000
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


class UserError(ValueError):
  """A mistake of the user's: one line that names the thing and what to do about it.

  The command line prints the line without a traceback and exits with status 2.

  Args:
    message: the line; what it quotes of files and of others' names may hold anything, so
      it is made one of what a terminal can show.
    table: lines that go with it.
  """

  def __init__(self, message: str, table: Sequence[str] = ()):
    super().__init__('\n'.join(map(_line, (message, *table))))


def _line(text: str) -> str:
  """One line of at most `_LONGEST` characters, with what is not printable as escapes."""
  if len(text) > _LONGEST:
    text = f'{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}'
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: Any) -> str:
  """A value as messages quote it: its `repr`, cut short where somebody made it long."""
  return _REPR.repr(value)
