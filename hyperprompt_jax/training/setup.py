"""The parts of a training run, made and checked: `train` puts them together."""

import contextlib
import dataclasses
import functools
import uuid
from collections.abc import Iterator

import gin
import optax
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import (
  Checkpointer,
  Initial,
  TrainState,
  has_checkpoints,
  open_initial,
)
from hyperprompt_jax.checkpoints.identity import identity_of
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.data import access, datasets, report, stream
from hyperprompt_jax.data.access import TrainingBatches
from hyperprompt_jax.data.indexed import BatchSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation.evaluator import Evaluator
from hyperprompt_jax.evaluation.scores import ScoresByStep, scores_by_step
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import (
  distributed,
  environment,
  files,
  memory,
  reporting,
  terminal,
  trackers,
)
from hyperprompt_jax.runtime.files import writing
from hyperprompt_jax.runtime.interrupts import Interrupts
from hyperprompt_jax.training import early_stopping, header, recording, settings, trainable
from hyperprompt_jax.training.loop import TrainingLoop
from hyperprompt_jax.training.schedule import Schedule
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)
from hyperprompt_tasks import metric_guard


@dataclasses.dataclass(frozen=True)
class Start:
  """The point from which a run goes on.

  Attributes:
    state: is the state of training.
    checkpointer: holds the run's checkpoints.
    scores: holds the scores of each evaluated step, which the checkpointer reads.
    notice: is a line for the user that says where the run goes on; empty if it is fresh.
  """

  state: TrainState
  checkpointer: Checkpointer
  scores: ScoresByStep
  notice: str


@dataclasses.dataclass(frozen=True)
class Setup:
  """The objects and settings of a training run; see `train.train`."""

  model: Model
  optimizer: optax.GradientTransformation
  partitioner: Partitioner
  data: settings.DataSettings
  optimisation: settings.OptimisationSettings
  evaluation: settings.EvaluationSettings
  checkpoints: settings.CheckpointSettings
  logs: settings.LogSettings

  @functools.cached_property
  def trainable(self) -> trainable.TrainableParameters:
    """The parameters that training changes."""
    return trainable.resolve(self.model.param_axes(), self.optimisation.trainable)

  @functools.cached_property
  def like(self) -> TrainState:
    """Shapes, dtypes and shardings of the state."""
    return abstract_state(self.model, self.optimizer, self.partitioner, self.trainable)

  def check(self) -> None:
    """Finds the user's mistakes before anything is written or compiled.

    Raises:
      UserError: if the settings, the network, the data and the mesh do not go together.
    """
    data, config = self.data, self.model.config
    name, num_microbatches = data.mixture_or_task_name, self.optimisation.num_microbatches
    config.check_vocabulary(hyperprompt_tasks.use_vocabulary(data.vocabulary))
    assert self.trainable  # its choice is checked when it is resolved
    if not self.model.method.shared_backbone:
      parts = hyperprompt_tasks.single_task_mixtures(name)
      if len(parts) > 1:
        raise UserError(
          f'{name} trains {len(parts)} tasks, and this method one at a time: train '
          f'{", ".join(parts.values())}'
        )
    datasets.check_mixture(name, 'train', use_cached=data.use_cached)
    if data.batch_size % num_microbatches:
      raise UserError(
        f'BATCH_SIZE={data.batch_size} is not divided by '
        f'NUM_MICROBATCHES={num_microbatches}'
      )
    self.partitioner.check(
      batch_size=data.batch_size // num_microbatches,
      emb_dim=config.emb_dim,
      num_heads=config.num_heads,
      mlp_dim=config.mlp_dim,
      vocab_size=config.vocab_size,
    )
    trackers.check(self.logs.tracker)
    early_stopping.check(self.evaluation.early_stopping, name)
    # Checked here, because libraries would retry for minutes.
    model_dir = self.checkpoints.model_dir
    if reason := hyperprompt_tasks.unreachable(model_dir):
      raise UserError(f'MODEL_DIR {model_dir} cannot be reached: {reason}')

  @contextlib.contextmanager
  def on_devices(self) -> Iterator[None]:
    """Activates the mesh; a lack of memory becomes a line that names settings to change."""
    advice = memory.advice_for_training(
      batch_size=self.data.batch_size,
      num_microbatches=self.optimisation.num_microbatches,
      remat_policy=self.model.config.remat_policy,
      fsdp=self.partitioner.fsdp,
      devices=self.partitioner.mesh.size,
    )
    with self.partitioner.activate(), memory.explained(advice):
      yield

  def open_initial(self) -> Initial | None:
    """Opens the checkpoint that a fresh run starts from; None for random parameters.

    Raises:
      UserError: if it cannot be read, does not fit the network, or leaves no steps.
    """
    initial = None
    if not has_checkpoints(self.checkpoints.model_dir):
      initial = open_initial(self.checkpoints.initial, self.model)
    self.optimisation.last_step(initial.step if initial else 0)
    return initial

  def print_header(self) -> None:
    """Prints the header of the run."""
    for line in header.lines(
      self.model,
      self.partitioner,
      self.data,
      self.optimisation,
      self.evaluation,
      self.checkpoints,
    ):
      terminal.say(line)

  def batches(self) -> TrainingBatches:
    """The training data from the start."""
    data = self.data
    num_shards = data.num_data_shards
    if num_shards is None:
      num_shards = self._num_data_shards()
    stream.check_shards(data.batch_size, num_shards)
    batches = BatchSettings(
      data.task_feature_lengths, data.batch_size, data.seed, data.pack, data.max_segments
    )
    return access.training_batches(
      data.mixture_or_task_name,
      batches,
      access.Access.from_settings(data),
      self.partitioner,
      num_shards,
    )

  def _num_data_shards(self) -> int:
    """The number of shards that the run began with; for a fresh run, as fits the hosts."""
    model_dir = self.checkpoints.model_dir
    if has_checkpoints(model_dir):
      with contextlib.closing(
        Checkpointer(model_dir, self.model.task_list)
      ) as checkpointer:
        if number := checkpointer.num_data_shards():
          return number
    return stream.default_num_shards(self.partitioner, self.data.batch_size)

  def make_folder(self) -> None:
    """Makes MODEL_DIR, and checks that it can be written and that all hosts share it."""
    folder = epath.Path(self.checkpoints.model_dir)
    try:
      folder.mkdir(parents=True, exist_ok=True)
      trial = folder / f'.trial-{uuid.uuid4().hex}'
      trial.touch()
      trial.unlink()
    except OSError as error:
      raise UserError(f'MODEL_DIR {folder} cannot be written: {error}') from error
    distributed.check_shared(folder)

  def rehearse_metrics(self) -> None:
    """Tries the tasks' own metrics on a few rows, before hours are spent.

    Raises:
      UserError: if one fails, and FAILING_METRICS says that this ends the run.
    """
    failures = metric_guard.rehearse(
      self.data.mixture_or_task_name, use_cached=self.data.use_cached
    )
    for failure in failures:
      tried = f'{failure}, when tried on a few rows'
      if self.evaluation.failing_metrics == settings.END:
        raise UserError(f'{tried}: mend it, or set FAILING_METRICS to {settings.WARN!r}')
      terminal.say(
        f'WARNING: {tried}; training begins, and has no score of this task wherever that '
        'happens in an evaluation'
      )

  def start_or_resume(self, batches: TrainingBatches, initial: Initial | None) -> Start:
    """Restores the last checkpoint with its position in the data, or makes a fresh state.

    Args:
      batches: are the training data from the start.
      initial: is the checkpoint that a fresh run starts from.
    """
    model_dir = self.checkpoints.model_dir
    scores: ScoresByStep = {}
    checkpointer = self._checkpointer(scores)
    if checkpointer.latest_step() is not None:
      state = checkpointer.restore_latest(self.like, batches)
      step, last_step = int(state.step), self._last_step(checkpointer)
      done = f'; nothing is left of {last_step}' if step >= last_step else ''
      notice = f'resuming from step {step} of {model_dir}{done}'
      return Start(state, checkpointer, scores, notice)
    self._report_data()
    state = initial_state(
      self.model,
      self.optimizer,
      self.like,
      self.data.seed,
      self.trainable,
      initial=initial,
    )
    checkpointer.start(state, initial.reference if initial else None)
    notice = ''
    if initial:
      source = initial.source
      notice = f'starting from step {initial.step} of {source.path} ({source.kind})'
    return Start(state, checkpointer, scores, notice)

  def _last_step(self, checkpointer: Checkpointer) -> int:
    return self.optimisation.last_step(checkpointer.initial_step)

  def _checkpointer(self, scores: ScoresByStep) -> Checkpointer:
    data = self.data
    recorded = {
      'MIXTURE_OR_TASK_NAME': data.mixture_or_task_name,
      'TASK_FEATURE_LENGTHS': dict(data.task_feature_lengths),
      'BATCH_SIZE': data.batch_size,
      'VOCABULARY': data.vocabulary,
      'RANDOM_SEED': data.seed,
      'USE_CACHED_TASKS': data.use_cached,
      'PACK': data.max_segments if data.pack else False,
      'TUNED_PARAMETERS': self.optimisation.trainable,
      **identity_of(self.model),
    }
    return Checkpointer(
      self.checkpoints.model_dir,
      self.model.task_list,
      self.checkpoints.retention,
      scores,
      recorded,
      self.trainable,
      environment.describe(self.partitioner.mesh),
    )

  def _report_data(self) -> None:
    """Reports how many of the first examples are cut, and how labels are spread."""
    data, number = self.data, self.logs.data_report_examples
    if number and distributed.is_first():
      source = access.Access.from_settings(data)
      tasks = report.look(data.mixture_or_task_name, source, number, self.evaluation.tasks)
      report.show(tasks, data.task_feature_lengths)
      report.write(tasks, self.checkpoints.model_dir)

  def _write_configuration(self) -> None:
    """Writes the run's record, for others to use it, and its whole gin configuration."""
    if not distributed.is_first():
      return
    model_dir = self.checkpoints.model_dir
    record = recording.record_of(self.model, self.data, self.evaluation)
    with writing(model_dir):
      recording.write(record, model_dir, self.data.vocabulary)
      files.write_whole(epath.Path(model_dir) / run_folder.CONFIG_FILE, gin.config_str())

  def loop(
    self, start: Start, batches: TrainingBatches, interrupts: Interrupts
  ) -> TrainingLoop:
    """The loop of training, after the configuration has been written to MODEL_DIR.

    Args:
      start: is the point from which the run goes on.
      batches: are the training data at that point.
      interrupts: notices the signals that end the run.
    """
    model_dir, step = self.checkpoints.model_dir, int(start.state.step)
    last_step = self._last_step(start.checkpointer)
    # Written last: a start with another model must not replace the run's configuration.
    self._write_configuration()
    logs = self.logs
    metrics = reporting.Metrics(model_dir, step, logs.tracker, logs.tracker_project)
    records = metrics.read()
    start.scores.update(scores_by_step(records))
    return TrainingLoop(
      train_step=make_train_step(
        self.model,
        self.optimizer,
        self.partitioner,
        self.like,
        seed=self.data.seed,
        num_microbatches=self.optimisation.num_microbatches,
        trainable=self.trainable,
      ),
      batches=batches,
      partitioner=self.partitioner,
      task_list=self.model.task_list,
      schedule=Schedule(
        first_step=start.checkpointer.initial_step,
        last_step=last_step,
        eval_period=self.evaluation.period,
        checkpoint_period=self.checkpoints.period,
        log_period=logs.period,
      ),
      evaluator=Evaluator(
        self.model,
        self.partitioner,
        self.data,
        self.evaluation,
        log_dir=str(epath.Path(model_dir) / 'inference_eval'),
        between_batches=interrupts.check,
      ),
      checkpointer=start.checkpointer,
      metrics=metrics,
      progress=terminal.Progress(last_step, step, enabled=distributed.is_first()),
      scores=start.scores,
      watch=early_stopping.Watch(self.evaluation.early_stopping, records),
      interrupts=interrupts,
      failing_metrics=self.evaluation.failing_metrics,
    )
