"""A T5 with a folded method, as the arrays that its graphs are written from."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import numpy as np

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.lazy import LazyArray, in_memory, unrolled
from hyperprompt_jax.model import Model, Params
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning


@dataclasses.dataclass(frozen=True)
class Network:
  """The parameters of a T5, and the arrays that a method makes of all its tasks.

  Attributes:
    config: configures the network.
    arrays: are the parameters of the backbone, by their unrolled paths.
    conditioning: is the result of `Model.condition`.
    num_tasks: is t.
  """

  config: Config
  arrays: Mapping[str, LazyArray]
  conditioning: Conditioning
  num_tasks: int

  @classmethod
  def from_params(cls, model: Model, params: Params) -> Self:
    """Makes the network of a model whose parameters are in memory."""
    arrays = {path: in_memory(np.asarray(x)) for path, x in by_path(params).items()}
    conditioning = jax.jit(model.condition)(params)
    return cls(model.config, unrolled(arrays), conditioning, len(model.task_list))

  def read(self, path: str) -> np.ndarray:
    """Reads a parameter of the backbone as float32."""
    return self.arrays[path].read().astype(np.float32)

  def prompt_length(self, stack: str, layer: int) -> int:
    """Returns the number of prompts of a layer, l; 0 if it has none."""
    made = getattr(self.conditioning, stack).prompts
    if made is None or (made.active is not None and not made.active[layer]):
      return 0
    return made.key.shape[2]

  def prompts(self, stack: str, layer: int, part: str) -> np.ndarray:
    """Returns the prompts of a layer that has some, `[t, h, l, k]` float32.

    Args:
      stack: is 'encoder' or 'decoder'.
      layer: is the number of the layer.
      part: is 'key' or 'value'.
    """
    made = getattr(getattr(self.conditioning, stack).prompts, part)
    return np.asarray(made[layer], np.float32).transpose(0, 2, 1, 3)

  def logit_offset(self, stack: str, layer: int) -> np.ndarray | None:
    """Returns the offset of the logits of a layer's prompts, `[h]`, or None."""
    made = getattr(self.conditioning, stack).prompts
    if not self.prompt_length(stack, layer) or made.logit_offset is None:
      return None
    return np.asarray(made.logit_offset[layer], np.float32)
