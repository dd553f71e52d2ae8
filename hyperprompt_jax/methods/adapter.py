"""Adapters (Houlsby et al. 2019): small bottlenecks, of each layer and task its own."""

import jax
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Conditioning, LayerConditioning, Method
from hyperprompt_jax.methods.parameters import declare
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter


class StackAdapters(nn.Module):
  """The adapters behind one kind of sub-layer of a stack.

  Attributes:
    bottleneck_dim: b.
  """

  bottleneck_dim: int

  @nn.compact
  def __call__(self, num_layers: int, num_tasks: int, emb_dim: int) -> Adapter:
    """Declares them, `[m, t, ...]`, each nearly the identity."""
    of = {'layers': num_layers, 'tasks': num_tasks}
    d, b = emb_dim, self.bottleneck_dim
    fan_in = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'truncated_normal', batch_axis=(0, 1)
    )
    nearly_zero = nn.initializers.truncated_normal(stddev=1e-2)
    zeros = nn.initializers.zeros
    return Adapter(
      down=declare('down', fan_in, **of, embed=d, bottleneck=b),
      up=declare('up', nearly_zero, **of, bottleneck=b, embed=d),
      down_bias=declare('down_bias', zeros, **of, bottleneck=b),
      up_bias=declare('up_bias', zeros, **of, embed=d),
    )


class HoulsbyAdapter(Method):
  """Every task owns two adapters in each layer: `A(x) = x + U gelu(D x + b_D) + b_U`.

  One stands behind the self-attention and one behind the MLP, before the residual
  connection, in the encoder and in the decoder (Houlsby et al. 2019, section 2.1).

  Attributes:
    bottleneck_dim: b.
  """

  bottleneck_dim: int

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Returns the adapters, `[m, t, ...]`.

    Raises:
      UserError: for a bottleneck that cannot be.
    """
    self.check(bottleneck_dim=1)

    def adapters(name: str, num_layers: int) -> Adapter:
      of_stack = StackAdapters(self.bottleneck_dim, name=name)
      return of_stack(num_layers, num_tasks, config.emb_dim)

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
