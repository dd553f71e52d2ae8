"""What a method of task-conditioning is, and what it hands to the Transformer."""

from flax import linen as nn
from flax import struct

from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.layers import Prompts


@struct.dataclass
class Conditioning:
  """All that a method adds to the network, for every task, in arrays.

  It depends on parameters alone, never on the input: it is made once per step (once per
  checkpoint for evaluation), and each row selects its task's part.

  Attributes:
    encoder_prompts: prompts of the encoder's self-attention, `[m, t, p, h, d]`.
    decoder_prompts: prompts of the decoder's self-attention, `[m, t, p, h, d]`.
  """

  encoder_prompts: Prompts | None = None
  decoder_prompts: Prompts | None = None


class Method(nn.Module):
  """A method of task-conditioning: parameters of its own and what they generate."""

  def __call__(self, config: Config, num_tasks: int) -> Conditioning:
    """Generates the conditioning of all tasks and layers.

    Args:
      config: the network's configuration.
      num_tasks: t, the length of the mixture's task list.
    """
    raise NotImplementedError
