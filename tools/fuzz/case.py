"""Targets of fuzzing, and the rules that each case is checked against."""

import dataclasses
import json
import pathlib
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import hyperprompt_tasks
from hyperprompt_jax.checkpoints.differences import DIFFERS
from hyperprompt_jax.errors import UserError

MISTAKES = (
  UserError,
  hyperprompt_tasks.UserMistake,
)
# Bytes that break readers: sizes, nesting, encodings, ends of lines, ways out of a folder.
ODD = (
  b'\x00',
  b'\n',
  b'\r',
  b'\t',
  b'"',
  b"'",
  b'\\',
  b',',
  b'\xff',
  b'\xef\xbb\xbf',
  b'\xe2\x80\xa8',
  b'\x1b[2J',
  b'\\ud800',
  b'null',
  b'true',
  b'NaN',
  b'-Infinity',
  b'1e999',
  b'-1',
  b'0',
  b'4294967296',
  b'9' * 40,
  b'9' * 5_000,
  b'[' * 2_000,
  b'{"a":' * 2_000,
  b'[]',
  b'{}',
  b'""',
  b'../../etc/passwd',
  b'/etc/passwd',
  b'%s',
)
# Processor time, as the machine may be busy with something else.
SECONDS = 1.0
# A case ends after so much processor time, or time on the clock should it wait.
_GIVE_UP_SECONDS, _GIVE_UP_WAITING_SECONDS = 5, 120
# The longest message; contents of files are quoted in part.
_LONGEST = 2_000
# Gin appends the path of configurables to an error after this; `cli` removes it.
_GIN = '\n  In call to '


def official_rows(benchmark: str) -> Any:
  """Reads the sample rows of a benchmark's official files that the tests have, too."""
  path = pathlib.Path(__file__).parents[2] / 'tests/tasks/official_rows.json'
  return json.loads(path.read_text())[benchmark]


@dataclasses.dataclass(frozen=True)
class Target:
  """A reader that is fuzzed.

  Attributes:
    seeds: are valid cases, from which others are made.
    run: reads a case, with a folder for its files; raises nothing but `MISTAKES`.
    words: are inserted now and then, besides `ODD`.
    is_json: whether seeds are JSON, in which values are exchanged.
    prefix: is the number of bytes at the front that choose between readers; they are
      never changed.
  """

  seeds: Sequence[bytes]
  run: Callable[[bytes, pathlib.Path], None]
  words: Sequence[bytes] = ()
  is_json: bool = False
  prefix: int = 0


@dataclasses.dataclass
class Findings:
  """The number of cases, and the first fault of each kind."""

  cases: int = 0
  slowest: float = 0.0
  refused: int = 0
  faults: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

  def try_case(self, target: Target, case: bytes, folder: pathlib.Path) -> None:
    """Runs a case."""
    self.cases += 1
    wrong, seconds = self._run(target, case, folder)
    # The first case of a kind may import modules, which takes a second.
    if wrong is None and seconds > SECONDS:
      seconds = min(seconds, self._run(target, case, folder)[1])
    self.slowest = max(self.slowest, seconds)
    if wrong is None and seconds > SECONDS:
      wrong = 'takes over a second'
    if wrong is not None:
      self.faults.setdefault(wrong, {'what': wrong, 'case': repr(case[:2_000])})

  def _run(
    self, target: Target, case: bytes, folder: pathlib.Path
  ) -> tuple[str | None, float]:
    """Runs a case; returns its fault, if there is one, and its seconds."""
    start = time.process_time()
    for number in (signal.SIGALRM, signal.SIGPROF):
      signal.signal(number, _give_up)
    signal.setitimer(signal.ITIMER_PROF, _GIVE_UP_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, _GIVE_UP_WAITING_SECONDS)
    try:
      target.run(case, folder)
      wrong = None
    except MISTAKES as mistake:
      self.refused += 1
      wrong = _wrong_message(str(mistake))
    except _GivenUp:
      wrong = 'does not end'
    except Exception as error:
      frame = traceback.extract_tb(error.__traceback__)[-1]
      place = f'{pathlib.Path(frame.filename).name}:{frame.lineno}'
      wrong = f'{type(error).__name__} at {place} ({frame.name})'
    finally:
      signal.setitimer(signal.ITIMER_PROF, 0)
      signal.setitimer(signal.ITIMER_REAL, 0)
    return wrong, time.process_time() - start


class _GivenUp(BaseException):
  """Raised in a case that does not end."""


def _give_up(*_: Any) -> None:
  raise _GivenUp


def _wrong_message(message: str) -> str | None:
  """Returns the fault of an error message, or None."""
  own, *_ = message.split(_GIN)
  first, *table = own.split('\n')
  if not first.strip():
    return 'an empty message'
  if (table and DIFFERS not in first) or len(own.splitlines()) != 1 + len(table):
    return f'a message of several lines: {first[:40]!r}'
  if len(own) > _LONGEST:
    return f'a message of {len(own)} characters: {first[:40]!r}'
  return None
