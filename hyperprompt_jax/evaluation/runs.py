"""A finished or running MODEL_DIR, opened for use: its configuration and checkpoints."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import Checkpointer, folders
from hyperprompt_jax.checkpoints.identity import description_of
from hyperprompt_jax.checkpoints.source import Source, open_source, open_step
from hyperprompt_jax.configuration import gin_files, recorded, run_folder
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation.scores import ScoresByStep, best_of_run, scores_by_step
from hyperprompt_jax.inference.loading import describe_bare, read_params
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.programs import Programs
from hyperprompt_jax.inference.tokenizer import open_tokenizer
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.int8 import FLOAT32
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import reporting
from hyperprompt_jax.training.settings import DataSettings
from hyperprompt_jax.training.train_step import abstract_params


def configure(
  model_dir: str,
  run_file: str,
  files: Sequence[str],
  bindings: Sequence[str],
  *,
  trust_gin: bool = False,
) -> None:
  """Configures gin by a run's record, then by the files and bindings of verb and user.

  The user's own tasks are registered as the record says.

  Args:
    model_dir: is the run's folder.
    run_file: is the verb's own gin file.
    files: are the user's further gin files.
    bindings: are the user's bindings.
    trust_gin: says whether the run's config.gin is run in place of the record.

  Raises:
    UserError: if the folder is not that of a run, or anything does not parse.
  """
  if reason := hyperprompt_tasks.unreachable(model_dir):
    raise UserError(f'--model_dir={model_dir} cannot be reached: {reason}')
  record = None
  if not trust_gin:
    if folders.is_bare(model_dir):
      source = open_source(model_dir)
      record = describe_bare(source)
      if source.vocabulary:
        bindings = [f'VOCABULARY={source.vocabulary!r}', *bindings]
    else:
      record = run_folder.record_of(model_dir)
  gin_files.parse(
    *run_folder.composed(
      model_dir, run_file, files, bindings, trust_gin=trust_gin, record=record
    )
  )
  if record:
    # A user's own file may make the mixture anew, as where its data have moved.
    hyperprompt_tasks.declare_again(record.declarations, keep_existing=bool(files))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's model, and where its checkpoints are.

  Attributes:
    model: is the network.
    model_dir: is the run's folder, or that of a bare checkpoint.
    vocabulary: is 'bytes' or a SentencePiece file.
    partitioner: is the device mesh to restore onto.
  """

  model: Model
  model_dir: str
  vocabulary: str
  partitioner: Partitioner

  def __post_init__(self):
    self.model.config.check_vocabulary(hyperprompt_tasks.use_vocabulary(self.vocabulary))

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

  @functools.cached_property
  def _source(self) -> Source | None:
    """The checkpoint of a folder that is no run; None for a run."""
    if '://' in self.model_dir or folders.decide(self.model_dir).kind == folders.RUN:
      return None
    return open_source(self.model_dir)

  def _checkpointer(self) -> Checkpointer:
    return Checkpointer(self.model_dir, self.model.task_list)

  def steps(self) -> list[int]:
    """The steps that have a checkpoint, in ascending order."""
    return [self._source.step] if self._source else self._checkpointer().steps()

  def check_step(self, step: int) -> None:
    """Checks that a checkpoint is of this task list.

    Raises:
      UserError: if it is not.
    """
    if not self._source:
      self._checkpointer().check_task_list(step)

  def scores(self) -> ScoresByStep:
    """The scores that training recorded."""
    path = epath.Path(self.model_dir) / reporting.METRICS_FILE
    return scores_by_step(reporting.read_metrics(path))

  def predictor(self, step: int, data: DataSettings, weights: str = FLOAT32) -> Predictor:
    """Returns a step's model, ready to answer, with the lengths and batches of `data`."""
    record = RecordedRun(
      network=description_of(self.model),
      settings=recorded.settings_of(data),
      task_list=tuple(self.model.task_list),
      tasks={},
    )
    partitioner = self.partitioner if self.partitioner.mesh.size > 1 else None
    programs = Programs(self.model, self.restore(step, weights), partitioner)
    tokenizer = open_tokenizer(self.vocabulary)
    return Predictor(programs, tokenizer, record, step, data.batch_size)

  def restore(self, step: int, weights: str = FLOAT32) -> Any:
    """The parameters of a step, on the run's mesh; `weights` is the dtype of kernels."""
    if self._source or weights != FLOAT32:
      source = self._source or open_step(self.model_dir, step)
      return read_params(self.model, source, self.partitioner, weights)
    like = abstract_params(self.model, self.partitioner)
    return self._checkpointer().restore_params(step, like)

  def step(self, choice: str) -> int:
    """The step that `choice` means: a number, 'latest' or 'best'.

    Raises:
      UserError: if there is no such checkpoint.
    """
    steps = self.steps()
    if not steps:
      raise UserError(f'no checkpoint in {self.model_dir}')
    if choice == 'latest':
      return steps[-1]
    if choice == 'best':
      return best_of_run(self.model_dir, self.scores(), steps)
    if choice not in map(str, steps):
      raise run_folder.no_such_step(choice, steps, ('latest', 'best'))
    return int(choice)
