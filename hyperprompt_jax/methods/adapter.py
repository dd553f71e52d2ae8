"""Adapters (Houlsby et al. 2019): small bottlenecks that each layer and task owns.

  A(x) = x + LN(U gelu(D x + b_D) + b_U)

The layer norm is that of the adapters which Karimi Mahabadi et al. (2021) put into T5.
"""

from typing import ClassVar

import jax
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.methods.parameters import declare
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter, Conditioning, LayerConditioning


class HoulsbyAdapter(Method):
  """Every task owns two adapters in each layer of encoder and decoder.

  One stands behind the self-attention and one behind the MLP, before the residual
  connection (Houlsby et al. 2019, section 2.1).

  Attributes:
    bottleneck_dim: is b.
  """

  budgeted: ClassVar[tuple[str, ...]] = ('bottleneck_dim',)

  bottleneck_dim: int

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Returns the adapters, `[m, t, ...]`.

    Raises:
      UserError: if the bottleneck is less than 1.
    """
    self.check(bottleneck_dim=1)

    def adapters(name: str, num_layers: int) -> Adapter:
      stack = StackAdapters(self.bottleneck_dim, name=name)
      return stack(num_layers, num_tasks, config.emb_dim)

    return Conditioning(
      encoder=LayerConditioning(
        attention_adapter=adapters('encoder_attention', config.num_encoder_layers),
        mlp_adapter=adapters('encoder_mlp', config.num_encoder_layers),
      ),
      decoder=LayerConditioning(
        attention_adapter=adapters('decoder_attention', config.num_decoder_layers),
        mlp_adapter=adapters('decoder_mlp', config.num_decoder_layers),
      ),
    )


class StackAdapters(nn.Module):
  """The adapters behind one kind of sub-layer of a stack.

  Attributes:
    bottleneck_dim: is b.
  """

  bottleneck_dim: int

  @nn.compact
  def __call__(self, num_layers: int, num_tasks: int, emb_dim: int) -> Adapter:
    """Declares adapters `[m, t, ...]`, each of which is nearly the identity."""
    own = {'layers': num_layers, 'tasks': num_tasks}
    d, b = emb_dim, self.bottleneck_dim
    fan_in = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'truncated_normal', batch_axis=(0, 1)
    )
    # The layer norm hides the scale of U, so its own scale makes the adapter nearly zero.
    nearly_zero = nn.initializers.constant(1e-2)
    zeros = nn.initializers.zeros
    return Adapter(
      down=declare('down', fan_in, **own, embed=d, bottleneck=b),
      up=declare('up', fan_in, **own, bottleneck=b, embed=d),
      down_bias=declare('down_bias', zeros, **own, bottleneck=b),
      up_bias=declare('up_bias', zeros, **own, embed=d),
      norm_scale=declare('norm_scale', nearly_zero, **own, embed=d),
      norm_shift=declare('norm_shift', zeros, **own, embed=d),
    )
