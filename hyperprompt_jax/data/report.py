"""What training is about to read: how much of it is cut, and how labels are spread."""

import collections
import dataclasses
import json
from collections.abc import Mapping

import rich.box
import rich.table
import seqio
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints.storage import writing
from hyperprompt_jax.data import datasets
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.runtime.files import write_whole

FILE = 'data.json'


@dataclasses.dataclass(frozen=True)
class TaskData:
  """The first training examples of one SeqIO task.

  Attributes:
    examples: that were looked at.
    source_rows: that they come from, if they are all there are and the source knows.
    cut: by feature, how many examples are longer than TASK_FEATURE_LENGTHS.
    cut_tokens: by feature, how many tokens that cuts off.
    tokens: by feature, how many there are.
    labels: of a closed set, how often each is the target, and what is none of them.
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
  """Looks at the first training examples of each task of a mixture that is drawn from.

  Args:
    name: task or mixture.
    lengths: of `inputs` and `targets`.
    num_examples: of each task, at most.
    use_cached: whether to read SeqIO's cache.
  """
  provider = seqio.get_mixture_or_task(name)
  tasks = [task for task in seqio.get_subtasks(provider) if 'train' in task.splits]
  if isinstance(provider, seqio.Mixture):
    tasks = [task for task in tasks if provider.get_rate(task)]
  return {task.name: _look(task, lengths, num_examples, use_cached) for task in tasks}


def _look(
  task: seqio.Task, lengths: datasets.Lengths, num_examples: int, use_cached: bool
) -> TaskData:
  # Without lengths nothing is cut yet.
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
  else:  # there are no more
    rows = None if use_cached else task.num_input_examples('train')
  return TaskData(examples, rows, dict(cut), dict(cut_tokens), dict(tokens), dict(labels))


def show(found: Mapping[str, TaskData], lengths: datasets.Lengths) -> None:
  """Prints a table on standard error."""
  table = rich.table.Table(box=rich.box.SIMPLE)
  for column in ('task', 'examples', 'inputs cut', 'tokens lost', 'targets cut', 'labels'):
    table.add_column(column, justify='left' if column in ('task', 'labels') else 'right')
  for name, of in found.items():
    rows = of.source_rows
    table.add_row(
      name,
      f'{of.examples:,}'
      + (f' of {rows:,} rows' if rows not in (None, of.examples) else ''),
      _share(of.cut['inputs'], of.examples),
      _share(of.cut_tokens['inputs'], of.tokens['inputs']),
      _share(of.cut['targets'], of.examples),
      '  '.join(f'{label} {_share(n, of.examples)}' for label, n in of.labels.items()),
    )
  console = terminal.stderr_console()
  if not console.is_terminal:
    console.width = 160
  limits = ', '.join(f'{feature} {limit}' for feature, limit in lengths.items())
  console.print(f'Training data, the first examples of each task, cut to {limits} tokens')
  console.print(table)


def write(found: Mapping[str, TaskData], model_dir: str) -> None:
  """Writes the numbers to `MODEL_DIR/data.json`."""
  values = {name: dataclasses.asdict(of) for name, of in found.items()}
  path = epath.Path(model_dir) / FILE
  with writing(model_dir):
    write_whole(path, json.dumps(values, ensure_ascii=False, indent=2) + '\n')


def _share(part: int, whole: int) -> str:
  return f'{100 * part / whole:.1f} %' if whole else '-'
