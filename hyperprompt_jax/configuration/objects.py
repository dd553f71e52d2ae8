"""Settings of the network, its losses, the optimizer and the mesh.

gin binds them to the objects themselves (`config.Config`, `model.Model`,
`optimizers.adafactor`, `partitioning.Partitioner`), which check their values by this group.
It is kept apart from them because they import JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from hyperprompt_jax.configuration.setting import LARGEST, Settings, setting


@dataclasses.dataclass(frozen=True)
class ObjectSettings(Settings):
  """Settings that objects take one by one; the defaults are those of `gin/runs`."""

  method: Any = setting(
    'METHOD', 'The method of task-conditioning; a file of methods/ sets it.'
  )
  optimizer: Any = setting(
    'OPTIMIZER',
    "The optimizer, which is T5's Adafactor: @optimizers.adafactor(); "
    '@optimizers.skip_step_on_spikes() around it; @rare_tasks.by_task(), in which a task '
    'that is not in a batch does not move; or one of Optax, such as @optax.adamw().',
    '@optimizers.adafactor()',
  )
  learning_rate: float | Callable[..., Any] = setting(
    'LEARNING_RATE',
    'The learning rate of Adafactor, relative to the scale of each parameter; a number or '
    'a schedule.',
    1e-3,
    at_least=0,
  )
  method_learning_rate: float | Callable[..., Any] = setting(
    'METHOD_LEARNING_RATE',
    'The learning rate of the parameters that the method adds; gin/runs takes '
    'LEARNING_RATE.',
    1e-3,
    at_least=0,
  )
  weight_decay_rate: float = setting(
    'WEIGHT_DECAY_RATE',
    'The part of each parameter that every step of Adafactor takes away.',
    0.0,
    at_least=0,
    below=1,
  )
  extra_parameters: int | None = setting(
    'EXTRA_PARAMETERS',
    'The number of parameters that the method adds, to 2 %: its widths are chosen to meet '
    'it. None keeps the widths of its gin file.',
    None,
    at_least=1,
    at_most=LARGEST,
  )
  dropout_rate: float = setting(
    'DROPOUT_RATE', 'The rate of all dropouts.', 0.1, at_least=0, below=1
  )
  z_loss: float = setting(
    'Z_LOSS',
    "The weight of T5's z-loss, which keeps logits from drifting.",
    1e-4,
    at_least=0,
    at_most=1,
  )
  label_smoothing: float = setting(
    'LABEL_SMOOTHING',
    'The part of the probability that is taken from each label for the other tokens.',
    0.0,
    at_least=0,
    below=1,
  )
  num_partitions: int = setting(
    'NUM_PARTITIONS',
    'The number of devices that share one copy of the model and work on one batch.',
    1,
    at_least=1,
    at_most=2**20,
  )
  fsdp: int = setting(
    'FSDP',
    'The number of devices that share one copy of the model, each with a batch of its own.',
    1,
    at_least=1,
    at_most=2**20,
  )
  dtype: str = setting(
    'DTYPE',
    'The dtype of activations; parameters, softmax, norms and losses are float32.',
    'float32',
    choices=('float32', 'bfloat16'),
  )
  remat_policy: str = setting(
    'REMAT_POLICY',
    'How much the backward pass recomputes in place of keeping it in memory: nothing, all '
    'but matrix products, or everything but the input of each layer.',
    'none',
    choices=('none', 'minimal', 'full'),
  )
