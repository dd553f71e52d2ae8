"""Tasks whose examples are in files: JSON, CSV, TSV, Parquet or Arrow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_tasks import (
  errors,
  layouts,
  named_metrics,
  own_tasks,
  registration,
  task_lists,
  text_files,
)
from hyperprompt_tasks import (
  rates as mixing,
)

Metrics = Sequence[str | named_metrics.Function]


def from_files(
  name: str,
  files: Mapping[str, Mapping[str, str | Sequence[str]]],
  *,
  rates: Mapping[str, float] | None = None,
  labels: Mapping[str, Sequence[str]] | None = None,
  columns: Mapping[str, Mapping[str, str | int]] | None = None,
  templates: Mapping[str, Mapping[str, str]] | None = None,
  metric_fns: Metrics | Mapping[str, Metrics] = named_metrics.DEFAULT,
  task_list: Sequence[str] | None = None,
) -> str:
  """Registers tasks whose examples are in files, and a mixture of them.

  docs/how_to/tasks.md describes the formats and options. The SeqIO task of `TASK` is
  `NAME.TASK`.

  Args:
    name: The mixture gets this name.
    files: The file, files or pattern of each split (`train`, `validation`, `test`) of each
      task. A task may lack splits, and a test split may lack targets.
    rates: This is the rate of a task; by default it is the number of its training examples.
    labels: This is the closed set of targets of a task, in files as text or as a number
      from 0.
    columns: These are the columns of a task's `inputs` and `targets`, by name or by
      number; by default they have these names.
    templates: Format strings that make `inputs` or `targets` of a task's columns.
    metric_fns: These are the metrics of all tasks, or of each task: names, or functions of
      `(targets, predictions)`.
    task_list: These are the tasks in the order of their ids, by default the alphabet's.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    TaskError: A name is taken, or an argument does not fit `files`.
    DataError: A file or a line of it cannot be used; the error names both.
  """
  options = {
    'rates': rates or {},
    'labels': labels or {},
    'columns': columns or {},
    'templates': templates or {},
    'metric_fns': (
      metric_fns if isinstance(metric_fns, Mapping) else dict.fromkeys(files, metric_fns)
    ),
  }
  call = (files, options, task_list)
  if not own_tasks.is_made(name, files, call):
    own_tasks.check_keys(name, files, options)
    _register(name, files, options, task_list)
    own_tasks.remember(name, call)
  return name


@dataclasses.dataclass(frozen=True)
class _FileTask:
  """The source of a task and the metrics that compare its targets."""

  source: text_files.TextFileSource
  metrics: named_metrics.Chosen


def _register(
  name: str,
  files: Mapping[str, Mapping[str, str | Sequence[str]]],
  options: Mapping[str, Mapping[str, Any]],
  order: Sequence[str] | None,
) -> None:
  mixing.check(name, options['rates'])
  tasks = {
    task: _read(
      task,
      paths,
      {argument: by_task.get(task) for argument, by_task in options.items()},
    )
    for task, paths in files.items()
  }
  rates = {
    task: options['rates'].get(task, own.source.num_training_examples())
    for task, own in tasks.items()
  }
  mixing.check_trainable(name, rates, lambda task: 'train' in tasks[task].source.splits)
  listed = own_tasks.task_list(
    name,
    order,
    {task: task for task in files},
    [(task, task_lists.ALL) for task, own in tasks.items() if own.metrics.functions],
  )
  for task, own in tasks.items():
    registration.add_task(
      f'{name}.{task}',
      source=own.source,
      text=[],
      task_list=listed,
      conditioned_task=task,
      postprocess_fn=own.metrics.postprocessor(own.source.has_references()),
      metric_fns=own.metrics.functions,
    )
  registration.add_mixture(name, {f'{name}.{task}': rate for task, rate in rates.items()})


def _read(
  task: str, paths: Mapping[str, str | Sequence[str]], options: Mapping[str, Any]
) -> _FileTask:
  """Reads the files of a task."""
  if not isinstance(paths, Mapping):
    raise errors.TaskError(
      f"files of task {task}: expected a dict such as {{'train': 'FILE'}}, not "
      f'{str(paths)[:80]!r}'
    )
  labels = _checked_labels(task, options['labels'])
  metrics = named_metrics.choose(
    task,
    named_metrics.DEFAULT if options['metric_fns'] is None else options['metric_fns'],
    labels,
  )
  source = text_files.TextFileSource(
    paths,
    labels,
    layouts.make(task, options['columns'], options['templates']),
    metrics.numbers,
  )
  source.check()
  return _FileTask(source, metrics)


def _checked_labels(task: str, labels: Any) -> Sequence[str] | None:
  if labels is None:
    return None
  is_list = isinstance(labels, list | tuple) and labels
  if not is_list or not all(isinstance(label, str) and label.strip() for label in labels):
    raise errors.TaskError(
      f"labels of task {task}: expected a list of texts such as ['no', 'yes']; found "
      f'{str(labels)[:80]!r}'
    )
  if len(set(labels)) != len(labels):
    raise errors.TaskError(f'labels of task {task}: a label stands twice in the list')
  return labels
