"""What is said of a checkpoint that cannot be read."""

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import distributed

# What to do about it, in the words of the message.
DELETE = 'delete it to use the one before it'
PUT_BACK = 'put the original folder back, as all checkpoints of the run need it'
# Part of the names of Orbax's files.
_ORBAX = os.path.join('', 'orbax', 'checkpoint', '')


class DamagedError(UserError):
  """A checkpoint whose files are not, or not all, what was saved.

  Attributes:
    where: the checkpoint.
    reason: what is wrong with it.
  """

  def __init__(self, where: str, remedy: str, reason: str):
    super().__init__(
      f'checkpoint {where} cannot be read, it is damaged or incomplete; {remedy} ({reason})'
    )
    self.where, self.reason = where, reason


@contextlib.contextmanager
def reading(where: str, remedy: str = DELETE) -> Iterator[None]:
  """Turns whatever goes wrong in reading a checkpoint into one line that names it.

  Args:
    where: the checkpoint.
    remedy: what to do about it.

  Raises:
    DamagedError: for what is wrong with its files.
    UserError: where this user may not read them.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    distributed.end_if_lost(error)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # TensorStore's whole specification, and TensorFlow's name of the failing operation.
    reason = re.split(r'\. See full|\[tensorstore_spec|\[source loc', first)[0]
    reason = re.sub(r'^\{\{function_node .*?\}\} ', '', reason)
    reason = reason[:200].strip()
    # Whoever may read it finds it whole.
    if re.search('permission.denied', str(error), re.IGNORECASE):
      raise UserError(
        f'checkpoint {where} may not be read by this user: {reason}'
      ) from error
    raise DamagedError(where, remedy, reason) from error


def leave_out_stragglers() -> None:
  """Keeps off the terminal what Python notes of reads that Orbax has left behind.

  When one of several reads fails, Orbax closes the event loop that the others are at work
  in. They notice when they end, or when Python clears them away, up to the end of the
  process: this holds as long.
  """
  if not isinstance(sys.unraisablehook, _WithoutStragglers):
    sys.unraisablehook = _WithoutStragglers(sys.unraisablehook)
    _leave_out_unawaited()
  logging.getLogger('asyncio').addFilter(_is_no_straggler)  # adds a function only once


def _leave_out_unawaited() -> None:
  """The same for reads that were never begun."""
  # What Python calls: in the warning itself nothing says where a coroutine is from.
  name = '_warn_unawaited_coroutine'
  warn = getattr(warnings, name, None)
  if warn:
    others = lambda coroutine: None if _is_of_orbax(coroutine) else warn(coroutine)
    setattr(warnings, name, others)


def _is_of_orbax(what: Any) -> bool:
  code = getattr(what, 'cr_code', None)
  return code is not None and _ORBAX in code.co_filename


class _WithoutStragglers:
  """A hook for exceptions that nobody can catch, without those of Orbax's reads.

  Args:
    other: the hook for all else.
  """

  def __init__(self, other: Callable[[Any], None]):
    self._other = other

  def __call__(self, unraisable: Any) -> None:
    first = unraisable.exc_traceback and unraisable.exc_traceback.tb_frame.f_code
    # No Python has called it: a thread of TensorStore's has.
    from_tensorstore = first and first.co_name == 'call_soon_threadsafe'
    closed = str(unraisable.exc_value) == 'Event loop is closed'
    if not _is_of_orbax(unraisable.object) and not (from_tensorstore and closed):
      self._other(unraisable)


def _is_no_straggler(note: logging.LogRecord) -> bool:
  """A filter of asyncio's notes, which quote a task's file and its exception."""
  said = note.getMessage()
  return _ORBAX not in said and 'tensorstore' not in said.lower()
