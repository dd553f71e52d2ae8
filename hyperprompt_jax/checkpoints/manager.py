"""A run's checkpoints: their contents, their retention and their checks."""

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax import struct

from hyperprompt_jax.checkpoints import damage, record
from hyperprompt_jax.checkpoints.damage import DamagedError, reading
from hyperprompt_jax.checkpoints.differences import by_path, check_same_parameters
from hyperprompt_jax.checkpoints.frozen import (
  Base,
  check_fingerprint,
  fingerprint,
  where,
  write_base,
)
from hyperprompt_jax.checkpoints.iterator import (
  IteratorHandler,
  IteratorRestore,
  IteratorSave,
  TrainingData,
)
from hyperprompt_jax.checkpoints.lazy import arranged, load
from hyperprompt_jax.checkpoints.retention import Policy, Scores
from hyperprompt_jax.checkpoints.source import frozen_arrays
from hyperprompt_jax.checkpoints.storage import check_folder, check_step_names
from hyperprompt_jax.checkpoints.sums import differing, sums_by_path
from hyperprompt_jax.data.identity import differences
from hyperprompt_jax.errors import UserError, shown
from hyperprompt_jax.runtime import distributed, terminal, workarounds
from hyperprompt_jax.runtime import environment as environments
from hyperprompt_jax.runtime.files import writing
from hyperprompt_jax.training import optimizers
from hyperprompt_jax.training.settings import Retention
from hyperprompt_jax.training.trainable import (
  EVERY_PARAMETER,
  TrainableParameters,
  merge,
  split_by,
)

SUBDIRECTORY = 'checkpoints'
# Where a run that goes on from an older checkpoint leaves the damaged ones.
DAMAGED = 'damaged'


@struct.dataclass
class TrainState:
  """The values that a training step changes.

  Attributes:
    step: counts the steps done, an int32 scalar.
    params: are the network's parameters.
    opt_state: is the optimizer's state.
  """

  step: Any
  params: Any
  opt_state: Any


def has_checkpoints(model_dir: str) -> bool:
  """Whether a run has saved any step, so that it goes on from there.

  Raises:
    UserError: if a folder among the steps has the name of none.
  """
  folder = epath.Path(model_dir) / SUBDIRECTORY
  check_step_names(folder)
  # Orbax finds `007` here, and does not open it later.
  return folder.is_dir() and any(
    (folder / str(step)).is_dir() for step in ocp.utils.checkpoint_steps(folder)
  )


class Checkpointer:
  """Saves and restores the checkpoints in `MODEL_DIR/checkpoints`.

  A checkpoint holds the trainable parameters, the optimizer's state, the position in the
  training data, and the task list; and a reference to the frozen parameters, if there are
  any. Saving is asynchronous and atomic: a step is complete or absent. A restored array has
  the saved bits, by a sum over all of them, or it is refused.

  Args:
    model_dir: is the run's folder.
    task_list: holds the conditioned tasks that the run's task ids index.
    retention: chooses the steps that are kept; None opens the folder for reading alone.
    scores: maps steps to the scores of each task and of `AVERAGE`. Every save reads it.
    data: describes the training data by JSON values, which a resumed run must share. A
      position in other data means nothing, and TensorFlow does not always notice.
    trainable: selects the parameters that training changes; the others are not saved.
    environment: describes machine and packages (`runtime.environment.describe`). A run that
      resumes elsewhere goes on with a warning that names the changes.
  """

  def __init__(
    self,
    model_dir: str,
    task_list: Sequence[str],
    retention: Retention | None = None,
    scores: Mapping[int, Scores] | None = None,
    data: Mapping[str, Any] | None = None,
    trainable: TrainableParameters = EVERY_PARAMETER,
    environment: Mapping[str, str] | None = None,
  ):
    workarounds.silence_abandoned_reads()
    workarounds.skip_tensorstore_metrics()
    self._model_dir = epath.Path(model_dir).absolute()
    self.directory = self._model_dir / SUBDIRECTORY
    self._task_list = list(task_list)
    self._data = dict(data or {})
    self._trainable = trainable
    self._environment = dict(environment or {})
    self._base: Base | None = None
    # The step of the checkpoint that this run started from.
    self.initial_step = 0
    if retention is None and not self.directory.is_dir():
      raise UserError(f'no checkpoints in {model_dir}: train there first')
    if not str(self.directory).startswith('gs://'):
      check_folder(self.directory)  # before Orbax, which would wait for a pipe
    check_step_names(self.directory)
    options = ocp.CheckpointManagerOptions(
      read_only=retention is None,
      # Removes the rest of a write that was killed.
      cleanup_tmp_directories=retention is not None,
      preservation_policy=retention and Policy(retention, scores or {}),
    )
    handlers = {
      'params': ocp.StandardCheckpointHandler(),
      'optimizer': ocp.StandardCheckpointHandler(),
      'run': ocp.JsonCheckpointHandler(),
      'data': IteratorHandler(),
    }
    with writing(self.directory):
      self._manager = ocp.CheckpointManager(
        self.directory, options=options, item_handlers=handlers
      )

  def steps(self) -> list[int]:
    """Steps with a whole checkpoint, in ascending order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The last step with a whole checkpoint."""
    return self._manager.latest_step()

  def start(self, state: TrainState, initial: str | None) -> None:
    """Fixes the first step and the base, which all checkpoints share.

    Args:
      state: is the state that training starts with.
      initial: names a checkpoint that holds the very parameters that will not be trained;
        None writes them to the run's folder.
    """
    self.initial_step = int(state.step)
    _, frozen = self._trainable.split(state.params)
    if frozen and initial:
      self._base = Base(initial, fingerprint(by_path(frozen).items()))
    elif frozen:
      with writing(self._model_dir):
        self._base = write_base(self._model_dir, frozen)

  def save(self, state: TrainState, batches: TrainingData) -> None:
    """Begins to save a step; returns when state and data may be moved on."""
    params, _ = self._trainable.split(state.params)
    run = record.RunRecord(
      self._task_list,
      {**self._data, **batches.record()},
      batches.num_shards,
      self.initial_step,
      self._base,
      {'params': sums_by_path(params), 'optimizer': sums_by_path(state.opt_state)},
      self._environment,
    )
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(params),
      optimizer=ocp.args.StandardSave(state.opt_state),
      run=ocp.args.JsonSave(run.to_json()),
      data=IteratorSave(batches),
    )
    with writing(self.directory):
      self._manager.save(int(state.step), args=items, force=True)

  def num_data_shards(self) -> int | None:
    """The number of shards of the run's data; None before its first checkpoint."""
    steps = self.steps()
    for step in reversed(steps):
      # All checkpoints of a run have the same number. Restoring reports a damaged one.
      with contextlib.suppress(DamagedError):
        return self._read_run(step).num_data_shards
    return self._read_run(steps[-1]).num_data_shards if steps else None

  def restore_latest(self, like: TrainState, batches: TrainingData) -> TrainState:
    """Restores the last step that is intact.

    On one host, damaged checkpoints after it are moved to `MODEL_DIR/damaged`, with a
    warning that names them. Their steps are done again, with the same results.

    Args:
      like: has the shapes, dtypes and shardings of the state.
      batches: is the run's training data at its start.

    Raises:
      UserError: if there is none, or as `restore` does.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(self.steps()):
      try:
        state = self.restore(step, like, batches)
      except DamagedError as error:
        damaged[step] = error
        # Hosts would have to agree, and remote storage may deliver missing files later.
        if jax.process_count() > 1 or str(self._model_dir).startswith('gs://'):
          break
        continue
      for newer in damaged:
        self._set_aside(newer, damaged[newer], step)
      return state
    raise next(iter(damaged.values()))

  def _set_aside(self, step: int, error: DamagedError, intact: int) -> None:
    """Moves a damaged checkpoint out of the run's way, and says so."""
    target = self._model_dir / DAMAGED / f'{step}-{uuid.uuid4().hex[:8]}'
    try:
      target.parent.mkdir(exist_ok=True)
      (self.directory / str(step)).rename(target)
    except OSError as failure:
      raise UserError(f'{error}; it cannot be moved to {target}: {failure}') from failure
    self._manager.reload()
    terminal.stderr_console().print(
      f'WARNING: checkpoint {error.where} is damaged or incomplete ({error.reason}); it is '
      f'now {target}, and the run goes on from step {intact}, the last intact one'
    )

  def restore(self, step: int, like: TrainState, batches: TrainingData) -> TrainState:
    """Restores a run: its state, and its position in the data, into `batches`.

    Args:
      step: is one of `steps()`.
      like: has the shapes, dtypes and shardings of the state.
      batches: is the run's training data at its start.

    Raises:
      UserError: if the checkpoint cannot be read or is of another network, task list or
        training data.
    """
    run = self._open(step)
    # First the network, whose differences have a table.
    self._check_parameters(step, like.params, run)
    self._check_data(step, run, batches)
    self._base, self.initial_step = run.base, run.initial_step
    params = self._restore_params(step, like.params, run)
    items = self._restore(
      step,
      optimizer=ocp.args.StandardRestore(self._optimizer_to_restore(step, like)),
      data=IteratorRestore(batches),
    )
    self._check_sums(step, run, 'optimizer', items.optimizer)
    self._check_position(step, run, batches)
    self._warn_of_changes(step, run)
    opt_state = optimizers.as_wanted(items.optimizer, like.opt_state)
    restored_step = jax.device_put(jax.numpy.int32(step), like.step.sharding)
    return TrainState(restored_step, params, opt_state)

  def _warn_of_changes(self, step: int, run: record.RunRecord) -> None:
    """Warns of changes of machine and packages since a checkpoint was written."""
    changed = list(environments.changes(run.environment or {}, self._environment))
    if changed and run.environment:
      terminal.say(
        f'WARNING: since step {step} {", ".join(changed)}: the run goes on, and its bits '
        'may differ from those of an uninterrupted run'
      )

  def _optimizer_to_restore(self, step: int, like: TrainState) -> Any:
    """Shapes, dtypes and shardings of the optimizer's state in a checkpoint."""
    checkpoint = self.directory / str(step)
    with reading(str(checkpoint)):
      saved = self._manager.item_metadata(step)['optimizer'].tree
    wanted = optimizers.as_saved(like.opt_state, saved, like.step.sharding)
    shapes = [
      sorted(tuple(leaf.shape) for leaf in by_path(tree).values())
      for tree in (saved, wanted)
    ]
    if shapes[0] != shapes[1]:
      raise UserError(
        f'checkpoint {checkpoint} has the state of another optimizer: keep the OPTIMIZER '
        'that it was trained with, or start from it in another folder, by '
        'INITIAL_CHECKPOINT_PATH'
      )
    return wanted

  def restore_params(self, step: int, like: Any) -> Any:
    """Restores the parameters alone, into the shapes and shardings of `like`.

    Raises:
      UserError: if the checkpoint cannot be read or is of another network or task list.
    """
    return self._restore_params(step, like, self._open(step))

  def _restore_params(self, step: int, like: Any, run: record.RunRecord) -> Any:
    own, frozen = self._check_parameters(step, like, run)
    base = run.base
    like_own, like_frozen = split_by(like, lambda path: '/'.join(path) in own)
    params = self._restore(step, params=ocp.args.StandardRestore(like_own)).params
    self._check_sums(step, run, 'params', params)
    if base:
      with reading(where(self._model_dir, base), damage.PUT_BACK):
        unchanged = load(frozen, by_path(like_frozen), 'reading the base')
        check_fingerprint(self._model_dir, base, by_path(unchanged).items())
        params = merge(params, unchanged)
    return params

  def _check_parameters(
    self, step: int, like: Any, run: record.RunRecord
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compares a checkpoint's parameters with the network's, by path and shape.

    Returns:
      Metadata of the checkpoint's own parameters, and its frozen ones, both by path.
    """
    checkpoint = str(self.directory / str(step))
    with reading(checkpoint):
      own = by_path(self._manager.item_metadata(step)['params'].tree)
    wanted = by_path(like)
    frozen: Any = {}
    if run.base:
      with reading(where(self._model_dir, run.base), damage.PUT_BACK):
        frozen = arranged(frozen_arrays(self._model_dir, run.base), wanted)
    # The base may hold trainable parameters, too, with their values before training.
    check_same_parameters(checkpoint, wanted=wanted, saved={**frozen, **own})
    return own, frozen

  def wait(self) -> None:
    """Waits until the current save is on disk; raises the error of a save that failed."""
    with writing(self.directory):
      # Orbax's own waiting does not notice that another host is lost.
      distributed.wait_until_all(lambda: not self._manager.is_saving_in_progress())
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and lets go of the folder."""
    with writing(self.directory):
      self._manager.close()

  def check_task_list(self, step: int) -> None:
    """Checks that task ids have the same meaning in a checkpoint as in this run.

    Raises:
      UserError: if they do not, or there is no such checkpoint.
    """
    self._open(step)

  def _open(self, step: int) -> record.RunRecord:
    """Returns the record of a checkpoint's run, which must be of this task list."""
    if step not in self.steps():
      raise UserError(
        f'{self.directory} has no checkpoint of step {step}; it has '
        f'{", ".join(map(str, self.steps())) or "none"}'
      )
    run = self._read_run(step)
    if run.task_list != self._task_list:
      raise UserError(
        f'checkpoint {self.directory / str(step)} is of the task list '
        f'{", ".join(run.task_list)}; this run has {", ".join(self._task_list)}: use the '
        'same mixture'
      )
    return run

  def _check_data(self, step: int, run: record.RunRecord, batches: TrainingData) -> None:
    saved = {**run.data, 'NUM_DATA_SHARDS': run.num_data_shards}
    wanted = {**self._data, **batches.record(), 'NUM_DATA_SHARDS': batches.num_shards}
    tasks = wanted.pop('TASKS', {})
    for name, value in wanted.items():
      if saved.get(name) != value:
        raise UserError(
          f'checkpoint {self.directory / str(step)} was trained with {name}='
          f'{shown(saved.get(name))}; this run has {value!r}: keep the old value, or train '
          'in another folder'
        )
    if tasks and (changes := list(differences(saved.get('TASKS'), tasks))):
      more = f' (and {len(changes) - 1} more)' if len(changes) > 1 else ''
      raise UserError(
        f'checkpoint {self.directory / str(step)} was trained on other data: '
        f'{changes[0]}{more}; put back what the run began with, or train in another folder'
      )

  def _check_position(
    self, step: int, run: record.RunRecord, batches: TrainingData
  ) -> None:
    if batches.number not in (None, step - run.initial_step):
      raise DamagedError(
        str(self.directory / str(step)),
        damage.DELETE,
        f'data: its position is that of step {run.initial_step + batches.number}',
      )

  def _check_sums(self, step: int, run: record.RunRecord, item: str, restored: Any) -> None:
    if run.sums is not None and (changed := differing(restored, run.sums[item])):
      raise DamagedError(
        str(self.directory / str(step)),
        damage.DELETE,
        f'{item}: {changed[0]} has other bits than were saved',
      )

  def _read_run(self, step: int) -> record.RunRecord:
    contents = self._restore(step, run=ocp.args.JsonRestore()).run
    with reading(str(self.directory / str(step))):
      return record.of_json(contents)

  def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
    with reading(str(self.directory / str(step))):
      return self._manager.restore(step, args=ocp.args.Composite(**items))
