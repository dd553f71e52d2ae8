"""Bookkeeping of the mixtures that users make of their own tasks.

`conditioning.condition` makes them of registered SeqIO tasks, and `file_tasks.from_files`
of files. Gin calls again wherever a macro stands, so the same call must do nothing.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import errors, rates, task_lists

# The arguments of each mixture that was made, by its name.
_made: dict[str, Any] = {}
# The name of the function that made it.
_functions: dict[str, str] = {}
_SEQIO_NAME = re.compile(r'[\w.:#]+')


def is_made(name: str, call: Any) -> bool:
  """Returns whether the same call has made a mixture already.

  Args:
    name: is the name that the mixture is to have.
    call: are all other arguments of the call.

  Raises:
    TaskError: if another call has made a mixture of this name, or the name belongs to
      another module's mixture or task, or cannot be used.
  """
  if name in _made:
    if _made[name] == _snapshot(call):
      return True
    raise errors.TaskError(f'mixture {name} is made already, of other tasks')
  if name in seqio.MixtureRegistry.names() or name in seqio.TaskRegistry.names():
    raise errors.TaskError(f'{name} is registered already: choose another name')
  task_lists.check_name(name, _SEQIO_NAME)
  return False


def check_tasks(name: str, tasks: Collection[str]) -> None:
  """Checks that a mixture can be made of a dict of tasks.

  Args:
    name: is the mixture that the error names.
    tasks: are the names of its tasks, with a value each.

  Raises:
    TaskError: if the tasks are no dict, there are none, or a name cannot be used. A pattern
      is no name, and is not checked here.
  """
  if not isinstance(tasks, Mapping):
    raise errors.TaskError(
      f'mixture {name}: its tasks must be a dict, not {str(tasks)[:80]!r}'
    )
  if not tasks:
    raise errors.TaskError(f'mixture {name} has no tasks')
  for task in tasks:
    if not rates.is_pattern(task):
      task_lists.check_name(task, _SEQIO_NAME)


def remember(name: str, call: Any, function: str) -> str:
  """Remembers the call that has made a mixture, and returns the mixture's name.

  Args:
    name: is the name of the mixture.
    call: are the other arguments of the call, in the order of its signature.
    function: is the name of the function that was called.
  """
  _made[name] = _snapshot(call)
  _functions[name] = function
  return name


def calls() -> dict[str, tuple[str, Any]]:
  """Returns the function and the arguments that have made each mixture, by its name."""
  return {name: (_functions[name], call) for name, call in _made.items()}


def check_keys(
  name: str, tasks: Collection[str], arguments: Mapping[str, Mapping[str, Any]]
) -> None:
  """Checks that arguments which are dicts by task name no other tasks.

  Args:
    name: is the mixture that the error names.
    tasks: are the names of its tasks.
    arguments: each argument is given with its value.

  Raises:
    TaskError: if an argument is no dict, or has a key that is none of the tasks.
  """
  for argument, value in arguments.items():
    if not isinstance(value, Mapping):
      raise errors.TaskError(
        f'{argument} of mixture {name} must be a dict by task, not {str(value)[:80]!r}'
      )
    if unknown := sorted(str(key) for key in value if key not in tasks):
      raise errors.TaskError(
        f'{argument} of mixture {name}: {", ".join(unknown)} is not among its tasks, '
        f'{", ".join(tasks)}'
      )


def task_list(
  name: str,
  order: Sequence[str] | None,
  owners: Mapping[str, str],
  scored: Iterable[tuple[str, str]],
) -> task_lists.TaskList:
  """Returns the task list of a mixture.

  Args:
    name: the SeqIO tasks of the mixture are `NAME.TASK`.
    order: are the conditioned tasks in the order of their ids; None for the
      alphabet's.
    owners: each task is given with its conditioned task.
    scored: are pairs of a task and a metric that counts for the score of its
      conditioned task.

  Raises:
    TaskError: `order` lacks a conditioned task, or names one twice.
  """
  conditioned = tuple(sorted(set(owners.values())) if order is None else order)
  if missing := set(owners.values()) - set(conditioned):
    raise errors.TaskError(
      f'task_list of mixture {name} lacks {", ".join(sorted(missing))}'
    )
  scores: dict[str, list[tuple[str, str]]] = {}
  for task, metric in scored:
    scores.setdefault(owners[task], []).append((f'{name}.{task}', metric))
  try:
    return task_lists.TaskList(
      conditioned, {o: tuple(pairs) for o, pairs in scores.items()}
    )
  except errors.TaskError as error:
    raise errors.TaskError(f'mixture {name}: {error}') from error


def _snapshot(value: Any) -> Any:
  """Returns a value that compares as the arguments do, and that no caller can change."""
  if isinstance(value, Mapping):
    return {key: _snapshot(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return tuple(_snapshot(item) for item in value)
  return value
