"""Prompt-Tuning (Lester et al. 2021): each task owns prompts before its input."""

from typing import ClassVar

import jax
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.methods.parameters import task_prompts
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning


class PromptTuning(Method):
  """Every task owns l embeddings, which stand before its embedded input.

  The encoder treats them as tokens, and the decoder attends to their encodings.

  Attributes:
    prompt_length: is l; 0 makes the network that of multi-task learning.
    prompt_init: says how they start: 'random', or 'vocabulary' for embeddings of common
      tokens.
  """

  budgeted: ClassVar[tuple[str, ...]] = ('prompt_length',)

  prompt_length: int
  prompt_init: str = 'random'

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Returns the prompts, `[t, l, d]`.

    Raises:
      UserError: if the length is negative or the initialisation is unknown.
    """
    self.check(prompt_length=0)
    if self.prompt_length == 0:
      return Conditioning()
    prompts = task_prompts(
      'prompts', self.prompt_init, num_tasks, self.prompt_length, embedding
    )
    return Conditioning(input_prompts=prompts)
