"""A report on the data: texts that are cut, tokens that are unknown, and label counts."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import rich.box
import rich.table
import seqio
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.data.access import Access, members
from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.splits import open_splits
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.runtime.files import write_whole, writing

FILE = 'data.json'


@dataclasses.dataclass(frozen=True)
class TaskData:
  """The first examples of a split of one SeqIO task.

  Attributes:
    examples: is the number of examples that were read.
    source_rows: is the number of rows of the source, if the examples are all of the task's
      and the source knows the number.
    cut: counts the examples that are longer than TASK_FEATURE_LENGTHS, by feature.
    cut_tokens: counts the tokens that are cut off, by feature.
    tokens: counts all tokens, by feature.
    unknown: counts the tokens of text that the vocabulary does not know, by feature.
    labels: counts the targets by their text, if the task has a closed set of labels. Every
      label is included, and so is every target that is no label.
    validation: describes the validation split, if this is the train split and the task has
      both.
  """

  examples: int
  source_rows: int | None
  cut: Mapping[str, int]
  cut_tokens: Mapping[str, int]
  tokens: Mapping[str, int]
  unknown: Mapping[str, int]
  labels: Mapping[str, int]
  validation: 'TaskData | None' = None


def look(
  name: str, access: Access, num_examples: int, evaluated: int | str | None = None
) -> dict[str, TaskData]:
  """Reads the first examples of each trained task, and of its validation split.

  A task is trained if its rate in the mixture is not 0. The result has the tasks' short
  names (`hyperprompt_tasks.short_names`).

  Args:
    name: names a task or mixture.
    access: gives the way to the examples, and their lengths in training.
    num_examples: is the most examples to read of each task.
    evaluated: chooses the tasks whose validation splits are read, as EVAL_TASKS does.
  """
  tasks = list(members(name, 'train'))
  part = seqio.get_mixture_or_task(hyperprompt_tasks.part(name, evaluated))
  chosen = {task.name for task in seqio.get_subtasks(part)}
  validated = [t for t in tasks if 'validation' in t.splits and t.name in chosen]
  opened = {
    'train': open_splits(tasks, 'train', access, all_features=False),
    'validation': open_splits(validated, 'validation', access),
  }

  def read(task: seqio.Task, split: str) -> TaskData:
    examples = opened[split].get(task.name)
    columns = (
      _streamed(task, split, access, num_examples + 1)
      if examples is None
      else _indexed(examples, access, num_examples + 1)
    )
    size = len(columns['inputs'][1])
    is_all = size <= num_examples and not access.use_cached
    rows = task.num_input_examples(split) if is_all else None
    first = {name: _first(column, num_examples) for name, column in columns.items()}
    return _counted(task, first, rows, access.lengths)

  names = hyperprompt_tasks.short_names(name, 'train')
  return {
    names[task.name]: dataclasses.replace(
      read(task, 'train'),
      validation=read(task, 'validation') if task in validated else None,
    )
    for task in tasks
  }


# The tokens of some examples, one example after another, and how many each has.
_Column = tuple[np.ndarray, np.ndarray]


def _indexed(examples: Examples, access: Access, number: int) -> dict[str, _Column]:
  """The uncut tokens of the first examples of the cache, by feature."""
  rows = np.arange(min(number, len(examples)))
  return {name: examples.columns.vectors(name, rows) for name in access.lengths}


def _streamed(
  task: seqio.Task, split: str, access: Access, number: int
) -> dict[str, _Column]:
  """The uncut tokens of the first examples that SeqIO reads, by feature."""
  dataset = task.get_dataset(
    sequence_length=None, split=split, shuffle=False, use_cached=access.use_cached
  )
  first = [*itertools.islice(dataset.as_numpy_iterator(), number)]
  return {
    name: (
      np.concatenate([np.empty(0, np.int32), *(example[name] for example in first)]),
      np.array([len(example[name]) for example in first], np.int64),
    )
    for name in access.lengths
  }


def _first(column: _Column, number: int) -> _Column:
  tokens, lengths = column
  return tokens[: lengths[:number].sum()], lengths[:number]


def _counted(
  task: seqio.Task,
  columns: Mapping[str, _Column],
  rows: int | None,
  lengths: Mapping[str, int],
) -> TaskData:
  """Counts the tokens and labels of some examples."""
  vocabularies = {
    name: feature.vocabulary for name, feature in task.output_features.items()
  }
  known = hyperprompt_tasks.labels(task.name) or ()
  labels = collections.Counter(dict.fromkeys(known, 0))
  if known:
    tokens, sizes = columns['targets']
    targets = collections.Counter(
      tuple(target.tolist()) for target in np.split(tokens, np.cumsum(sizes)[:-1])
    )
    for target, number in targets.items():
      labels[vocabularies['targets'].decode([*target])] += number
  over = {name: np.maximum(columns[name][1] - limit, 0) for name, limit in lengths.items()}
  return TaskData(
    len(columns['targets'][1]),
    rows,
    cut={name: int(np.count_nonzero(x)) for name, x in over.items()},
    cut_tokens={name: int(x.sum()) for name, x in over.items()},
    tokens={name: len(columns[name][0]) for name in lengths},
    unknown={
      name: int(np.count_nonzero(columns[name][0] == vocabularies[name].unk_id))
      for name in lengths
    },
    labels=dict(labels),
  )


def _total(tasks: Collection[TaskData]) -> TaskData:
  """The counts of all tasks together, without labels."""
  features = next(iter(tasks)).tokens
  add = lambda counts: {
    name: sum(getattr(task, counts)[name] for task in tasks) for name in features
  }
  return TaskData(
    sum(task.examples for task in tasks),
    None,
    add('cut'),
    add('cut_tokens'),
    add('tokens'),
    add('unknown'),
    labels={},
  )


def _shown(data: Mapping[str, TaskData]) -> dict[str, TaskData]:
  """The rows of the table: all tasks, or their sum and those that lose most and least."""
  if len(data) <= terminal.MOST_ROWS:
    return {**data}
  lost = lambda task: task.cut_tokens['inputs'] / (task.tokens['inputs'] or 1)
  names = sorted(data, key=lambda name: (-lost(data[name]), -data[name].examples, name))
  half = terminal.MOST_ROWS // 2
  return {
    f'all {len(data):,} tasks': _total(data.values()),
    **{name: data[name] for name in (*names[:half], *names[-half:])},
  }


def show(data: Mapping[str, TaskData], lengths: Mapping[str, int]) -> None:
  """Prints a table of the tasks' data on standard error."""
  table = rich.table.Table(box=rich.box.SIMPLE)
  numbers = ('examples', 'inputs cut', 'tokens lost', 'targets cut', 'unknown tokens')
  for column in ('task', *numbers, 'labels'):
    table.add_column(column, justify='right' if column in numbers else 'left')
  for name, task in _splits(_shown(data)):
    rows = task.source_rows
    table.add_row(
      name,
      f'{task.examples:,}'
      + (f' of {rows:,} rows' if rows not in (None, task.examples) else ''),
      _share(task.cut['inputs'], task.examples),
      _share(task.cut_tokens['inputs'], task.tokens['inputs']),
      _share(task.cut['targets'], task.examples),
      _share(sum(task.unknown.values()), sum(task.tokens.values())),
      '  '.join(f'{label} {_share(n, task.examples)}' for label, n in task.labels.items()),
    )
  console = terminal.stderr_console()
  if not console.is_terminal:
    console.width = 160
  limits = ', '.join(f'{feature} {limit}' for feature, limit in lengths.items())
  console.print(f'Data, the first examples of each task, cut to {limits} tokens')
  if len(data) > terminal.MOST_ROWS:
    console.print(f'The tasks that lose most and least of their inputs; all are in {FILE}')
  console.print(table)


def _splits(data: Mapping[str, TaskData]) -> Iterator[tuple[str, TaskData]]:
  """Yields the train split of each task, and then its validation split if it has one."""
  for name, task in data.items():
    yield name, task
    if task.validation:
      yield f'{name}, validation', task.validation


def write(data: Mapping[str, TaskData], model_dir: str) -> None:
  """Writes the tasks' data to `MODEL_DIR/data.json`."""
  values = {name: dataclasses.asdict(task) for name, task in data.items()}
  path = epath.Path(model_dir) / FILE
  with writing(model_dir):
    write_whole(path, json.dumps(values, ensure_ascii=False, indent=2) + '\n')


def _share(part: int, total: int) -> str:
  return f'{100 * part / total:.1f} %' if total else '-'
