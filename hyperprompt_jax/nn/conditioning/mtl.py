"""Multi-task learning without task-conditioning: the baseline."""

from hyperprompt_jax.nn.conditioning.base import Conditioning, Method
from hyperprompt_jax.nn.config import Config


class MultiTaskLearning(Method):
  """Adds nothing: all tasks share all parameters; the text alone names the task."""

  def __call__(self, config: Config, num_tasks: int) -> Conditioning:
    """Returns an empty conditioning."""
    return Conditioning()
