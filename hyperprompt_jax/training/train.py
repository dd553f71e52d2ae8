"""Training: steps, evaluations and checkpoints, resumed wherever it was cut off."""

import contextlib

import optax
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.evaluation import summary
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import distributed, run_lock, terminal
from hyperprompt_jax.runtime.interrupts import Interrupts
from hyperprompt_jax.training import settings
from hyperprompt_jax.training.setup import Setup

Records = list[dict[str, float]]


def train(
  model: Model,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  data: settings.DataSettings,
  optimisation: settings.OptimisationSettings,
  evaluation: settings.EvaluationSettings,
  checkpoints: settings.CheckpointSettings,
  logs: settings.LogSettings,
) -> Records:
  """Trains a model on a mixture, from the start or from where `model_dir` has got to.

  A run that is interrupted, however often and by whatever means, and started again ends
  with the same parameters, bit for bit, as one that is not.

  Args:
    model: is the network and its losses.
    optimizer: is the optimizer, which turns gradients into updates.
    partitioner: is the device mesh.
    data: describes the data and their batches.
    optimisation: sets how long training takes, and which parameters it changes.
    evaluation: sets when and how much is evaluated.
    checkpoints: names the run's folder, and sets when checkpoints are saved there, which
      are kept, and what the run starts from.
    logs: sets how often and how much the run reports.

  Returns:
    The records of the run's `metrics.jsonl`.

  Raises:
    UserError: for problems that the user can fix, such as another active run in
      `model_dir`, or a loss, gradient or parameter that is not finite.
    Interrupted: after SIGTERM or SIGINT, when the state has been saved.
  """
  setup = Setup(
    model, optimizer, partitioner, data, optimisation, evaluation, checkpoints, logs
  )
  interrupts = Interrupts()
  with setup.on_devices(), contextlib.ExitStack() as stack:
    setup.check()
    initial = setup.open_initial()
    if distributed.is_first():
      setup.print_header()
    stack.enter_context(interrupts.handled())
    with terminal.phase('opening the training data'):
      batches = setup.batches()
    with terminal.phase('trying the metrics'):
      setup.rehearse_metrics()
    setup.make_folder()
    # Orbax removes half-written checkpoints when it opens the folder, even another run's.
    stack.enter_context(run_lock.held(checkpoints.model_dir))
    with terminal.phase('making or restoring the parameters'):
      start = setup.start_or_resume(batches, initial)
    with terminal.phase('opening the validation data'):
      loop = setup.loop(start, batches, interrupts)
    stack.enter_context(contextlib.closing(loop))
    if start.notice:
      loop.progress.message(start.notice)
    loop.run(start.state)
  return loop.metrics.read()


def train_configured() -> Records:
  """Trains as gin configures: once, or each task by itself if tasks share no network.

  Single-task runs follow one another, in MODEL_DIR/TASK, on the parts of the mixture.

  Returns:
    The records of the run; for single-task runs, their evaluations put together.
  """
  method = gin_files.bound_class('model.Model.method')
  if getattr(method, 'shared_backbone', True):
    return gin_files.call(train)
  mixture = gin_files.parameter('settings.DataSettings.mixture_or_task_name')
  parts = hyperprompt_tasks.single_task_mixtures(mixture)
  if len(parts) == 1:
    return gin_files.call(train)
  model_dir = gin_files.parameter('settings.CheckpointSettings.model_dir')
  records = {}
  for number, (task, part) in enumerate(parts.items(), 1):
    terminal.stderr_console().print(f'{task} ({number} of {len(parts)})')
    gin_files.set_macros(
      MIXTURE_OR_TASK_NAME=part, MODEL_DIR=str(epath.Path(model_dir) / task)
    )
    records[task] = gin_files.call(train)
  gin_files.set_macros(MIXTURE_OR_TASK_NAME=mixture, MODEL_DIR=model_dir)
  return summary.merge(records)
