"""Adapters (Houlsby et al. 2019): small bottlenecks, of each layer and task its own."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.nn.conditioning.base import Conditioning, LayerConditioning, Method
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter
from hyperprompt_jax.nn.layers import param_with_axes


class StackAdapters(nn.Module):
  """The adapters behind one kind of sub-layer of a stack.

  Attributes:
    bottleneck_dim: r.
  """

  bottleneck_dim: int

  @nn.compact
  def __call__(self, num_layers: int, num_tasks: int, emb_dim: int) -> Adapter:
    """Declares them, `[m, t, ...]`, each nearly the identity."""

    def weight(name: str, init, **sizes: int) -> jax.Array:
      return param_with_axes(
        name,
        init,
        (num_layers, num_tasks, *sizes.values()),
        jnp.float32,
        axes=('layers', 'tasks', *sizes),
      )

    fan_in = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'truncated_normal', batch_axis=(0, 1)
    )
    nearly_zero = nn.initializers.truncated_normal(stddev=1e-2)
    zeros = nn.initializers.zeros
    return Adapter(
      down=weight('down', fan_in, embed=emb_dim, bottleneck=self.bottleneck_dim),
      up=weight('up', nearly_zero, bottleneck=self.bottleneck_dim, embed=emb_dim),
      down_bias=weight('down_bias', zeros, bottleneck=self.bottleneck_dim),
      up_bias=weight('up_bias', zeros, embed=emb_dim),
    )


class HoulsbyAdapter(Method):
  """Every task owns two adapters in each layer: `A(x) = x + U gelu(D x + b_D) + b_U`.

  One stands behind the self-attention and one behind the MLP, before the residual
  connection, in the encoder and in the decoder (Houlsby et al. 2019, section 2.1).

  Attributes:
    bottleneck_dim: r.
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
