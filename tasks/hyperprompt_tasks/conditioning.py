"""Task-conditioning of SeqIO tasks that any module has registered."""

import functools
from collections.abc import Mapping, Sequence

import seqio

from hyperprompt_tasks import (
  errors,
  own_tasks,
  preprocessors,
  rates,
  registration,
  task_lists,
)


def condition(
  name: str,
  tasks: Mapping[str, float | rates.Proportional],
  *,
  task_list: Sequence[str] | None = None,
  conditioned_as: Mapping[str, str] | None = None,
  scores: Mapping[str, Sequence[str]] | None = None,
) -> str:
  """Registers task-conditioned copies of SeqIO tasks, and a mixture of them.

  A copy `NAME.TASK` has its task's source, preprocessors, postprocessor and metrics. It is
  tokenized with VOCABULARY, and its examples carry the id of their conditioned task.

  Args:
    name: is the name of the mixture.
    tasks: are the rates of registered SeqIO tasks of any module. A registered mixture
      stands for its tasks, which share its rate in proportion to their own. A pattern with
      `* ? […]` stands for the tasks that match it, each at its rate.
    task_list: holds the conditioned tasks in the order of their ids. By default they are in
      alphabetical order, because gin does not keep the order of a dict. Tasks that are
      added later go to its end.
    conditioned_as: is the conditioned task of a SeqIO task. SeqIO tasks can share one, such
      as one to train on and one to evaluate. By default a task that is conditioned
      already keeps its conditioned task, and any other has its own.
    scores: are the metrics whose mean is the score of a SeqIO task. By default all count.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    UnknownNameError: if there is no such SeqIO task.
    TaskError: if a name is taken, a task does not map text to text, a rate is invalid, or
      `task_list`, `conditioned_as` or `scores` do not fit `tasks`.
  """
  conditioned_as, scores = dict(conditioned_as or {}), dict(scores or {})
  call = (tasks, task_list, conditioned_as, scores)
  if own_tasks.is_made(name, call):
    return name
  own_tasks.check_tasks(name, tasks)
  shares = rates.expand(name, tasks)
  own_tasks.check_keys(name, shares, {'conditioned_as': conditioned_as, 'scores': scores})
  originals = {task: _original(task) for task in shares}
  rates.check_trainable(name, shares, lambda task: 'train' in originals[task].splits)
  owners = _owners(name, originals, conditioned_as)
  counted = [
    (task, metric)
    for task, original in originals.items()
    if original.metric_objs
    for metric in scores.get(task, _scoring_metrics(task))
  ]
  listed = own_tasks.task_list(name, task_list, owners, counted)
  for task, original in originals.items():
    _add_copy(f'{name}.{task}', original, listed, owners[task])
  registration.add_mixture(name, {f'{name}.{task}': rate for task, rate in shares.items()})
  return own_tasks.remember(name, call, 'condition')


def _original(name: str) -> seqio.Task:
  """Returns a registered SeqIO task from text to text."""
  if name not in seqio.TaskRegistry.names():
    raise errors.UnknownNameError(
      f'{name} is no registered SeqIO task; nearest: '
      f'{task_lists.nearest(name, seqio.TaskRegistry.names())}; a module that registers '
      'it is imported in a gin file: import their_module'
    )
  task = seqio.TaskRegistry.get(name)
  if set(task.output_features) - {'task_ids'} != {'inputs', 'targets'}:
    raise errors.TaskError(
      f'{name} has the features {", ".join(task.output_features)}; a task to be '
      'conditioned has inputs and targets'
    )
  if task.score_metric_fns or task.predict_with_aux_metric_fns:
    raise errors.TaskError(
      f'{name} has metrics of scores, which evaluation does not compute: register it '
      'with metrics of (targets, predictions)'
    )
  return task


def _owners(
  name: str, tasks: Mapping[str, seqio.Task], conditioned_as: Mapping[str, str]
) -> dict[str, str]:
  """Returns the conditioned task of each SeqIO task.

  Raises:
    TaskError: if conditioned tasks of different task lists have the same name, and nothing
      tells whether they are one.
  """
  owners = {
    task: conditioned_as.get(task, task_lists.conditioned_task(task) or task)
    for task in tasks
  }
  lists: dict[str, tuple[str, task_lists.TaskList]] = {}
  for task, owner in owners.items():
    if task in conditioned_as or not task_lists.is_declared(task):
      continue
    first, listed = lists.setdefault(owner, (task, task_lists.declared_list(task)))
    if listed != task_lists.declared_list(task):
      raise errors.TaskError(
        f'mixture {name}: {first} and {task} both belong to a conditioned task {owner}, in '
        'different task lists; name one for each of them in conditioned_as'
      )
  return owners


def _scoring_metrics(task: str) -> list[str]:
  """Returns the metrics of a SeqIO task that count for a score by default.

  For a task that is conditioned already they are those of its own task list.
  """
  owner = task_lists.conditioned_task(task)
  if owner is None:
    return [task_lists.ALL]
  scores = task_lists.declared_list(task).scores
  return [metric for scored, metric in scores.get(owner, ()) if scored == task]


def _add_copy(
  name: str, task: seqio.Task, listed: task_lists.TaskList, conditioned_task: str
) -> None:
  steps = registration.last_steps(name, listed.index(conditioned_task), task.postprocessor)
  seqio.TaskRegistry.add_provider(
    name,
    task.replace(
      name=name,
      preprocessors=[*filter(_belongs_to_text, task.preprocessors), *steps],
      output_features=registration.OUTPUT_FEATURES,
    ),
  )
  task_lists.declare(name, listed, conditioned_task)


def _belongs_to_text(step: object) -> bool:
  """Returns whether a preprocessor is none of `registration.last_steps`."""
  function = step.func if isinstance(step, functools.partial) else step
  return function not in (preprocessors.add_task_ids, preprocessors.check_labels)
