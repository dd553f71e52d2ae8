"""The error that reports a user's mistake, and the end that a signal asks for."""

import difflib
import itertools
import re
import reprlib
import signal
from collections.abc import Collection, Iterable, Sequence
from typing import Any

_LONGEST = 1_000
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


class UserError(ValueError):
  """A mistake of the user's, told in one line that names the problem and its remedy.

  The command line prints the line without a traceback and exits with status 2.

  Args:
    message: is the line. It may quote files and names with any characters in them, so
      characters that are not printable are escaped, and a long message is cut.
    table: are further lines, printed below the message.
  """

  def __init__(self, message: str, table: Sequence[str] = ()):
    super().__init__('\n'.join(map(_line, (message, *table))))


def _line(text: str) -> str:
  """Returns a text of at most about `_LONGEST` characters, all of them printable."""
  if len(text) > _LONGEST:
    text = f'{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}'
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: Any) -> str:
  """Returns the `repr` of a value for a message, shortened if it is long."""
  return _REPR.repr(value)


def reason_of(error: Exception) -> str:
  """Returns the reason of an error, without TensorStore's whole specification."""
  first = (str(error).strip().splitlines() or [type(error).__name__])[0]
  return re.split(r' \[tensorstore_spec|; at |\[source loc', first)[0][:200].strip()


def listed(names: Collection[str], most: int = 16) -> str:
  """Returns names in a line, divided by commas: the first of many and how many more."""
  first = ', '.join(itertools.islice(names, most))
  return first if len(names) <= most else f'{first} and {len(names) - most:,} more'


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
  """Returns ` (did you mean …?)` with the known name that is most like `name`, or ``.

  Args:
    name: is the name that was given.
    known: are the names that exist.
    cutoff: is the least likeness, from 0 to 1.
  """
  matches = difflib.get_close_matches(name, sorted({*known} - {''}), n=1, cutoff=cutoff)
  return f' (did you mean {matches[0]}?)' if matches else ''


class Interrupted(BaseException):
  """Raised between two batches after a signal asked the process to end.

  Attributes:
    exit_status: is 128 plus the signal's number, as shells report it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_status = 128 + number
