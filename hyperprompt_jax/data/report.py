"""A report on the data: texts that are cut, tokens that are unknown, and label counts."""

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping

import rich.box
import rich.table
import seqio
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.data import datasets
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
  name: str, lengths: datasets.Lengths, num_examples: int, use_cached: bool
) -> dict[str, TaskData]:
  """Reads the first examples of each trained task, and of its validation split.

  A task is trained if its rate in the mixture is not 0.

  Args:
    name: names a task or mixture.
    lengths: are the lengths of `inputs` and `targets` in training.
    num_examples: is the most examples to read of each task.
    use_cached: tells whether to read SeqIO's cache.
  """
  provider = seqio.get_mixture_or_task(name)
  tasks = [task for task in seqio.get_subtasks(provider) if 'train' in task.splits]
  if isinstance(provider, seqio.Mixture):
    tasks = [task for task in tasks if provider.get_rate(task)]
  read = functools.partial(
    _look, lengths=lengths, num_examples=num_examples, use_cached=use_cached
  )
  return {
    task.name: dataclasses.replace(
      read(task, 'train'),
      validation=read(task, 'validation') if 'validation' in task.splits else None,
    )
    for task in tasks
  }


def _look(
  task: seqio.Task,
  split: str,
  lengths: datasets.Lengths,
  num_examples: int,
  use_cached: bool,
) -> TaskData:
  # Without a sequence length, SeqIO cuts nothing.
  dataset = task.get_dataset(
    sequence_length=None, split=split, shuffle=False, use_cached=use_cached
  )
  cut: collections.Counter[str] = collections.Counter()
  cut_tokens: collections.Counter[str] = collections.Counter()
  tokens: collections.Counter[str] = collections.Counter()
  unknown: collections.Counter[str] = collections.Counter()
  known = hyperprompt_tasks.labels(task.name) or ()
  labels = collections.Counter(dict.fromkeys(known, 0))
  examples, rows = 0, None
  for example in dataset.take(num_examples + 1).as_numpy_iterator():
    if examples == num_examples:
      break
    examples += 1
    for feature, limit in lengths.items():
      length = len(example[feature])
      tokens[feature] += length
      unknown_id = task.output_features[feature].vocabulary.unk_id
      unknown[feature] += int((example[feature] == unknown_id).sum())
      cut[feature] += length > limit
      cut_tokens[feature] += max(0, length - limit)
    if known:
      labels[example['targets_pretokenized'].decode('utf-8')] += 1
  else:  # these are all examples of the task
    rows = None if use_cached else task.num_input_examples(split)
  return TaskData(
    examples,
    rows,
    cut=dict(cut),
    cut_tokens=dict(cut_tokens),
    tokens=dict(tokens),
    unknown=dict(unknown),
    labels=dict(labels),
  )


def show(data: Mapping[str, TaskData], lengths: datasets.Lengths) -> None:
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
