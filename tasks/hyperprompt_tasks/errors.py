"""Errors for mistakes that a user can correct. Every message is one line."""

_LONGEST = 1_000


class UserMistake(ValueError):
  """The base of all errors of this package.

  The command line prints the message without a traceback and exits with status 2.

  Args:
    message: names the thing, what was expected, and what to do. It may quote
      files, which can hold any character, so unprintable characters are escaped and a
      long line is shortened in the middle.
  """

  def __init__(self, message: str):
    if len(message) > _LONGEST:
      message = f'{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}'
    super().__init__(''.join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class DataError(UserMistake):
  """A folder, a file or a line of a file does not hold what it should."""


class VocabularyError(UserMistake):
  """A vocabulary cannot be read, or the tasks cannot be trained with it."""


class UnknownNameError(UserMistake):
  """Nothing is registered under a name, or no task list belongs to it."""


class TaskError(UserMistake):
  """Tasks cannot be registered in the way that was asked for."""


class MetricError(UserMistake):
  """A metric or a postprocessor of a task raised an exception, or gave no number.

  Attributes:
    task: is the name by which results show the task.
    function: is the name of the metric function or of the postprocessor.
  """

  def __init__(self, task: str, function: str, problem: str):
    super().__init__(f'task {task}: {function} {problem}')
    self.task = task
    self.function = function
