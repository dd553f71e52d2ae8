"""Registers own tasks of texts, wherever their examples come from."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from hyperprompt_tasks import (
  errors,
  named_metrics,
  own_tasks,
  rates,
  registration,
  task_lists,
  text_files,
)

_OTHER_SIGNS = re.compile(r'[^\w.:#]')
Metrics = Sequence[str | named_metrics.Function]
Rates = Mapping[str, float | rates.Proportional] | rates.Proportional | None


@dataclasses.dataclass(frozen=True)
class TextTask:
  """A task of texts.

  Attributes:
    source: is the source of its examples.
    metrics: are the metrics that compare its targets.
  """

  source: text_files.TextSource
  metrics: named_metrics.Chosen


class HeldOutSource(text_files.TextSource):
  """A source whose splits follow from its examples, some of which are held out.

  Args:
    files: the source reads these files, which it shares with no other source.
    reading: describes how the files are read.
  """

  def __init__(self, files: Sequence[str] = (), reading: str = ''):
    super().__init__((), files, reading)

  @property
  @override
  def splits(self) -> Sequence[str]:
    return [split for split in text_files.SPLITS if split in self.facts.sizes]


def held_out(
  examples: Sequence[text_files.Example], num_validation: int
) -> text_files.Examples:
  """Returns examples in splits: the first validate, at most half of them."""
  number = min(num_validation, len(examples) // 2)
  if not number:
    return {'train': examples}
  return {'train': examples[number:], 'validation': examples[:number]}


def by_task(
  metrics: Metrics | Mapping[str, Metrics], tasks: Iterable[str]
) -> Mapping[str, Metrics]:
  """Returns the metrics of each task, of those of all tasks or by task."""
  return metrics if isinstance(metrics, Mapping) else dict.fromkeys(tasks, metrics)


def check_num_validation(name: str, number: Any) -> None:
  """Raises a TaskError unless a number of validation examples is an integer from 0 on."""
  if type(number) is not int or number < 0:
    raise errors.TaskError(
      f'num_validation of mixture {name} must be an integer of 0 or more, not '
      f'{str(number)[:80]}'
    )


def task_name(text: str) -> str:
  """Returns a text with the signs replaced that no name of a task may have."""
  return _OTHER_SIGNS.sub('_', text)


def register(
  name: str, tasks: Mapping[str, TextTask], given: Rates, order: Sequence[str] | None
) -> None:
  """Registers tasks and a mixture of them.

  Args:
    name: is the name of the mixture. The SeqIO task of `TASK` is `NAME.TASK`.
    tasks: are the tasks by name.
    given: is the rate of a task, or of all; by default it is the number of training
      examples.
    order: are the tasks in the order of their ids, by default the alphabet's.

  Raises:
    TaskError: if a rate or a name cannot be used, or all rates are 0.
  """
  examples = {task: own.source.facts.sizes.get('train', 0) for task, own in tasks.items()}
  rate_of = rates.by_examples(name, given, examples)
  rates.check_trainable(name, rate_of, lambda task: 'train' in tasks[task].source.splits)
  listed = own_tasks.task_list(
    name,
    order,
    {task: task for task in tasks},
    [(task, task_lists.ALL) for task, own in tasks.items() if own.metrics.functions],
  )
  for task, own in tasks.items():
    registration.add_task(
      f'{name}.{task}',
      source=own.source,
      text=[],
      task_list=listed,
      conditioned_task=task,
      postprocess_fn=own.metrics.postprocessor(own.source.facts.several),
      metric_fns=own.metrics.functions,
    )
  registration.add_mixture(name, {f'{name}.{task}': rate for task, rate in rate_of.items()})
