"""The base class of all methods. The struct that a method returns is `nn.insertion`'s."""

from typing import ClassVar

import jax
from flax import linen as nn

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning


class Method(nn.Module):
  """A method of task-conditioning: parameters of its own and what they generate.

  A new method is a subclass, in this package or in anybody's own, and a gin file that
  binds METHOD to it. Parameters that belong to one task alone have the logical axis
  `tasks`.

  Attributes:
    independent_tasks: says whether the conditioning of a task depends on no parameter that
      another task owns. If not, all tasks are conditioned in every step
      (`methods.by_segment`).
    shared_backbone: says whether one network serves all tasks; if not, each task trains a
      network of its own.
    budgeted: names the attributes that a budget of parameters sets (`budget`). The number
      of parameters is affine in the first.
  """

  independent_tasks: ClassVar[bool] = True
  shared_backbone: ClassVar[bool] = True
  budgeted: ClassVar[tuple[str, ...]] = ()

  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Generates the conditioning of all tasks and layers.

    Args:
      config: is the network's configuration.
      num_tasks: is t, the length of the mixture's task list; or the number of a batch's
        segments, whose tasks' rows the parameters with an axis `tasks` then hold.
      embedding: holds the vocabulary's embeddings, `[V, d]` float32, for parameters that
        start from them.
    """
    raise NotImplementedError

  def check(self, **least: int) -> None:
    """Checks sizes among the attributes.

    Args:
      **least: are the least values that attributes may have, by name.

    Raises:
      UserError: if an attribute is less than that.
    """
    for name, bound in least.items():
      value = getattr(self, name)
      if value < bound:
        raise UserError(
          f'{type(self).__name__}.{name} must be at least {bound}, not {value}'
        )
