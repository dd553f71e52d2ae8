"""What a method of task-conditioning is, and what it hands to the Transformer."""

from typing import ClassVar

import jax
from flax import linen as nn

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning, LayerConditioning

__all__ = ['Conditioning', 'LayerConditioning', 'Method']


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
      embedding: of the vocabulary's tokens, `[V, d]` float32, for parameters that start
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
