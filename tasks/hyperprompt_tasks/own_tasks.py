"""Anyone's tasks under task-conditioning: registered SeqIO tasks, or files of text.

Both calls register and return the name of a mixture, and may stand in a gin file:

    MIXTURE_OR_TASK_NAME = @hyperprompt_tasks.condition()
"""

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import (
  errors,
  metrics,
  postprocessors,
  preprocessors,
  registration,
  task_lists,
  text_files,
)

# What has been made, by its name: gin calls again wherever a macro stands.
_made: dict[str, Any] = {}
# What SeqIO takes.
_SEQIO_NAME = re.compile(r'[\w.:#]+')


def condition(
  name: str,
  tasks: Mapping[str, float],
  *,
  task_list: Sequence[str] | None = None,
  conditioned_as: Mapping[str, str] | None = None,
  scores: Mapping[str, Sequence[str]] | None = None,
) -> str:
  """Registers task-conditioned copies of SeqIO tasks, and a mixture of them.

  A copy, `NAME.TASK`, has its task's source, preprocessors, postprocessor and metrics. It
  is tokenized with VOCABULARY, and its examples carry the id of their conditioned task.

  Args:
    name: of the mixture.
    tasks: registered SeqIO tasks, of whatever module, and their rates in the mixture.
    task_list: the conditioned tasks in the order of their ids; None for that of the
      alphabet, as gin does not keep a dict's. To add tasks later, put them at its end.
    conditioned_as: of SeqIO tasks that share a conditioned task, such as one to train on
      and one to evaluate, its name; all others are conditioned as themselves.
    scores: of a SeqIO task, the metrics whose mean is its score; None or no entry for all
      that it has.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    UnknownNameError: there is no such SeqIO task.
    TaskError: a name is taken, a task is not a mapping of text to text, or `task_list`,
      `conditioned_as` or `scores` do not fit `tasks`.
  """
  conditioned_as, scores = dict(conditioned_as or {}), dict(scores or {})
  call = (tasks, task_list, conditioned_as, scores)
  if _is_made(name, tasks, call):
    return name
  for argument, given in (('conditioned_as', conditioned_as), ('scores', scores)):
    if unknown := given.keys() - tasks.keys():
      raise errors.TaskError(
        f'{argument} of mixture {name}: {", ".join(sorted(unknown))} is not among its '
        f'tasks, {", ".join(tasks)}'
      )
  originals = {task: _original(task) for task in tasks}
  owner = {task: conditioned_as.get(task, task) for task in tasks}
  listed = _list(
    name,
    task_list,
    owner,
    scored=[
      (task, metric)
      for task, original in originals.items()
      if original.metric_objs
      for metric in scores.get(task, (task_lists.ALL,))
    ],
  )
  for task, original in originals.items():
    _add_copy(f'{name}.{task}', original, listed, owner[task])
  registration.add_mixture(name, {f'{name}.{task}': rate for task, rate in tasks.items()})
  _made[name] = copy.deepcopy(call)
  return name


def from_files(
  name: str,
  files: Mapping[str, Mapping[str, str]],
  *,
  rates: Mapping[str, float] | None = None,
  labels: Mapping[str, Sequence[str]] | None = None,
  task_list: Sequence[str] | None = None,
  metric_fns: Sequence[Callable[..., Any]] = (metrics.accuracy,),
) -> str:
  """Registers tasks whose examples are in files, and a mixture of them.

  A file is JSON Lines, an object with the strings `inputs` and `targets` a line, or CSV or
  TSV with columns of these names; what else they hold is passed over. The test split may
  lack targets. A task `TASK` is the SeqIO task `NAME.TASK`.

  Args:
    name: of the mixture.
    files: of each task, the file of each split, `train`, `validation` and `test`:
      `.jsonl`, `.csv` or `.tsv`. A task may lack splits.
    rates: in the mixture; None or no entry for the number of training examples.
    labels: of tasks with a closed set of targets, these; any other target is an error.
    task_list: the tasks in the order of their ids; None for that of the alphabet.
    metric_fns: of all of them; None of them sees anything but text, or with `labels` the
      index of a label, -1 for what is none.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    TaskError: a name is taken, or an argument does not fit `files`.
    DataError: a file or a line of it cannot be used; names both.
  """
  rates, labels = dict(rates or {}), dict(labels or {})
  call = (files, rates, labels, task_list, list(metric_fns))
  if _is_made(name, files, call):
    return name
  for argument, given in (('rates', rates), ('labels', labels)):
    if unknown := given.keys() - files.keys():
      raise errors.TaskError(
        f'{argument} of mixture {name}: {", ".join(sorted(unknown))} is not among its '
        f'tasks, {", ".join(files)}'
      )
  sources = {
    task: text_files.TextFileSource(paths, labels.get(task))
    for task, paths in files.items()
  }
  for source in sources.values():
    source.check()
  listed = _list(
    name,
    task_list,
    {task: task for task in files},
    scored=[(task, task_lists.ALL) for task in files if metric_fns],
  )
  for task, source in sources.items():
    classes = labels.get(task)
    registration.add_task(
      f'{name}.{task}',
      source=source,
      text=[],
      task_list=listed,
      conditioned_task=task,
      postprocess_fn=(
        functools.partial(postprocessors.class_id, classes=list(classes))
        if classes
        else None
      ),
      metric_fns=metric_fns,
    )
  registration.add_mixture(
    name,
    {
      f'{name}.{task}': rates.get(task, source.num_training_examples())
      for task, source in sources.items()
    },
  )
  _made[name] = copy.copy(call)
  return name


def _is_made(name: str, tasks: Iterable[str], call: Any) -> bool:
  """Whether the same call has been made.

  Raises:
    TaskError: another has, or the name is of another's mixture or task, or one that there
      cannot be.
  """
  if name in _made:
    if _made[name] == call:
      return True
    raise errors.TaskError(f'mixture {name} is made already, of other tasks')
  if name in seqio.MixtureRegistry.names() or name in seqio.TaskRegistry.names():
    raise errors.TaskError(f'{name} is registered already: choose another name')
  for part in (name, *tasks):
    if not _SEQIO_NAME.fullmatch(part):
      raise errors.TaskError(
        f'{part[:80]!r} is no name of a task or mixture: use letters, digits and the signs '
        '_ . : #'
      )
  if not tasks:
    raise errors.TaskError(f'mixture {name} has no tasks')
  return False


def _list(
  name: str,
  order: Sequence[str] | None,
  owner: Mapping[str, str],
  scored: Sequence[tuple[str, str]],
) -> task_lists.TaskList:
  """The task list of a mixture.

  Args:
    name: of the mixture.
    order: the conditioned tasks, or None.
    owner: of each SeqIO task, its conditioned task.
    scored: SeqIO tasks and metrics that make scores.
  """
  conditioned = tuple(sorted(set(owner.values())) if order is None else order)
  if missing := set(owner.values()) - set(conditioned):
    raise errors.TaskError(
      f'task_list of mixture {name} lacks {", ".join(sorted(missing))}'
    )
  found: dict[str, task_lists.Metrics] = {}
  for task, metric in scored:
    found[owner[task]] = (*found.get(owner[task], ()), (f'{name}.{task}', metric))
  try:
    return task_lists.TaskList(conditioned, found)
  except ValueError as error:  # a name twice
    raise errors.TaskError(f'mixture {name}: {error}') from error


def _original(name: str) -> seqio.Task:
  """A registered SeqIO task from text to text."""
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
  if 'task_ids' in task.output_features:
    raise errors.TaskError(f'{name} is conditioned already: mix it with add_mixture')
  if task.score_metric_fns or task.predict_with_aux_metric_fns:
    raise errors.TaskError(
      f'{name} has metrics of scores, which evaluation does not compute: register it '
      'with metrics of (targets, predictions)'
    )
  return task


def _add_copy(
  name: str, task: seqio.Task, listed: task_lists.TaskList, conditioned_task: str
) -> None:
  add_ids = functools.partial(
    preprocessors.add_task_ids, task_id=listed.index(conditioned_task)
  )
  seqio.TaskRegistry.add_provider(
    name,
    task.replace(
      name=name,
      preprocessors=[*task.preprocessors, add_ids],
      output_features=registration.OUTPUT_FEATURES,
    ),
  )
  task_lists.declare(name, listed, conditioned_task)
