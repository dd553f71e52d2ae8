"""`hyperprompt peek`: looks inside a checkpoint, and beside a second one.

How much attention goes to the prompts in each layer, how spread out it is over tokens,
and how alike tasks are to the network: numbers (CSV, JSON), pictures (PNG, SVG), and one
page with all of it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hyperprompt_jax import configuration, datasets, runs, terminal
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.peeking import files
from hyperprompt_jax.peeking.look import Look, look


@dataclasses.dataclass(frozen=True)
class Peek:
  """A look at one checkpoint.

  Attributes:
    name: of the run, for legends.
    method: the class of its method.
    step: of the checkpoint.
    look: the numbers.
  """

  name: str
  method: str
  step: int
  look: Look

  def report(self) -> dict:
    """As JSON."""
    return {
      'run': self.name,
      'method': self.method,
      'step': self.step,
      **self.look.report(),
    }


def peek(
  run: runs.Run,
  mixture_or_task_name: str,
  task_feature_lengths: datasets.Lengths,
  batch_size: int,
  choice: str = 'latest',
  num_examples: int = 100,
  use_cached: bool = False,
) -> Peek:
  """Looks at a checkpoint with examples of a mixture's validation splits.

  Args:
    run: whose checkpoint.
    mixture_or_task_name: of the run's task list.
    task_feature_lengths: longer inputs are cut.
    batch_size: rows of a batch.
    choice: a step, 'latest' or 'best'.
    num_examples: of each SeqIO task, the first.
    use_cached: whether to read SeqIO's cache in place of the sources.

  Raises:
    UserError: if there is no such checkpoint, mixture or split.
  """
  if num_examples < 1:
    raise UserError(f'--num_examples must be a positive integer, not {num_examples}')
  run.check_task_list(mixture_or_task_name)
  datasets.check_mixture(mixture_or_task_name, 'validation', use_cached=use_cached)
  datasets.check_lengths(task_feature_lengths)
  run.partitioner.check(batch_size=batch_size)
  step = run.step(choice)
  # Before the data is opened: of another benchmark it may have to be downloaded first.
  run.checkpointer().check_task_list(step)
  splits = datasets.validation_datasets(
    mixture_or_task_name,
    task_feature_lengths,
    batch_size=batch_size,
    num_batches=-(-num_examples // batch_size),
    use_cached=use_cached,
  )

  def batches() -> Iterator[Mapping[str, np.ndarray]]:
    for name, dataset in splits.items():
      terminal.stderr_console().print(f'looking at {name}')
      left = num_examples
      for batch in dataset.as_numpy_iterator():
        yield {key: x[:left] for key, x in batch.items()}
        left -= len(batch['task_ids'])

  with run.partitioner.activate():
    found = look(run.model, run.partitioner, run.restore(step), batches(), batch_size)
  return Peek(
    pathlib.PurePath(run.model_dir).name, type(run.model.method).__name__, step, found
  )


def _print(peeks: Sequence[Peek]) -> None:
  columns = ['layer']
  for of in peeks:
    columns += [f'{of.name}: mass', 'entropy']
  rows = []
  for layer in range(len(peeks[0].look.entropy)):
    row = [str(layer)]
    for of in peeks:
      mass, entropy = of.look.prompt_mass[layer], of.look.entropy[layer]
      row += [f'{mass.mean():.4f}', f'{entropy.mean():.3f}']
    rows.append(row)
  terminal.print_table(
    'Attention mass on prompts, and entropy over tokens (nats), mean over tasks',
    columns,
    rows,
  )


def main(arguments: Sequence[str]) -> None:
  """`hyperprompt peek`."""
  parser = configuration.Parser('peek', __doc__)
  runs.add_arguments(parser)
  parser.add_argument(
    '--step', default='latest', help="a step, 'latest' (the default) or 'best'"
  )
  parser.add_argument('--baseline', help='folder of a second run, of mtl say')
  parser.add_argument('--baseline_step', default='latest', help='of the second run')
  parser.add_argument(
    '--num_examples', type=int, default=100, help='of each task (default: %(default)s)'
  )
  parser.add_argument('--output', help='folder to write (default: MODEL_DIR/peek/STEP)')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  flags, bindings = configuration.parse_arguments(parser, arguments)
  peeks = []
  for model_dir, step in (
    (flags.model_dir, flags.step),
    (flags.baseline, flags.baseline_step),
  ):
    if model_dir is not None:
      runs.configure(model_dir, 'runs/peek.gin', flags.gin_file, bindings)
      peeks.append(configuration.call(peek, choice=step, num_examples=flags.num_examples))
  if len(peeks) == 2:
    _check_comparable(*peeks)
  output = flags.output or f'{flags.model_dir}/peek/{peeks[0].step}'
  reports = [of.report() for of in peeks]
  written = files.write(output, reports)
  if flags.json:
    baseline = reports[1] if len(reports) == 2 else None
    print(json.dumps({**reports[0], 'baseline': baseline, 'output': output}))
  else:
    _print(peeks)
    print(f'{written[0]} and {len(written) - 1} more files beside it')


def _check_comparable(one: Peek, other: Peek) -> None:
  if one.look.entropy.shape != other.look.entropy.shape or not np.array_equal(
    one.look.bins, other.look.bins
  ):
    raise UserError(
      f'--baseline has {len(other.look.entropy)} encoder layers and '
      f'{len(other.look.tasks)} tasks, and this run {len(one.look.entropy)} and '
      f'{len(one.look.tasks)}, or inputs of another length: compare runs of the same '
      'size, tasks and TASK_FEATURE_LENGTHS'
    )


if __name__ == '__main__':
  from hyperprompt_jax import cli

  cli.run('peek')
