"""Errors of checkpoints that cannot be read."""

import contextlib
import re
from collections.abc import Iterator

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import distributed

# Remedies, in the words of the message.
DELETE = 'delete it to use the one before it'
PUT_BACK = 'put the original folder back, as all checkpoints of the run need it'


class DamagedError(UserError):
  """A checkpoint whose files are missing, or differ from those that were saved.

  Attributes:
    where: names the checkpoint.
    reason: describes the damage.
  """

  def __init__(self, where: str, remedy: str, reason: str):
    super().__init__(
      f'checkpoint {where} cannot be read, it is damaged or incomplete; {remedy} ({reason})'
    )
    self.where, self.reason = where, reason


@contextlib.contextmanager
def reading(where: str, remedy: str = DELETE) -> Iterator[None]:
  """Turns any failure to read a checkpoint into one line that names it.

  Args:
    where: names the checkpoint.
    remedy: tells the user how to recover.

  Raises:
    DamagedError: if its files are missing or damaged.
    UserError: if this user may not read them.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    distributed.end_if_lost(error)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Leaves out TensorStore's specification, and TensorFlow's name of the operation.
    reason = re.split(r'\. See full|\[tensorstore_spec|\[source loc', first)[0]
    reason = re.sub(r'^\{\{function_node .*?\}\} ', '', reason)
    reason = reason[:200].strip()
    # The checkpoint is not damaged: a user with permission can read all of it.
    if re.search('permission.denied', str(error), re.IGNORECASE):
      raise UserError(
        f'checkpoint {where} may not be read by this user: {reason}'
      ) from error
    raise DamagedError(where, remedy, reason) from error
