"""Tasks whose examples are in files: JSON, CSV, TSV, Parquet or Arrow."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from hyperprompt_tasks import (
  errors,
  file_facts,
  layouts,
  named_metrics,
  own_tasks,
  text_files,
  text_tasks,
)
from hyperprompt_tasks import rates as mixing
from hyperprompt_tasks.text_tasks import Metrics, Rates

Files = Mapping[str, Mapping[str, str | Sequence[str]]]
# This stands for the names of tasks, in a key of `files` and in its paths.
EACH_TASK = '{task}'


def from_files(
  name: str,
  files: Files,
  *,
  rates: Rates = None,
  labels: Mapping[str, Sequence[str]] | None = None,
  columns: Mapping[str, Mapping[str, str | int]] | None = None,
  templates: Mapping[str, Mapping[str, str]] | None = None,
  metric_fns: Metrics | Mapping[str, Metrics] = named_metrics.DEFAULT,
  task_list: Sequence[str] | None = None,
) -> str:
  """Registers tasks whose examples are in files, and a mixture of them.

  docs/how_to/tasks.md describes the options. The SeqIO task of `TASK` is `NAME.TASK`.

  Args:
    name: is the name of the mixture.
    files: are the file, files or pattern of each split (`train`, `validation`, `test`) of
      each task. A task may lack splits, and a test split may lack targets. An entry with
      `{task}` in its name and paths stands for all tasks whose files there are.
    rates: is the rate of a task, by default the number of its training examples, or a
      `Proportional` for all.
    labels: is the closed set of targets of a task, in files as text or as a number
      from 0.
    columns: are the columns of a task's `inputs` and `targets`, by name or by
      number; by default they have these names.
    templates: are format strings that make `inputs` or `targets` of a task's columns.
    metric_fns: are the metrics of all tasks, or of each task: names, or functions of
      `(targets, predictions)`.
    task_list: are the tasks in the order of their ids, by default the alphabet's.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    TaskError: if a name is taken, or an argument does not fit `files`.
    DataError: if a file or a line of it cannot be used; the error names both.
  """
  call = (files, rates, labels, columns, templates, metric_fns, task_list)
  if own_tasks.is_made(name, call):
    return name
  if isinstance(files, Mapping):
    files = _each_task(name, files)
  own_tasks.check_tasks(name, files)
  options = {
    'rates': {} if isinstance(rates, mixing.Proportional) else rates or {},
    'labels': labels or {},
    'columns': columns or {},
    'templates': templates or {},
    'metric_fns': text_tasks.by_task(metric_fns, files),
  }
  own_tasks.check_keys(name, files, options)
  mixing.check(name, options['rates'])
  tasks = {
    task: _task(task, paths, {key: by_task.get(task) for key, by_task in options.items()})
    for task, paths in files.items()
  }
  _learn_facts(name, {task: own.source for task, own in tasks.items()})
  text_tasks.register(name, tasks, rates, task_list)
  return own_tasks.remember(name, call, 'from_files')


def _each_task(name: str, files: Files) -> Files:
  """Replaces entries with `{task}` by those of the tasks whose files there are."""
  result: dict[str, Mapping[str, str | Sequence[str]]] = {}
  for key, paths in files.items():
    if EACH_TASK not in str(key) or not isinstance(paths, Mapping):
      result[key] = paths
      continue
    matches: dict[str, dict[str, str]] = {}
    for split, path in paths.items():
      for task, pattern in _matches(path).items():
        matches.setdefault(key.replace(EACH_TASK, task), {})[split] = pattern
    if not matches:
      raise errors.DataError(f'mixture {name}: no file matches {dict(paths)}')
    result |= {task: matches[task] for task in sorted(matches) if task not in files}
  return result


def _matches(path: str | Sequence[str]) -> dict[str, str]:
  """Returns the path of each task whose name stands for `{task}` in a path of a file."""
  if not isinstance(path, str) or EACH_TASK not in path:
    raise errors.TaskError(
      f'files of {EACH_TASK}: expected a path that holds {EACH_TASK}, not '
      f'{str(path)[:80]!r}'
    )
  before, *after = (
    re.escape(part).replace(r'\*', '[^/]*') for part in path.split(EACH_TASK)
  )
  # The name is the same wherever it stands.
  names = re.compile('([^/]+?)'.join((before, r'\1'.join(after))))
  matches = map(names.fullmatch, tf.io.gfile.glob(path.replace(EACH_TASK, '*')))
  return {match[1]: path.replace(EACH_TASK, match[1]) for match in matches if match}


def _learn_facts(name: str, sources: Mapping[str, text_files.TextSource]) -> None:
  """Sets the facts of sources, whose files are read only where they have changed."""
  known = file_facts.FileFacts(
    name, [path for own in sources.values() for path in own.files]
  )
  for task, own in sources.items():
    known.learn(task, own)
  known.keep()


def _task(
  task: str, paths: Mapping[str, str | Sequence[str]], options: Mapping[str, Any]
) -> text_tasks.TextTask:
  """Returns a task whose files are not read yet."""
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
  return text_tasks.TextTask(source, metrics)


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
