"""Prompt-Tuning (Lester et al. 2021): prompts before the input, of each task its own."""

import jax
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Conditioning, Method
from hyperprompt_jax.methods.parameters import task_prompts
from hyperprompt_jax.nn.config import Config


class PromptTuning(Method):
  """Every task owns l embeddings, which stand before its embedded input.

  They are as tokens to the encoder, and the decoder attends to what it makes of them.

  Attributes:
    prompt_length: l; 0 makes the network that of multi-task learning.
    prompt_init: 'random', or 'vocabulary' for embeddings of common tokens.
  """

  prompt_length: int
  prompt_init: str = 'random'

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Returns the prompts, `[t, l, d]`.

    Raises:
      UserError: for a length or an initialisation that cannot be.
    """
    self.check(prompt_length=0)
    if self.prompt_length == 0:
      return Conditioning()
    prompts = task_prompts(self.prompt_init, num_tasks, self.prompt_length, embedding)
    return Conditioning(input_prompts=prompts)
