"""Tasks whose examples share files, in which a column names the task of each row.

FLAN and P3 are often kept so, as JSON Lines of `inputs`, `targets` and `task`.
"""

from collections.abc import Iterator, Mapping, Sequence

from typing_extensions import override

from hyperprompt_tasks import (
  errors,
  file_facts,
  file_readers,
  layouts,
  named_metrics,
  own_tasks,
  text_files,
  text_tasks,
)
from hyperprompt_tasks.text_tasks import Metrics, Rates

TASK = 'task'


def from_task_column(
  name: str,
  files: Mapping[str, str | Sequence[str]],
  *,
  columns: Mapping[str, str | int] | None = None,
  templates: Mapping[str, str] | None = None,
  num_validation: int = 100,
  rates: Rates = None,
  metric_fns: Metrics | Mapping[str, Metrics] = named_metrics.DEFAULT,
  task_list: Sequence[str] | None = None,
) -> str:
  """Registers the tasks that a column of files names, and a mixture of them.

  The SeqIO task of `TASK` is `NAME.TASK`. Signs that no name of a task may have become `_`.

  Args:
    name: is the name of the mixture.
    files: are the file, files or pattern of each split (`train`, `validation`,
      `test`).
    columns: are the columns `inputs`, `targets` and `task`, by name or by number; by
      default they have these names.
    templates: are format strings that make `inputs` or `targets` of the columns, such as
      `{instruction} {inputs}`.
    num_validation: is the number of the first rows of a task that validate, at most
      half of them, where there is no validation split; the others train.
    rates: is the rate of a task, by default the number of its training rows, or a
      `Proportional` for all.
    metric_fns: are the metrics of all tasks, or by task.
    task_list: are the tasks in the order of their ids, by default the alphabet's.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    TaskError: if a name is taken, or an argument does not fit.
    DataError: if a file or a line of it cannot be used; the error names both.
  """
  call = (files, columns, templates, num_validation, rates, metric_fns, task_list)
  if own_tasks.is_made(name, call):
    return name
  text_tasks.check_num_validation(name, num_validation)
  own_tasks.check_tasks(name, files)
  named = dict(columns or {})
  task_column = str(named.pop(TASK, TASK))
  table = Table(files, layouts.make(name, named, templates), task_column, num_validation)
  known = file_facts.FileFacts(name, table.files)
  facts = known.facts('', table.files, table.reading, table.facts)
  known.keep()
  own_tasks.check_tasks(name, facts)
  by_task = text_tasks.by_task(metric_fns, facts)
  own_tasks.check_keys(name, facts, {'metric_fns': by_task})
  tasks = {
    task: text_tasks.TextTask(
      TableSource(table, task, of_task),
      named_metrics.choose(task, by_task.get(task, named_metrics.DEFAULT), None),
    )
    for task, of_task in facts.items()
  }
  text_tasks.register(name, tasks, rates, task_list)
  return own_tasks.remember(name, call, 'from_task_column')


class Table:
  """Rows of many tasks in the same files, which are read once when they are asked for.

  Args:
    files: is the file, the files or the pattern of each split.
    layout: where inputs and targets are in a row.
    task_column: is the column that names the task of a row.
    num_validation: is the largest number of rows of a task that validate.
  """

  def __init__(
    self,
    files: Mapping[str, str | Sequence[str]],
    layout: layouts.Layout,
    task_column: str,
    num_validation: int,
  ):
    self._files = text_files.files_of_splits(files, layout)
    self._layout = layout
    self._task = layouts.Layout(inputs=task_column)
    self._num_validation = num_validation
    self._examples: dict[str, text_files.Examples] = {}

  @property
  def files(self) -> list[str]:
    """Returns the files of all splits."""
    return [path for files in self._files.values() for path in files]

  @property
  def reading(self) -> str:
    """Returns a description of how the files are read."""
    return repr((self._files, self._layout, self._task, self._num_validation))

  def facts(self) -> dict[str, text_files.Facts]:
    """Returns the facts about each task, for which all files are read."""
    return {
      task: text_files.Facts.from_examples(of_task) for task, of_task in self.read().items()
    }

  def read(self) -> Mapping[str, text_files.Examples]:
    """Returns the examples of each split of each task.

    Raises:
      DataError: if a file or a line of it cannot be used; the error names both.
    """
    if not self._examples:
      tasks: dict[str, dict[str, list[text_files.Example]]] = {}
      names: dict[str, str] = {}
      for split, task, example in self._rows():
        name = text_tasks.task_name(task)
        if names.setdefault(name, task) != task:
          raise errors.DataError(
            f'{", ".join(self.files)}: the tasks {names[name]!r} and {task!r} would both '
            f'be named {name}'
          )
        tasks.setdefault(name, {}).setdefault(split, []).append(example)
      self._examples = {name: self._splits(tasks[name]) for name in sorted(tasks)}
      if not self._examples:
        raise errors.DataError(f'{", ".join(self.files)}: expected examples; found none')
    return self._examples

  def _rows(self) -> Iterator[tuple[str, str, text_files.Example]]:
    layout = self._layout
    needed = {*layout.columns, self._task.columns[0]}
    for split, paths in self._files.items():
      for path in paths:
        for where, row in file_readers.read(path, needed, layout.has_header):
          targets: tuple[str, ...] = (text_files.UNKNOWN,)
          if split != 'test' or layout.has_targets(row):
            targets = layout.targets_of(where, row, None)
          task = self._task.inputs_of(where, row)
          yield split, task, (layout.inputs_of(where, row), targets)

  def _splits(
    self, examples: Mapping[str, Sequence[text_files.Example]]
  ) -> text_files.Examples:
    if 'validation' in self._files or 'train' not in examples:
      return examples
    return {
      **text_tasks.held_out(examples['train'], self._num_validation),
      **{split: rows for split, rows in examples.items() if split != 'train'},
    }


class TableSource(text_tasks.HeldOutSource):
  """The rows of one task in a table.

  Args:
    table: this table holds the rows.
    task: is the name of the task.
    facts: are the facts about its rows.
  """

  def __init__(self, table: Table, task: str, facts: text_files.Facts):
    super().__init__()
    self.facts = facts
    self._table = table
    self._task = task

  @override
  def read(self) -> text_files.Examples:
    return self._table.read()[self._task]
