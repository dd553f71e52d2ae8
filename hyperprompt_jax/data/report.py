"""A report on the training data: examples and tokens that are cut, and label counts."""

import collections
import dataclasses
import json
from collections.abc import Mapping

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
  """The first training examples of one SeqIO task.

  Attributes:
    examples: is the number of examples that were read.
    source_rows: is the number of rows of the source, if the examples are all of the task's
      and the source knows the number.
    cut: counts the examples that are longer than TASK_FEATURE_LENGTHS, by feature.
    cut_tokens: counts the tokens that are cut off, by feature.
    tokens: counts all tokens, by feature.
    labels: counts the targets by their text, if the task has a closed set of labels. Every
      label is included, and so is every target that is no label.
  """

  examples: int
  source_rows: int | None
  cut: Mapping[str, int]
  cut_tokens: Mapping[str, int]
  tokens: Mapping[str, int]
  labels: Mapping[str, int]


def look(
  name: str, lengths: datasets.Lengths, num_examples: int, use_cached: bool
) -> dict[str, TaskData]:
  """Reads the first training examples of each task whose rate in a mixture is not 0.

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
  return {task.name: _look(task, lengths, num_examples, use_cached) for task in tasks}


def _look(
  task: seqio.Task, lengths: datasets.Lengths, num_examples: int, use_cached: bool
) -> TaskData:
  # Without a sequence length, SeqIO cuts nothing.
  dataset = task.get_dataset(
    sequence_length=None, split='train', shuffle=False, use_cached=use_cached
  )
  cut: collections.Counter[str] = collections.Counter()
  cut_tokens: collections.Counter[str] = collections.Counter()
  tokens: collections.Counter[str] = collections.Counter()
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
      cut[feature] += length > limit
      cut_tokens[feature] += max(0, length - limit)
    if known:
      labels[example['targets_pretokenized'].decode('utf-8')] += 1
  else:  # these are all examples of the task
    rows = None if use_cached else task.num_input_examples('train')
  return TaskData(examples, rows, dict(cut), dict(cut_tokens), dict(tokens), dict(labels))


def show(data: Mapping[str, TaskData], lengths: datasets.Lengths) -> None:
  """Prints a table of the tasks' data on standard error."""
  table = rich.table.Table(box=rich.box.SIMPLE)
  for column in ('task', 'examples', 'inputs cut', 'tokens lost', 'targets cut', 'labels'):
    table.add_column(column, justify='left' if column in ('task', 'labels') else 'right')
  for name, task in data.items():
    rows = task.source_rows
    table.add_row(
      name,
      f'{task.examples:,}'
      + (f' of {rows:,} rows' if rows not in (None, task.examples) else ''),
      _share(task.cut['inputs'], task.examples),
      _share(task.cut_tokens['inputs'], task.tokens['inputs']),
      _share(task.cut['targets'], task.examples),
      '  '.join(f'{label} {_share(n, task.examples)}' for label, n in task.labels.items()),
    )
  console = terminal.stderr_console()
  if not console.is_terminal:
    console.width = 160
  limits = ', '.join(f'{feature} {limit}' for feature, limit in lengths.items())
  console.print(f'Training data, the first examples of each task, cut to {limits} tokens')
  console.print(table)


def write(data: Mapping[str, TaskData], model_dir: str) -> None:
  """Writes the tasks' data to `MODEL_DIR/data.json`."""
  values = {name: dataclasses.asdict(task) for name, task in data.items()}
  path = epath.Path(model_dir) / FILE
  with writing(model_dir):
    write_whole(path, json.dumps(values, ensure_ascii=False, indent=2) + '\n')


def _share(part: int, whole: int) -> str:
  return f'{100 * part / whole:.1f} %' if whole else '-'
