"""Adds tasks and mixtures whose examples carry the id of their conditioned task."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import seqio
from typing_extensions import override

from hyperprompt_tasks import preprocessors, task_lists, vocabulary

# Room for ids of any task list; SeqIO wants one vocabulary for all tasks of a mixture.
MAX_TASKS = 1024

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
    # SeqIO raises where there are none, as when the folder in use lacks the files, and
    # so would every mixture with this member. Without that it passes the member over.
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
  """A mixture that says which members it runs without, as their data is absent.

  SeqIO passes members over that lack a split, and says so of those that never have it
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
    return super().get_dataset(sequence_length, split, *args, **kwargs)


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
    name: of the SeqIO task.
    source: of its rows.
    text: preprocessors that turn rows into strings `inputs` and `targets`.
    task_list: that its ids index.
    conditioned_task: the member of `task_list` whose id its examples carry, as
      `task_ids`, an int32 vector of length 1.
    postprocess_fn: see seqio.Task.
    metric_fns: see seqio.Task.

  Raises:
    ValueError: the name is taken, or `conditioned_task` is not in `task_list`.
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
      # After the cache, so that no cache outlives the task list it was made with.
      partial(preprocessors.add_task_ids, task_id=task_id),
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


def labels(name: str) -> tuple[str, ...] | None:
  """Returns the closed set of targets that a SeqIO task has, or None.

  It is what its postprocessor tells apart: a `functools.partial` with `classes`, or with
  T5's `label_classes`.
  """
  postprocessor = seqio.TaskRegistry.get(name).postprocessor
  bound = postprocessor.keywords if isinstance(postprocessor, partial) else {}
  found = bound.get('classes') or bound.get('label_classes')
  return tuple(found) if found else None


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
  """Registers a mixture of declared SeqIO tasks, and of each conditioned task its part.

  For single-task training, `NAME:TASK` holds the members of one conditioned task at the
  same rates.

  Args:
    name: of the mixture.
    rates: per SeqIO task.

  Raises:
    UnknownNameError: a member has no task list.
    ValueError: the name is taken, or the members' ids index different lists.
  """
  task_list = task_lists.common_list(name, rates)
  seqio.MixtureRegistry.add(name, list(rates.items()), mixture_cls=Mixture)
  for task, members in _by_conditioned_task(task_list, rates).items():
    of_task = [(member, rates[member]) for member in members]
    seqio.MixtureRegistry.add(f'{name}:{task}', of_task, mixture_cls=Mixture)


def single_task_mixtures(name: str) -> dict[str, str]:
  """Returns, by conditioned task, the mixtures that `name` is trained as task by task.

  Args:
    name: of a SeqIO task or mixture. What has only one conditioned task to train is its
      own, and the only one.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
  """
  members = task_lists.seqio_tasks(name)
  task_list = task_lists.common_list(name, members)
  if name in seqio.MixtureRegistry.names():
    mixture = seqio.MixtureRegistry.get(name)
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    parts = _by_conditioned_task(task_list, rates)
    if len(parts) > 1:
      return {task: f'{name}:{task}' for task in parts}
  return {task_lists.conditioned_task(members[0]) or name: name}


def _by_conditioned_task(
  task_list: task_lists.TaskList, rates: Mapping[str, float]
) -> dict[str, list[str]]:
  """Groups SeqIO tasks by the conditioned tasks that are trained; none if it is one."""
  groups = {
    task: [member for member in rates if task_lists.conditioned_task(member) == task]
    for task in task_list.tasks
  }
  trained = {task: of for task, of in groups.items() if any(rates[m] for m in of)}
  return trained if len(trained) > 1 else {}
