"""No task-conditioning: all tasks in one plain network, or each in its own."""

from typing import ClassVar

import jax

from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning


class MultiTaskLearning(Method):
  """Adds nothing: all tasks share all parameters; the text alone names the task."""

  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Returns an empty conditioning."""
    return Conditioning()


class SingleTask(MultiTaskLearning):
  """Adds nothing, and shares nothing: every task fine-tunes a network of its own.

  `hyperprompt train` trains the tasks of a mixture one after the other.
  """

  shared_backbone: ClassVar[bool] = False
