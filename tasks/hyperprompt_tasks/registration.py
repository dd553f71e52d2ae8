"""Registers tasks and mixtures whose examples carry the id of their conditioned task."""

import fnmatch
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import seqio
from typing_extensions import override

from hyperprompt_tasks import errors, preprocessors, rates, task_lists, vocabulary

# Room for the ids of any task list; SeqIO wants one vocabulary for all tasks of a mixture.
MAX_TASKS = 65_536

_VOCABULARY = vocabulary.TaskVocabulary()
OUTPUT_FEATURES = {
  'inputs': seqio.Feature(_VOCABULARY, add_eos=True, required=False),
  'targets': seqio.Feature(_VOCABULARY, add_eos=True),
  'task_ids': seqio.Feature(seqio.PassThroughVocabulary(MAX_TASKS), add_eos=False),
}


class Task(seqio.Task):
  """A task whose rows may be in memory, or absent."""

  @property
  @override
  def splits(self) -> Sequence[str]:
    # SeqIO raises where a task has no splits, as when the folder in use lacks the files,
    # and so would every mixture with this member. Without that SeqIO passes it over.
    return self.source.splits

  @override
  def get_dataset(self, *args: Any, try_in_mem_cache: bool = True, **kwargs: Any) -> Any:
    """Returns the preprocessed dataset; see seqio.Task."""
    # A cache of rows in memory would be a second copy, and part of every checkpoint of
    # the iterator.
    in_memory = getattr(self.source, 'in_memory', False)
    cache = try_in_mem_cache and not in_memory
    return super().get_dataset(*args, try_in_mem_cache=cache, **kwargs)


class Mixture(seqio.Mixture):
  """A mixture that warns about members whose data are absent.

  SeqIO passes over members that lack a split, and warns about those that never have it
  too, such as evaluation tasks in training. The registered rates stay T5's.
  """

  @override
  def get_dataset(
    self,
    sequence_length: Mapping[str, int] | None = None,
    split: str = 'train',
    *args: Any,
    **kwargs: Any,
  ) -> Any:
    """Returns the mixed dataset; see seqio.Mixture."""
    self.warn_of_absent_data(split)
    return super().get_dataset(sequence_length, split, *args, **kwargs)

  def warn_of_absent_data(self, split: str) -> None:
    """Warns about members that would be drawn from if their data were there."""
    absent = [
      task
      for task in self.tasks
      if self.get_rate(task) and split in getattr(task.source, 'absent_splits', ())
    ]
    if absent:
      logging.getLogger(__name__).warning(
        '%s: %s holds no %s data for %s; the mixture runs without.',
        self.name,
        ' and '.join(sorted({task.source.benchmark.variable for task in absent})),
        split,
        ', '.join(task.name for task in absent),
      )


def add_task(
  name: str,
  *,
  source: seqio.DataSource,
  text: Sequence[Callable[..., Any]],
  task_list: task_lists.TaskList,
  conditioned_task: str,
  postprocess_fn: Callable[..., Any] | None = None,
  metric_fns: Sequence[Callable[..., Any]] = (),
) -> None:
  """Registers a SeqIO task.

  Args:
    name: is the name of the SeqIO task.
    source: the rows are read from this source.
    text: these preprocessors are applied first: they give rows the strings `inputs` and
      `targets`.
    task_list: the task ids are indices into this list.
    conditioned_task: every example carries the id of this member of `task_list`, as
      `task_ids`, an int32 vector of length 1.
    postprocess_fn: is the postprocessor of the seqio.Task.
    metric_fns: are the metric functions of the seqio.Task.

  Raises:
    ValueError: if the name is taken.
    TaskError: `task_list` does not hold `conditioned_task`.
  """
  task_id = task_list.index(conditioned_task)
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      *text,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
      *last_steps(name, task_id, postprocess_fn),
    ],
    output_features=OUTPUT_FEATURES,
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
    # Every example of a buffer is part of a checkpoint of the iterator.
    shuffle_buffer_size=(
      None if source.performs_internal_shuffling else seqio.SHUFFLE_BUFFER_SIZE
    ),
    task_cls=Task,
  )
  task_lists.declare(name, task_list, conditioned_task)


def last_steps(
  name: str, task_id: int, postprocessor: Callable[..., Any] | None
) -> list[Callable[..., Any]]:
  """Returns the preprocessors at the end of every conditioned task.

  They stand behind SeqIO's cache, so that no cache outlives the task list or skips a check.

  Args:
    name: is the name of the SeqIO task.
    task_id: every example gets this id.
    postprocessor: it may tell the labels of the task apart; see `labels`.
  """
  steps: list[Callable[..., Any]] = []
  if classes := _labels(postprocessor):
    steps.append(partial(preprocessors.check_labels, task=name, labels=classes))
  return [*steps, partial(preprocessors.add_task_ids, task_id=task_id)]


def labels(name: str) -> tuple[str, ...] | None:
  """Returns the closed set of targets of a SeqIO task, or None if it has none.

  The task's postprocessor tells these targets apart: it is a `functools.partial` with
  `classes`, or with T5's `label_classes`.
  """
  return _labels(seqio.TaskRegistry.get(name).postprocessor)


def _labels(postprocessor: Callable[..., Any] | None) -> tuple[str, ...] | None:
  bound = postprocessor.keywords if isinstance(postprocessor, partial) else {}
  classes = bound.get('classes') or bound.get('label_classes')
  return tuple(classes) if classes else None


def add_mixture(name: str, members: Mapping[str, float]) -> None:
  """Registers a mixture of declared SeqIO tasks.

  It also registers a mixture `NAME.TASK` for each conditioned task of which several SeqIO
  tasks are members, at the same rates, to train it by itself.

  Args:
    name: is the name of the mixture.
    members: is the rate of each SeqIO task, or of each registered mixture, whose tasks
      then share the rate in proportion to their own.

  Raises:
    UnknownNameError: if a member has no task list.
    TaskError: if a rate is not a finite number of 0 or more, all are 0 although a member
      has training data, or the ids of two members index different lists.
    ValueError: if the name is taken.
  """
  tasks = rates.expand(name, members)
  task_list = task_lists.common_list(name, tasks)
  rates.check_trainable(
    name, tasks, lambda task: 'train' in seqio.TaskRegistry.get(task).splits
  )
  seqio.MixtureRegistry.add(name, list(tasks.items()), mixture_cls=Mixture)
  for task, parts in _trained(task_list, tasks).items():
    _part(name, task, {part: tasks[part] for part in parts})


def rates_of(name: str, split: str) -> dict[str, float]:
  """Returns the rates of the SeqIO tasks that are drawn from a split of a mixture.

  Args:
    name: is the name of a SeqIO task, which has the rate 1, or of a mixture.
    split: tasks without this split are left out, and so are those with the rate 0.

  Raises:
    UnknownNameError: if nothing is registered under the name.
    TaskError: if a rate is not a finite number of 0 or more.
  """
  if name not in seqio.MixtureRegistry.names():
    return dict.fromkeys(task_lists.seqio_tasks(name), 1.0)
  mixture = seqio.MixtureRegistry.get(name)
  all_rates = rates.of_mixture(mixture)
  return {
    task.name: all_rates[task.name]
    for task in mixture.tasks
    if all_rates[task.name] and split in task.splits
  }


def part(name: str, chosen: int | str | None) -> str:
  """Returns the mixture of some conditioned tasks of a mixture, which it registers.

  Args:
    name: is the name of a SeqIO task or mixture.
    chosen: is names or patterns of conditioned tasks, divided by commas; or a number of
      tasks, which are taken evenly from the task list; None for all.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
    TaskError: if there are no such tasks.
  """
  if chosen is None:
    return name
  members = task_lists.seqio_tasks(name)
  owners = {member: task_lists.conditioned_task(member) for member in members}
  tasks = task_lists.common_list(name, members).tasks
  tasks = tuple(task for task in tasks if task in {*owners.values()})
  if isinstance(chosen, int) or chosen.isdigit():  # the command line gives texts
    number = min(int(chosen), len(tasks))
    names = {tasks[place * len(tasks) // number] for place in range(number)}
  else:
    patterns = [pattern.strip() for pattern in chosen.split(',')]
    matches = {pattern: fnmatch.filter(tasks, pattern) for pattern in patterns}
    if unknown := [pattern for pattern in patterns if not matches[pattern]]:
      raise errors.TaskError(
        f'{name} has no task {unknown[0]!r}; nearest: '
        f'{task_lists.nearest(unknown[0], tasks)}'
      )
    names = {task for match in matches.values() for task in match}
  if not names:
    raise errors.TaskError(f'none of the tasks of {name} is chosen')
  chosen_members = [member for member in members if owners[member] in names]
  digest = hashlib.sha256(' '.join(chosen_members).encode()).hexdigest()[:8]
  part_name = f'{name}.{digest}'
  if part_name not in seqio.MixtureRegistry.names():
    rate_of = dict.fromkeys(chosen_members, 1.0)
    seqio.MixtureRegistry.add(part_name, [*rate_of.items()], mixture_cls=Mixture)
  return part_name


def single_task_mixtures(name: str) -> dict[str, str]:
  """Returns the tasks and mixtures that train each conditioned task of `name` by itself.

  Args:
    name: is the name of a SeqIO task or mixture.

  Returns:
    The name of a SeqIO task or mixture for each conditioned task that is trained. If only
    one is, it is `name`.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
  """
  members = task_lists.seqio_tasks(name)
  task_list = task_lists.common_list(name, members)
  if name in seqio.MixtureRegistry.names():
    mixture = seqio.MixtureRegistry.get(name)
    tasks = rates.of_mixture(mixture)
    if trained := _trained(task_list, tasks):
      return {
        task: _part(name, task, {part: tasks[part] for part in parts})
        for task, parts in trained.items()
      }
  return {task_lists.conditioned_task(members[0]) or name: name}


def _part(name: str, conditioned_task: str, tasks: Mapping[str, float]) -> str:
  """Returns the SeqIO task, or the mixture, of a conditioned task's part of a mixture."""
  if len(tasks) == 1:
    return next(iter(tasks))
  part = f'{name}.{conditioned_task}'
  if part not in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.add(part, list(tasks.items()), mixture_cls=Mixture)
  return part


def _trained(
  task_list: task_lists.TaskList, tasks: Mapping[str, float]
) -> dict[str, list[str]]:
  """Groups SeqIO tasks by the conditioned tasks that are trained; none if it is one."""
  groups: dict[str | None, list[str]] = {}
  for task in tasks:
    groups.setdefault(task_lists.conditioned_task(task), []).append(task)
  trained = {
    task: groups[task]
    for task in task_list.tasks
    if any(tasks[member] for member in groups.get(task, ()))
  }
  return trained if len(trained) > 1 else {}
