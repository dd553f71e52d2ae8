"""Maps SeqIO tasks to the conditioned tasks that their ids name, and to their metrics.

A conditioned task is what owns prompts. Several SeqIO tasks can share one, such as WSC's
training and evaluation tasks. A task id is an index into the list of conditioned tasks.
"""

import collections
import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping

import seqio

from hyperprompt_tasks import errors, rates

# ((SeqIO task, metric), …): the metrics whose mean is a score. ALL stands for every metric
# of a SeqIO task, for tasks of other modules, whose metrics have no names before they are
# computed.
Metrics = tuple[tuple[str, str], ...]
ALL = '*'
# The signs that SeqIO allows in the name of a task, and a hyphen.
NAME = re.compile(r'[\w.:#-]+')
# Folders and files are named after tasks, and 255 bytes is the limit of most file systems.
_LONGEST_NAME = 120


def check_name(name: str, pattern: re.Pattern[str] = NAME) -> None:
  """Checks that a task can have a name, and a folder of that name.

  Args:
    name: is that of a conditioned task, a SeqIO task or a mixture.
    pattern: the whole name must match this.

  Raises:
    TaskError: if the name cannot be used.
  """
  if not isinstance(name, str) or not pattern.fullmatch(name) or set(name) == {'.'}:
    signs = '_ - . : #' if pattern is NAME else '_ . : #'
    raise errors.TaskError(
      f'{str(name)[:80]!r} is no name of a task or mixture: use letters, digits and the '
      f'signs {signs}'
    )
  if len(name.encode('utf-8')) > _LONGEST_NAME:
    raise errors.TaskError(
      f'{name[:80]!r}… is too long for the name of a task or mixture: use at most '
      f'{_LONGEST_NAME} bytes'
    )


@dataclasses.dataclass(frozen=True)
class TaskList:
  """An ordered list of conditioned tasks.

  Attributes:
    tasks: are the names of the conditioned tasks; a task id is an index into this tuple.
    scores: are the metrics whose mean is the score of a conditioned task, for every
      conditioned task that has one.
  """

  tasks: tuple[str, ...]
  scores: Mapping[str, Metrics]

  def __post_init__(self) -> None:
    for task in self.tasks:
      # A conditioned task has a folder of its name where it is trained by itself.
      check_name(task)
    if len(set(self.tasks)) != len(self.tasks):
      raise errors.TaskError(f'a task list names a task twice: {", ".join(self.tasks)}')
    if unknown := set(self.scores) - set(self.tasks):
      raise errors.TaskError(
        f'scores for {", ".join(sorted(unknown))}, which the task list '
        f'({", ".join(self.tasks)}) does not hold'
      )

  def index(self, conditioned_task: str) -> int:
    """Returns the task id of a conditioned task.

    Raises:
      TaskError: if the list does not hold the conditioned task.
    """
    if conditioned_task not in self._ids:
      raise errors.TaskError(
        f'conditioned task {conditioned_task} is not in the task list '
        f'({", ".join(self.tasks)})'
      )
    return self._ids[conditioned_task]

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {task: task_id for task_id, task in enumerate(self.tasks)}


_declared: dict[str, TaskList] = {}
_conditioned: dict[str, str] = {}


def declare(name: str, tasks: TaskList, conditioned_task: str | None = None) -> None:
  """Declares that the ids of a SeqIO task index a task list.

  Args:
    name: is the name of the SeqIO task.
    tasks: the ids are indices into this list.
    conditioned_task: all examples belong to this conditioned task; None if they differ.

  Raises:
    TaskError: if the SeqIO task has a list already, or the list does not hold the
      conditioned task.
  """
  if name in _declared:
    raise errors.TaskError(f'{name} has a task list already')
  if conditioned_task is not None:
    tasks.index(conditioned_task)
    _conditioned[name] = conditioned_task
  _declared[name] = tasks


def is_declared(name: str) -> bool:
  """Returns whether a SeqIO task has a task list."""
  return name in _declared


def conditioned_task(name: str) -> str | None:
  """Returns the conditioned task of all examples of a SeqIO task, None if they differ."""
  return _conditioned.get(name)


def common_list(name: str, members: Iterable[str]) -> TaskList:
  """Returns the task list that all members of a mixture share.

  Args:
    name: is the mixture that the error names.
    members: are the names of declared SeqIO tasks.

  Raises:
    UnknownNameError: if a member is not declared.
    TaskError: if two members have different lists, so that one id would mean two tasks.
  """
  lists = {member: declared_list(member) for member in members}
  first, *rest = lists
  for other in rest:
    if lists[other] != lists[first]:
      raise errors.TaskError(
        f'mixture {name}: task ids of {first} index ({", ".join(lists[first].tasks)}) '
        f'and those of {other} index ({", ".join(lists[other].tasks)}); the tasks of a '
        'mixture must share one list: condition them together'
      )
  return lists[first]


def seqio_tasks(name: str) -> tuple[str, ...]:
  """Returns the names of the SeqIO tasks of a mixture, or a SeqIO task's own name.

  Raises:
    UnknownNameError: if nothing is registered under the name.
  """
  if name in seqio.MixtureRegistry.names():
    return tuple(task.name for task in seqio.MixtureRegistry.get(name).tasks)
  if name in seqio.TaskRegistry.names():
    return (name,)
  raise _unknown(name)


def resolve(name: str) -> TaskList:
  """Returns the task list of a registered SeqIO task or mixture.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
    TaskError: if the members of a mixture have different lists, or a rate of a mixture that
      was registered with SeqIO alone is not a finite number of 0 or more.
  """
  if name in seqio.MixtureRegistry.names():
    fixed = seqio.MixtureRegistry.get(name).rate_per_task_name
    rates.check(name, {task: rate for task, rate in fixed.items() if not callable(rate)})
  return common_list(name, seqio_tasks(name))


def task_list(name: str) -> tuple[str, ...]:
  """Returns the conditioned tasks, in order, that the task ids of `name` index.

  Args:
    name: is the name of a registered SeqIO task or mixture.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
    TaskError: if the members of a mixture have different lists, or a rate is invalid.
  """
  return resolve(name).tasks


def short_names(name: str, split: str) -> dict[str, str]:
  """Returns the name by which results show each SeqIO task of a mixture.

  This is the name of its conditioned task. Where several members that have the split share
  one conditioned task, as the matched and mismatched parts of MNLI do, each keeps its own;
  so does a task of the name `score`, under which metrics have the scores of all tasks.

  Args:
    name: is the name of a registered SeqIO task or mixture.
    split: the results are those of this split.

  Raises:
    UnknownNameError: if nothing is registered under the name.
  """
  members = [
    task for task in seqio_tasks(name) if split in seqio.TaskRegistry.get(task).splits
  ]
  owners = [conditioned_task(task) for task in members]
  counts = collections.Counter(owners)
  return {
    task: owner if owner and owner != 'score' and counts[owner] == 1 else task
    for task, owner in zip(members, owners, strict=True)
  }


def seqio_name(name: str, task: str, split: str) -> str:
  """Returns the SeqIO task that has a name or a short name.

  Args:
    name: is the name of the mixture in which short names are looked up.
    task: is the name of a SeqIO task, or the short name of a member.
    split: short names are those for this split.
  """
  if task in seqio.TaskRegistry.names() or task in seqio.MixtureRegistry.names():
    return task
  named = {short: member for member, short in short_names(name, split).items()}
  return named.get(task, task)


def declared_list(name: str) -> TaskList:
  """Returns the task list that was declared for a SeqIO task.

  Raises:
    UnknownNameError: if none was declared.
  """
  if name not in _declared:
    raise _unknown(name)
  return _declared[name]


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the three known names that are most like `name`, for messages."""
  return ', '.join(difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0))


def _unknown(name: str) -> errors.UnknownNameError:
  ours = [
    mixture
    for mixture in seqio.MixtureRegistry.names()
    if all(t.name in _declared for t in seqio.MixtureRegistry.get(mixture).tasks)
  ]
  if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
    problem = 'has no task list: condition it with hyperprompt_tasks.condition'
  else:
    problem = 'is neither a task nor a mixture'
  return errors.UnknownNameError(
    f'{name} {problem}; nearest: {nearest(name, [*ours, *_declared])}'
  )
