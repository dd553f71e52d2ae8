"""The settings of a training run, grouped by subject; all are plain values.

gin binds them under T5X's macro names (`gin/runs/finetune.gin`). Evaluation and inference
use the same groups. This module imports neither JAX nor TensorFlow.
"""

import dataclasses
from collections.abc import Mapping

from hyperprompt_jax.configuration.setting import LARGEST, Settings, setting
from hyperprompt_jax.errors import UserError, shown

# Longer sequences and larger batches than these are mistakes, such as a digit too many.
LONGEST = 2**16
LARGEST_BATCH = 2**20

ALL = 'all'
TASK = 'task'
TASK_AND_LAYER_NORMS = 'task_and_layer_norms'
LAST_TASK = 'last_task'
NONE = 'none'


def _check_lengths(lengths: Mapping[str, int]) -> None:
  """Refuses anything but a length in range for both `inputs` and `targets`."""
  if set(lengths) != {'inputs', 'targets'} or not all(
    0 < length <= LONGEST for length in lengths.values()
  ):
    raise UserError(
      "TASK_FEATURE_LENGTHS must be like {'inputs': 512, 'targets': 64}, each length "
      f'from 1 to {LONGEST}, not {shown(dict(lengths))}'
    )


def _check_model_dir(model_dir: str) -> None:
  """Refuses an empty name."""
  if not model_dir:
    raise UserError('MODEL_DIR is empty: name a folder for the run')


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings):
  """The data, and the batches that are made of them."""

  mixture_or_task_name: str = setting(
    'MIXTURE_OR_TASK_NAME',
    'The SeqIO mixture or task, which has a task list.',
    alias='mixture',
  )
  task_feature_lengths: Mapping[str, int] = setting(
    'TASK_FEATURE_LENGTHS',
    "The lengths of 'inputs' and 'targets' in tokens, each from 1 to "
    f'{LONGEST}; longer texts are cut.',
    alias='lengths',
    also=_check_lengths,
  )
  vocabulary: str = setting(
    'VOCABULARY',
    "'bytes', a SentencePiece file, FILE:N with N sentinels in place of 100, or the folder "
    'of a Hugging Face model.',
  )
  batch_size: int = setting(
    'BATCH_SIZE',
    'The number of rows in a batch, over all devices.',
    128,
    at_least=1,
    at_most=LARGEST_BATCH,
  )
  pack: bool = setting(
    'PACK', 'Whether a row holds several examples, of whatever tasks.', False
  )
  max_segments: int = setting(
    'MAX_SEGMENTS',
    'The largest number of examples in a packed row.',
    8,
    at_least=1,
    at_most=1024,
  )
  use_cached: bool = setting(
    'USE_CACHED_TASKS',
    "Whether SeqIO's cache is read in place of the sources of the tasks.",
    False,
  )
  cache: str = setting(
    'DATA_CACHE',
    'The folder in which the examples of tasks are materialised, once for all runs. '
    "'default' is what HYPERPROMPT_DATA_CACHE names, or the user's folder for caches; "
    "'none' reads every task as a stream through SeqIO.",
    'default',
  )
  cache_gigabytes: float = setting(
    'DATA_CACHE_GIGABYTES',
    'The size of that folder in gigabytes (10^9 bytes); what was used longest ago makes '
    'room.',
    50.0,
    at_least=0.001,
    at_most=10**6,
  )
  num_data_shards: int | None = setting(
    'NUM_DATA_SHARDS',
    'The number of parts in which a stream is read; it divides BATCH_SIZE. None keeps '
    'the number that the run began with, which is one for each group of hosts. Examples '
    'that are read by index need no parts.',
    None,
    at_least=1,
    at_most=LARGEST_BATCH,
  )
  seed: int = setting(
    'RANDOM_SEED',
    'The seed of initialisation, dropout, shuffling and mixing.',
    0,
    alias='seed',
    at_least=0,
    at_most=2**32 - 1,  # JAX drops the bits above
  )

  def __post_init__(self):
    super().__post_init__()
    lengths = self.task_feature_lengths
    if self.batch_size * max(lengths.values()) > LARGEST:
      raise UserError(
        f'BATCH_SIZE={self.batch_size} rows of {max(lengths.values())} tokens '
        f'(TASK_FEATURE_LENGTHS) are over {LARGEST} tokens: make one of them smaller'
      )


@dataclasses.dataclass(frozen=True)
class OptimisationSettings(Settings):
  """The number of steps of training, and the parameters that it changes."""

  total_steps: int | None = setting(
    'TRAIN_STEPS',
    'The step at which training ends; it counts the steps of the initial checkpoint, too.',
    None,
    at_least=1,
    at_most=LARGEST,
  )
  relative_steps: int | None = setting(
    'TRAIN_STEPS_RELATIVE',
    'The number of steps of this run alone; it takes precedence over TRAIN_STEPS.',
    None,
    at_least=1,
    at_most=LARGEST,
  )
  num_microbatches: int = setting(
    'NUM_MICROBATCHES',
    'The number of parts in which a batch is processed, to save memory.',
    1,
    at_least=1,
    at_most=LARGEST_BATCH,
  )
  trainable: str = setting(
    'TUNED_PARAMETERS',
    "The parameters that are trained: 'all'; 'task', those of the method; "
    "'task_and_layer_norms', these and the scales of the layer norms; or 'last_task', "
    'those that belong to the last task of the task list alone.',
    ALL,
    choices=(ALL, TASK, TASK_AND_LAYER_NORMS, LAST_TASK),
  )

  def last_step(self, initial_step: int) -> int:
    """The step at which training ends.

    Args:
      initial_step: is the number of steps of the initial checkpoint.

    Raises:
      UserError: if there is no step to train, or more than a counter of 32 bits holds.
    """
    if self.relative_steps is not None:
      last = initial_step + self.relative_steps
      if last > LARGEST:
        raise UserError(
          f'TRAIN_STEPS_RELATIVE={self.relative_steps} after the {initial_step} steps of '
          f'INITIAL_CHECKPOINT_PATH is over {LARGEST} steps'
        )
      return last
    if self.total_steps is None:
      raise UserError('TRAIN_STEPS must be set: add --train_steps=…')
    if initial_step and self.total_steps <= initial_step:
      raise UserError(
        f'TRAIN_STEPS={self.total_steps} leaves nothing to train: it counts the '
        f'{initial_step} steps of INITIAL_CHECKPOINT_PATH, too; set '
        f'TRAIN_STEPS={initial_step + self.total_steps} or '
        f'TRAIN_STEPS_RELATIVE={self.total_steps}'
      )
    return self.total_steps


@dataclasses.dataclass(frozen=True)
class EarlyStopping(Settings):
  """The metric that ends training before its last step, once it no longer improves."""

  metric: str | None = setting(
    'EARLY_STOPPING_METRIC',
    "The validation metric that is watched, as metrics.jsonl names it after 'eval/': "
    "'average', 'score/TASK', 'TASK/loss', …; None for no early stopping.",
    None,
  )
  patience: int = setting(
    'EARLY_STOPPING_PATIENCE',
    'The number of evaluations in a row without a better value after which training ends.',
    5,
    at_least=1,
    at_most=LARGEST,
  )
  mode: str = setting(
    'EARLY_STOPPING_MODE',
    "Whether higher ('max') or lower ('min') values of the metric are better.",
    'max',
    choices=('max', 'min'),
  )


WARN, END = 'warn', 'end'


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
  """The period and the extent of evaluation.

  Attributes:
    early_stopping: tells whether training ends once a metric no longer improves.
  """

  period: int = setting(
    'EVAL_PERIOD',
    'The number of steps between evaluations; the last step is evaluated, too.',
    1000,
    at_least=1,
    at_most=LARGEST,
  )
  steps: int = setting(
    'EVAL_STEPS',
    'The number of batches of each task for the validation loss; 0 for no loss.',
    20,
    at_least=0,
    at_most=LARGEST,
  )
  tasks: int | str | None = setting(
    'EVAL_TASKS',
    'The tasks that are evaluated: names or patterns, divided by commas; or a number of '
    'tasks, evenly over the task list; None for all.',
    None,
  )
  num_examples: int | None = setting(
    'EVALUATOR_NUM_EXAMPLES',
    'The number of examples of each task that are answered and scored; None for all.',
    None,
    at_least=1,
    at_most=LARGEST,
  )
  rank_labels: bool = setting(
    'RANK_LABELS',
    'Whether a task with a closed set of labels is answered with the likeliest label, in '
    'place of generated text.',
    False,
  )
  failing_metrics: str = setting(
    'FAILING_METRICS',
    "What happens where a metric or a postprocessor raises: 'warn' trains on without its "
    "values, and 'end' ends the run with exit status 2, after the step has been saved.",
    WARN,
    choices=(WARN, END),
  )
  early_stopping: EarlyStopping = EarlyStopping()


@dataclasses.dataclass(frozen=True)
class Retention(Settings):
  """The rules by which checkpoints are kept; one rule is enough to keep a checkpoint."""

  keep: int | None = setting(
    'KEEP_CHECKPOINTS',
    'The number of latest checkpoints to keep; None for all. A run resumes from the '
    'latest, so at least 1 is kept.',
    3,
    at_least=1,
    at_most=LARGEST,
  )
  keep_best: int = setting(
    'KEEP_BEST',
    'The number of checkpoints with the best average scores to keep.',
    1,
    at_least=0,
    at_most=LARGEST,
  )
  keep_best_per_task: bool = setting(
    'KEEP_BEST_PER_TASK',
    "Whether each task's best checkpoint is kept, by its own score (T5's tables take "
    "each task's best checkpoint).",
    True,
  )


@dataclasses.dataclass(frozen=True)
class InitialCheckpoint(Settings):
  """The checkpoint that a run starts from, and the parameters that start fresh."""

  path: str | None = setting(
    'INITIAL_CHECKPOINT_PATH',
    'A T5X checkpoint, a Hugging Face folder, or a MODEL_DIR; None starts from random '
    'parameters. Without a gin file of a size, it gives size and vocabulary.',
    None,
    alias='init',
  )
  fresh: str = setting(
    'FRESH_PARAMETERS',
    "The parameters that the checkpoint does not give: 'task', those of the method; "
    "'none'; or 'last_task', those that belong to the last task of the task list, which "
    'the checkpoint has not learned.',
    TASK,
    choices=(TASK, NONE, LAST_TASK),
  )
  resize_vocabulary: bool = setting(
    'RESIZE_VOCABULARY',
    "Whether the checkpoint's rows of the vocabulary are padded or cut to "
    'config.Config.vocab_size.',
    False,
  )


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(Settings):
  """The folder, the periods and the retention of checkpoints, and the start of a run.

  Attributes:
    retention: selects the checkpoints that are kept.
    initial: is the checkpoint that a run starts from.
  """

  model_dir: str = setting(
    'MODEL_DIR',
    "The run's folder, which gets checkpoints, metrics, configuration and predictions.",
    also=_check_model_dir,
  )
  period: int = setting(
    'CHECKPOINT_PERIOD',
    'The number of steps between checkpoints; the last step is saved, too.',
    1000,
    at_least=1,
    at_most=LARGEST,
  )
  retention: Retention = Retention()
  initial: InitialCheckpoint = InitialCheckpoint()


@dataclasses.dataclass(frozen=True)
class LogSettings(Settings):
  """The period and the extent of the reports of a run."""

  period: int = setting(
    'LOG_PERIOD',
    'The number of steps between reports of the training metrics.',
    50,
    at_least=1,
    at_most=LARGEST,
  )
  data_report_examples: int = setting(
    'DATA_REPORT_EXAMPLES',
    'The number of training examples of each task that are read before the first step, to '
    'report how many are cut and how labels are spread; 0 for no report.',
    1000,
    at_least=0,
    at_most=LARGEST,
  )
  tracker: str | None = setting(
    'TRACKER',
    'A tracker that gets the metrics, too: Weights & Biases, MLflow or Trackio, whose '
    'package must be installed; None for none.',
    None,
    choices=('wandb', 'mlflow', 'trackio'),
  )
  tracker_project: str = setting(
    'TRACKER_PROJECT', "The tracker's project or experiment.", 'hyperprompt_jax'
  )
