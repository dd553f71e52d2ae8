"""Training: steps, evaluations and checkpoints, resumed wherever it was cut off."""

import contextlib
import uuid

import gin
import optax
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import (
  Checkpointer,
  InitialCheckpoint,
  Retention,
  has_checkpoints,
)
from hyperprompt_jax.checkpoints.identity import identity_of
from hyperprompt_jax.checkpoints.storage import writing
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.data import datasets, report
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import runs, summary
from hyperprompt_jax.evaluation.evaluator import Evaluator, check_amounts
from hyperprompt_jax.model import Model, check_vocabulary
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import distributed, files, reporting, run_lock, terminal
from hyperprompt_jax.runtime.interrupts import Interrupts
from hyperprompt_jax.training import trainable
from hyperprompt_jax.training.loop import TrainingLoop
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)


def train(
  model: Model,
  model_dir: str,
  mixture_or_task_name: str,
  task_feature_lengths: datasets.Lengths,
  vocabulary: str,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  total_steps: int | None,
  batch_size: int,
  eval_period: int,
  eval_steps: int,
  checkpoint_period: int,
  retention: Retention,
  relative_steps: int | None = None,
  initial: InitialCheckpoint | None = None,
  num_microbatches: int = 1,
  tuned: str = trainable.ALL,
  pack: bool = False,
  max_segments: int = 8,
  log_period: int = 50,
  random_seed: int = 0,
  use_cached: bool = False,
  num_data_shards: int | None = None,
  num_eval_examples: int | None = None,
  rank_labels: bool = False,
  data_report_examples: int = 0,
) -> list[dict[str, float]]:
  """Trains a model on a mixture, from the start or from where `model_dir` has got to.

  A run that is interrupted, however often and by whatever means, and started again ends
  with the same parameters, bit for bit, as one that is not.

  Args:
    model: the network and its losses.
    model_dir: the run's folder: checkpoints, metrics, configuration, predictions.
    mixture_or_task_name: SeqIO mixture or task, with a task list.
    task_feature_lengths: of `inputs` and `targets`.
    vocabulary: 'bytes' or a SentencePiece file.
    optimizer: what turns gradients into updates.
    partitioner: the device mesh.
    total_steps: where training ends, the steps of the initial checkpoint included.
    batch_size: examples of a step, over all devices.
    eval_period: steps between evaluations; the last step is evaluated too.
    eval_steps: batches of each task for the validation loss.
    checkpoint_period: steps between checkpoints; the last step is saved too.
    retention: which checkpoints are kept.
    relative_steps: steps of this run alone, in place of `total_steps`.
    initial: the checkpoint that a run starts from, and counts its steps from; None for
      random parameters.
    num_microbatches: parts that a batch is worked through in, to save memory.
    tuned: which parameters are trained: 'all'; 'task', those of the method;
      'task_and_layer_norms'; or 'last_task', those of the last task of the task list.
    pack: whether a row holds several examples, of whatever tasks.
    max_segments: the most examples of a packed row.
    log_period: steps between reports of the training metrics.
    random_seed: of initialisation, dropout, shuffling and mixing.
    use_cached: whether to read SeqIO's cache in place of the sources.
    num_data_shards: parts that the data are read in, on however many hosts; None for as
      many as the run began with, and that for one to each group of hosts.
    num_eval_examples: of each task, to generate for; None for all.
    rank_labels: whether evaluation answers tasks with a closed set of labels with the
      likeliest one, in place of what is generated.
    data_report_examples: training examples of each task that a run looks at before it
      starts, to say what is cut and how labels are spread; 0 for none.

  Returns:
    The records of the run's `metrics.jsonl`.

  Raises:
    UserError: for what the user can mend; see docs of each part. Among it: another run
      is active in `model_dir`, or a loss, gradient or parameter is not finite.
    Interrupted: after SIGTERM or SIGINT, when the state has been saved.
  """
  check_vocabulary(hyperprompt_tasks.use_vocabulary(vocabulary), model.config)
  _check(
    model,
    mixture_or_task_name,
    task_feature_lengths,
    partitioner,
    batch_size=batch_size,
    num_microbatches=num_microbatches,
    use_cached=use_cached,
    tuned=tuned,
    positive={
      'num_microbatches': num_microbatches,
      'EVAL_PERIOD': eval_period,
      'CHECKPOINT_PERIOD': checkpoint_period,
      'LOG_PERIOD': log_period,
    },
  )
  check_amounts(eval_steps, num_eval_examples)
  # Before libraries try for minutes.
  if reason := hyperprompt_tasks.unreachable(model_dir):
    raise UserError(f'MODEL_DIR {model_dir} cannot be reached: {reason}')
  start = None
  if initial and not has_checkpoints(model_dir):
    start = initial.open_for(model)
  _last_step(total_steps, relative_steps, start.step if start else 0)
  interrupts = Interrupts()
  with partitioner.activate(), interrupts.handled(), contextlib.ExitStack() as stack:
    like = abstract_state(model, optimizer, partitioner, tuned)
    if num_data_shards is None:
      num_data_shards = _num_data_shards(model_dir, model, partitioner, batch_size)
    batches = datasets.TrainingBatches(
      mixture_or_task_name,
      task_feature_lengths,
      partitioner,
      batch_size=batch_size,
      num_shards=num_data_shards,
      seed=random_seed,
      use_cached=use_cached,
      pack=pack,
      max_segments=max_segments,
    )
    _make_folder(model_dir)
    distributed.check_shared(epath.Path(model_dir))
    # Before Orbax clears away what it takes for the rest of a checkpoint.
    stack.enter_context(run_lock.held(model_dir))
    scores: summary.ScoresByStep = {}
    data = {
      'MIXTURE_OR_TASK_NAME': mixture_or_task_name,
      'TASK_FEATURE_LENGTHS': dict(task_feature_lengths),
      'BATCH_SIZE': batch_size,
      'VOCABULARY': vocabulary,
      'RANDOM_SEED': random_seed,
      'USE_CACHED_TASKS': use_cached,
      'PACK': max_segments if pack else False,
      'TUNED_PARAMETERS': tuned,
      **identity_of(model),
    }
    chosen = trainable.choose(model.param_axes(), tuned)
    checkpointer = Checkpointer(model_dir, model.task_list, retention, scores, data, chosen)
    latest = checkpointer.latest_step()
    if latest is None:
      if data_report_examples > 0 and distributed.is_first():
        found = report.look(
          mixture_or_task_name, task_feature_lengths, data_report_examples, use_cached
        )
        report.show(found, task_feature_lengths)
        report.write(found, model_dir)
      state = initial_state(model, optimizer, like, random_seed, tuned, initial=start)
      checkpointer.start(state, start.reference if start else None)
    else:
      state = checkpointer.restore_latest(like, batches)
    first_step, step = checkpointer.initial_step, int(state.step)
    last_step = _last_step(total_steps, relative_steps, first_step)
    # Only now, as a start with another model must not replace what the run is.
    _write_config(model_dir)
    metrics = reporting.Metrics(model_dir, restored_step=step)
    scores.update(summary.scores_by_step(metrics.read()))
    loop = TrainingLoop(
      train_step=make_train_step(
        model,
        optimizer,
        partitioner,
        like,
        seed=random_seed,
        num_microbatches=num_microbatches,
        tuned=tuned,
      ),
      evaluator=Evaluator(
        model,
        partitioner,
        mixture_or_task_name,
        task_feature_lengths,
        batch_size=batch_size,
        eval_steps=eval_steps,
        use_cached=use_cached,
        num_examples=num_eval_examples,
        rank_labels=rank_labels,
        log_dir=str(epath.Path(model_dir) / 'inference_eval'),
        between_batches=interrupts.check,
      ),
      partitioner=partitioner,
      checkpointer=checkpointer,
      metrics=metrics,
      progress=terminal.Progress(last_step, step, enabled=distributed.is_first()),
      scores=scores,
      task_list=model.task_list,
      interrupts=interrupts,
      batches=batches,
      first_step=first_step,
      last_step=last_step,
      eval_period=eval_period,
      checkpoint_period=checkpoint_period,
      log_period=log_period,
    )
    with contextlib.closing(loop):
      if latest is not None:
        done = f'; nothing is left of {last_step}' if step >= last_step else ''
        loop.progress.message(f'resuming from step {step} of {model_dir}{done}')
      elif start:
        loop.progress.message(
          f'starting from step {step} of {start.source.path} ({start.source.kind})'
        )
      loop.run(state)
  return metrics.read()


def _check(
  model: Model,
  mixture_or_task_name: str,
  task_feature_lengths: datasets.Lengths,
  partitioner: Partitioner,
  *,
  batch_size: int,
  num_microbatches: int,
  use_cached: bool,
  tuned: str,
  positive: dict[str, int],
) -> None:
  """Finds the user's mistakes before anything is written or compiled."""
  for name, number in positive.items():
    if number < 1:
      raise UserError(f'{name} must be a positive integer, not {number}')
  trainable.choose(model.param_axes(), tuned)
  if not model.method.shared_backbone:
    parts = hyperprompt_tasks.single_task_mixtures(mixture_or_task_name)
    if len(parts) > 1:
      raise UserError(
        f'{mixture_or_task_name} trains {len(parts)} tasks, and this method one at a '
        f'time: train {", ".join(parts.values())}'
      )
  datasets.check_mixture(mixture_or_task_name, 'train', use_cached=use_cached)
  datasets.check_lengths(task_feature_lengths)
  if batch_size % num_microbatches:
    raise UserError(
      f'BATCH_SIZE={batch_size} is not divided by num_microbatches={num_microbatches}'
    )
  partitioner.check(
    batch_size=batch_size // num_microbatches,
    emb_dim=model.config.emb_dim,
    num_heads=model.config.num_heads,
    mlp_dim=model.config.mlp_dim,
    vocab_size=model.config.vocab_size,
  )


def _last_step(
  total_steps: int | None, relative_steps: int | None, initial_step: int
) -> int:
  """The step that training ends at; TRAIN_STEPS_RELATIVE goes first, as in T5X.

  Args:
    total_steps: TRAIN_STEPS, the steps of the initial checkpoint included.
    relative_steps: TRAIN_STEPS_RELATIVE.
    initial_step: steps of the initial checkpoint.
  """
  for name, steps in {
    'TRAIN_STEPS_RELATIVE': relative_steps,
    'TRAIN_STEPS': total_steps,
  }.items():
    if steps is not None and steps < 1:
      raise UserError(f'{name} must be a positive integer, not {steps}')
  if relative_steps is not None:
    return initial_step + relative_steps
  if total_steps is None:
    raise UserError('TRAIN_STEPS must be set: add --gin.TRAIN_STEPS=…')
  if initial_step and total_steps <= initial_step:
    raise UserError(
      f'TRAIN_STEPS={total_steps} leaves nothing to train: it counts the {initial_step} '
      'steps of INITIAL_CHECKPOINT_PATH, too; set '
      f'TRAIN_STEPS={initial_step + total_steps} or TRAIN_STEPS_RELATIVE={total_steps}'
    )
  return total_steps


def _num_data_shards(
  model_dir: str, model: Model, partitioner: Partitioner, batch_size: int
) -> int:
  """As many shards of the data as the run began with; as fit the hosts, if it begins."""
  if has_checkpoints(model_dir):
    with contextlib.closing(Checkpointer(model_dir, model.task_list)) as checkpointer:
      if number := checkpointer.num_data_shards():
        return number
  return datasets.default_num_shards(partitioner, batch_size)


def _make_folder(model_dir: str) -> None:
  """Makes MODEL_DIR, and finds out whether it can be written."""
  if not model_dir:
    raise UserError('MODEL_DIR is empty: name a folder for the run')
  folder = epath.Path(model_dir)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f'.trial-{uuid.uuid4().hex}'
    trial.touch()
    trial.unlink()
  except OSError as error:
    raise UserError(f'MODEL_DIR {model_dir} cannot be written: {error}') from error


def _write_config(model_dir: str) -> None:
  """Writes the configuration, whole, for `eval` and `infer` to read."""
  if not distributed.is_first():
    return
  with writing(model_dir):
    files.write_whole(epath.Path(model_dir) / runs.CONFIG_FILE, gin.config_str())


def train_configured() -> list[dict[str, float]]:
  """Trains what gin has bound: once, or where tasks share no network, each by itself.

  Single-task runs follow one another, in MODEL_DIR/TASK, on the parts of the mixture.

  Returns:
    The records of the run; of single-task runs, their evaluations put together.
  """
  method = gin_files.bound_class('model.Model.method')
  if getattr(method, 'shared_backbone', True):
    return gin_files.call(train)
  mixture = gin_files.parameter('train.train.mixture_or_task_name')
  parts = hyperprompt_tasks.single_task_mixtures(mixture)
  if len(parts) == 1:
    return gin_files.call(train)
  model_dir = gin_files.parameter('train.train.model_dir')
  records = {}
  for number, (task, part) in enumerate(parts.items(), 1):
    terminal.stderr_console().print(f'{task} ({number} of {len(parts)})')
    gin_files.set_macros(
      MIXTURE_OR_TASK_NAME=part, MODEL_DIR=str(epath.Path(model_dir) / task)
    )
    records[task] = gin_files.call(train)
  gin_files.set_macros(MIXTURE_OR_TASK_NAME=mixture, MODEL_DIR=model_dir)
  return summary.merge(records)
