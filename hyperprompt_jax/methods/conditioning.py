"""What a method of task-conditioning is, and what it hands to the Transformer."""

from typing import ClassVar

import jax
from flax import linen as nn
from flax import struct

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter, Prompts


@struct.dataclass
class LayerConditioning:
  """What is inserted into layers; `[m, t, ...]` of a stack, `[t, ...]` of one layer.

  Attributes:
    prompts: of the self-attention, `[m, t, p, h, d]`.
    attention_adapter: behind the self-attention.
    mlp_adapter: behind the MLP.
  """

  prompts: Prompts | None = None
  attention_adapter: Adapter | None = None
  mlp_adapter: Adapter | None = None


@struct.dataclass
class Conditioning:
  """All that a method adds to the network, for every task, in arrays.

  It depends on parameters alone, never on the input: it is made once per step (once per
  checkpoint for evaluation), and each row selects its task's part.

  Attributes:
    input_prompts: put before the encoder's embedded input, `[t, p, e]`.
    encoder: what the encoder's layers are given.
    decoder: what the decoder's layers are given.
  """

  input_prompts: jax.Array | None = None
  encoder: LayerConditioning = LayerConditioning()
  decoder: LayerConditioning = LayerConditioning()


class Method(nn.Module):
  """A method of task-conditioning: parameters of its own and what they generate.

  A new method is a subclass, in this package or in anybody's own, and a gin file that
  binds METHOD to it. What belongs to one task alone has the logical axis `tasks`.

  Attributes:
    shared_backbone: whether one network serves all tasks; if not, each is trained by
      itself.
  """

  shared_backbone: ClassVar[bool] = True

  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Generates the conditioning of all tasks and layers.

    Args:
      config: the network's configuration.
      num_tasks: t, the length of the mixture's task list.
      embedding: of the vocabulary's tokens, `[v, e]` float32, for parameters that start
        from it.
    """
    raise NotImplementedError

  def check(self, **least: int) -> None:
    """Checks sizes among the attributes.

    Raises:
      UserError: if an attribute is less than what is given for it.
    """
    for name, bound in least.items():
      value = getattr(self, name)
      if value < bound:
        raise UserError(
          f'{type(self).__name__}.{name} must be at least {bound}, not {value}'
        )
