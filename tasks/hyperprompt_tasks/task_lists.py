"""Which conditioned tasks a SeqIO task's ids index, and which metrics score them.

A conditioned task is what owns prompts. Several SeqIO tasks can share one: WSC's
training and evaluation tasks, say. The order of the list is the meaning of the ids.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping

import seqio

from hyperprompt_tasks import errors

# ((SeqIO task, metric), …): what is averaged into one score. ALL stands for every metric of
# the SeqIO task, of somebody else's whose names are not known before it is evaluated.
Metrics = tuple[tuple[str, str], ...]
ALL = '*'
# As SeqIO has it of its tasks, and a hyphen.
NAME = re.compile(r'[\w.:#-]+')


@dataclasses.dataclass(frozen=True)
class TaskList:
  """An ordered list of conditioned tasks.

  Attributes:
    tasks: names; a task id is an index into it.
    scores: for every conditioned task that has a score, the metrics whose mean it is.
  """

  tasks: tuple[str, ...]
  scores: Mapping[str, Metrics]

  def __post_init__(self) -> None:
    for task in self.tasks:
      # A conditioned task has a folder of its name where it is trained by itself.
      if not NAME.fullmatch(task) or set(task) == {'.'}:
        raise ValueError(
          f'{task[:80]!r} is no name of a task: use letters, digits and the signs _ - . : #'
        )
    if len(set(self.tasks)) != len(self.tasks):
      raise ValueError(f'a task list names a task twice: {", ".join(self.tasks)}')
    if unknown := set(self.scores) - set(self.tasks):
      raise ValueError(
        f'scores for {", ".join(sorted(unknown))}, which the task list '
        f'({", ".join(self.tasks)}) does not hold'
      )

  def index(self, conditioned_task: str) -> int:
    """Returns the task id of a conditioned task.

    Raises:
      ValueError: it is not in the list.
    """
    if conditioned_task not in self.tasks:
      raise ValueError(
        f'conditioned task {conditioned_task} is not in the task list '
        f'({", ".join(self.tasks)})'
      )
    return self.tasks.index(conditioned_task)


_declared: dict[str, TaskList] = {}
_conditioned: dict[str, str] = {}


def declare(name: str, tasks: TaskList, conditioned_task: str | None = None) -> None:
  """Says that the ids of the SeqIO task `name` index `tasks`.

  Args:
    name: of the SeqIO task.
    tasks: what its ids index.
    conditioned_task: the one that all its examples are of; None if they differ.

  Raises:
    ValueError: `name` is declared already, or `conditioned_task` is not in `tasks`.
  """
  if name in _declared:
    raise ValueError(f'{name} has a task list already')
  if conditioned_task is not None:
    tasks.index(conditioned_task)
    _conditioned[name] = conditioned_task
  _declared[name] = tasks


def conditioned_task(name: str) -> str | None:
  """Returns the one conditioned task that the SeqIO task `name` is of, if there is one."""
  return _conditioned.get(name)


def common_list(name: str, members: Iterable[str]) -> TaskList:
  """Returns the list that all SeqIO tasks in `members` share.

  Args:
    name: of the mixture that they are members of, for the message.
    members: names of declared SeqIO tasks.

  Raises:
    UnknownNameError: a member is not declared.
    ValueError: two members have different lists, so that one id would mean two tasks.
  """
  lists = {member: _find(member) for member in members}
  first, *rest = lists
  for other in rest:
    if lists[other] != lists[first]:
      raise ValueError(
        f'mixture {name}: task ids of {first} index ({", ".join(lists[first].tasks)}) '
        f'and those of {other} index ({", ".join(lists[other].tasks)}); the tasks of a '
        'mixture must share one list'
      )
  return lists[first]


def seqio_tasks(name: str) -> tuple[str, ...]:
  """Returns the SeqIO tasks of the task or mixture `name`: itself, or the members.

  Raises:
    UnknownNameError: nothing of that name is registered.
  """
  if name in seqio.MixtureRegistry.names():
    return tuple(task.name for task in seqio.MixtureRegistry.get(name).tasks)
  if name in seqio.TaskRegistry.names():
    return (name,)
  raise _unknown(name)


def resolve(name: str) -> TaskList:
  """Returns the list with its scores that the SeqIO task or mixture `name` uses.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
    ValueError: the members of a mixture have different lists.
  """
  return common_list(name, seqio_tasks(name))


def task_list(name: str) -> tuple[str, ...]:
  """Returns the conditioned tasks, in order, that task ids of `name` index.

  Args:
    name: a registered SeqIO task or mixture.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
    ValueError: the members of a mixture have different lists.
  """
  return resolve(name).tasks


def _find(name: str) -> TaskList:
  if name not in _declared:
    raise _unknown(name)
  return _declared[name]


def _unknown(name: str) -> errors.UnknownNameError:
  ours = [
    mixture
    for mixture in seqio.MixtureRegistry.names()
    if all(t.name in _declared for t in seqio.MixtureRegistry.get(mixture).tasks)
  ]
  if name in seqio.TaskRegistry.names():
    problem = 'has no task list: declare one with hyperprompt_tasks.declare'
  else:
    problem = 'is neither a task nor a mixture'
  return errors.UnknownNameError(
    f'{name} {problem}; nearest: {nearest(name, [*ours, *_declared])}'
  )


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the three of the names that are most like `name`, for messages."""
  return ', '.join(difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0))
