"""What a user of the tasks can get wrong, one class each; every message is one line."""

_LONGEST = 1_000


class _Mistake(ValueError):
  """A mistake of a user's, in a line that names the thing and what to do about it.

  Args:
    message: the line; what it quotes of files may hold anything, so it is made one of what
      a terminal can show.
  """

  def __init__(self, message: str):
    if len(message) > _LONGEST:
      message = f'{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}'
    super().__init__(''.join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class DataError(_Mistake):
  """A data folder, file or line does not hold what it should."""


class VocabularyError(_Mistake):
  """A vocabulary cannot be read."""


class UnknownNameError(_Mistake):
  """No task list is known for the name of a SeqIO task or mixture."""


class TaskError(_Mistake):
  """Tasks cannot be registered as they are asked for."""
