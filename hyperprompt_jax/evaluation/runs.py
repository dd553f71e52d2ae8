"""A finished or running MODEL_DIR, opened for use: its configuration and checkpoints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import AVERAGE, Checkpointer
from hyperprompt_jax.configuration import gin_files, run_folder
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import summary
from hyperprompt_jax.model import Model, check_vocabulary
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import reporting
from hyperprompt_jax.training.train_step import abstract_params


def configure(
  model_dir: str, run_file: str, files: Sequence[str], bindings: Sequence[str]
) -> None:
  """Parses a run's own configuration, then what a verb adds to it.

  Args:
    model_dir: is the run's folder.
    run_file: is the verb's own gin file.
    files: are the user's further gin files.
    bindings: are the user's bindings.

  Raises:
    UserError: if the folder is not that of a run, or anything does not parse.
  """
  if reason := hyperprompt_tasks.unreachable(model_dir):
    raise UserError(f'--model_dir={model_dir} cannot be reached: {reason}')
  gin_files.parse(*run_folder.composed(model_dir, run_file, files, bindings))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's model, and where its checkpoints are.

  Attributes:
    model: is the network.
    model_dir: is the run's folder.
    vocabulary: is 'bytes' or a SentencePiece file.
    partitioner: is the device mesh to restore onto.
  """

  model: Model
  model_dir: str
  vocabulary: str
  partitioner: Partitioner

  def __post_init__(self):
    check_vocabulary(hyperprompt_tasks.use_vocabulary(self.vocabulary), self.model.config)

  def check_task_list(self, name: str) -> None:
    """Checks that the task ids of a SeqIO task or mixture index this run's task list.

    Raises:
      UserError: if they do not.
    """
    task_list = hyperprompt_tasks.task_list(name)
    if tuple(task_list) != tuple(self.model.task_list):
      raise UserError(
        f'{name} is of the task list {", ".join(task_list)}; this run has '
        f'{", ".join(self.model.task_list)}'
      )

  def checkpointer(self) -> Checkpointer:
    """The run's checkpoints, for reading."""
    return Checkpointer(self.model_dir, self.model.task_list)

  def scores(self) -> summary.ScoresByStep:
    """The scores that training recorded."""
    path = epath.Path(self.model_dir) / reporting.METRICS_FILE
    return summary.scores_by_step(reporting.read_metrics(path))

  def restore(self, step: int) -> Any:
    """The parameters of a step, on the run's mesh."""
    like = abstract_params(self.model, self.partitioner)
    return self.checkpointer().restore_params(step, like)

  def step(self, choice: str) -> int:
    """The step that `choice` means: a number, 'latest' or 'best'.

    Raises:
      UserError: if there is no such checkpoint.
    """
    steps = self.checkpointer().steps()
    if not steps:
      raise UserError(f'no checkpoint in {self.model_dir}')
    if choice == 'latest':
      return steps[-1]
    if choice == 'best':
      kept = {step: s for step, s in self.scores().items() if step in steps}
      best = summary.best_step(kept, AVERAGE)
      if best is None:
        raise UserError(f'no checkpoint in {self.model_dir} has an average score yet')
      return best
    if choice not in map(str, steps):
      raise UserError(
        f'--step={choice}: there is no such checkpoint; there are '
        f'{", ".join(map(str, steps))}, latest and best'
      )
    return int(choice)
