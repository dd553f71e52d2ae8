"""A report on the data: texts that are cut, tokens that are unknown, and label counts."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

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


def look(name: str, access: Access, num_examples: int) -> dict[str, TaskData]:
  """Reads the first examples of each trained task, and of its validation split.

  A task is trained if its rate in the mixture is not 0.

  Args:
    name: names a task or mixture.
    access: says how examples are had, and their lengths in training.
    num_examples: is the most examples to read of each task.
  """
  tasks = list(members(name, 'train'))
  validated = [task for task in tasks if 'validation' in task.splits]
  opened = {
    'train': open_splits(tasks, 'train', access, whole=False),
    'validation': open_splits(validated, 'validation', access),
  }

  def read(task: seqio.Task, split: str) -> TaskData:
    examples = _examples(task, split, access, opened[split].get(task.name))
    first = list(itertools.islice(examples, num_examples + 1))
    is_whole = len(first) <= num_examples and not access.use_cached
    rows = task.num_input_examples(split) if is_whole else None
    return _counted(task, first[:num_examples], rows, access.lengths)

  return {
    task.name: dataclasses.replace(
      read(task, 'train'),
      validation=read(task, 'validation') if task in validated else None,
    )
    for task in tasks
  }


def _examples(
  task: seqio.Task, split: str, access: Access, opened: Examples | None
) -> Iterator[Mapping[str, np.ndarray]]:
  """The uncut tokens of a split's examples, from the cache or from SeqIO."""
  if opened is None:
    dataset = task.get_dataset(
      sequence_length=None, split=split, shuffle=False, use_cached=access.use_cached
    )
    yield from dataset.as_numpy_iterator()
    return
  for row in range(len(opened)):
    yield {
      feature: opened.columns.vectors(feature, np.array([row]))[0]
      for feature in access.lengths
    }


def _counted(
  task: seqio.Task,
  examples: Sequence[Mapping[str, np.ndarray]],
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
    decode = vocabularies['targets'].decode
    labels.update(decode(example['targets'].tolist()) for example in examples)
  sizes = {name: [len(example[name]) for example in examples] for name in lengths}
  return TaskData(
    len(examples),
    rows,
    cut={name: sum(n > limit for n in sizes[name]) for name, limit in lengths.items()},
    cut_tokens={
      name: sum(max(0, n - limit) for n in sizes[name]) for name, limit in lengths.items()
    },
    tokens={name: sum(sizes[name]) for name in lengths},
    unknown={
      name: sum(
        int((example[name] == vocabularies[name].unk_id).sum()) for example in examples
      )
      for name in lengths
    },
    labels=dict(labels),
  )


def show(data: Mapping[str, TaskData], lengths: Mapping[str, int]) -> None:
  """Prints a table of the tasks' data on standard error."""
  table = rich.table.Table(box=rich.box.SIMPLE)
  numbers = ('examples', 'inputs cut', 'tokens lost', 'targets cut', 'unknown tokens')
  for column in ('task', *numbers, 'labels'):
    table.add_column(column, justify='right' if column in numbers else 'left')
  for name, task in _splits(data):
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


def _share(part: int, whole: int) -> str:
  return f'{100 * part / whole:.1f} %' if whole else '-'
