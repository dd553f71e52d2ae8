"""The inspection of one checkpoint of a run, on examples of its validation splits."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from hyperprompt_jax.data import datasets
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.inspection.look import Look, look
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class Peek:
  """The inspection of one checkpoint.

  Attributes:
    name: names the run in legends.
    method: names the class of its method.
    step: is the checkpoint's step.
    look: holds the numbers.
  """

  name: str
  method: str
  step: int
  look: Look

  def report(self) -> dict:
    """Returns a JSON object."""
    return {
      'run': self.name,
      'method': self.method,
      'step': self.step,
      **self.look.report(),
    }


def peek(
  run: runs.Run,
  data: DataSettings,
  choice: str = 'latest',
  num_examples: int = 100,
) -> Peek:
  """Looks at a checkpoint with examples of a mixture's validation splits.

  Args:
    run: is the run that has the checkpoint.
    data: describes the mixture, which has the run's task list, its lengths and batches.
    choice: is a step, 'latest' or 'best'.
    num_examples: is the number of examples that are taken of each SeqIO task.

  Raises:
    UserError: if there is no such checkpoint, mixture or split.
  """
  if num_examples < 1:
    raise UserError(f'--num_examples must be a positive integer, not {num_examples}')
  name, batch_size = data.mixture_or_task_name, data.batch_size
  run.check_task_list(name)
  datasets.check_mixture(name, 'validation', use_cached=data.use_cached)
  run.partitioner.check(batch_size=batch_size)
  step = run.step(choice)
  # Before the data is opened: of another benchmark it may have to be downloaded first.
  run.check_step(step)
  rows_by_task = datasets.split_rows(name, Access.from_settings(data), limit=num_examples)

  def batches() -> Iterator[Mapping[str, np.ndarray]]:
    for name, rows in rows_by_task.items():
      terminal.stderr_console().print(f'looking at {name}')
      yield from rows.batches(batch_size)

  with run.partitioner.activate():
    numbers = look(run.model, run.partitioner, run.restore(step), batches(), batch_size)
  return Peek(
    pathlib.PurePath(run.model_dir).name, type(run.model.method).__name__, step, numbers
  )
