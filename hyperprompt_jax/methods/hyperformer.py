"""HyperFormer++ (Karimi Mahabadi et al. 2021): adapters that one hypernetwork generates."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Conditioning, LayerConditioning, Method
from hyperprompt_jax.methods.parameters import conditioned_embeddings, declare
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter

# Where a layer's two adapters stand.
POSITIONS = ('attention', 'mlp')


class AdapterHypernetwork(nn.Module):
  """Generates adapters and their layer norms, linearly, from embeddings.

  `D = W_D I`, `U = W_U I`, `gamma = W_gamma I`, `beta = W_beta I`.

  Attributes:
    emb_dim: d.
    bottleneck_dim: b.
  """

  emb_dim: int
  bottleneck_dim: int

  @nn.compact
  def __call__(self, embeddings: jax.Array) -> Adapter:
    """Maps embeddings `[..., e]` to adapters `[..., d, b]` and so on."""

    def generate(name: str, init, **sizes: int) -> jax.Array:
      weights = declare(name, init, task_embed=embeddings.shape[-1], **sizes)
      return jnp.tensordot(embeddings, weights, axes=1)

    # Fan-in over both contracted axes, as in HyperPrompt's: unit gain of what is generated.
    fan_in = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'truncated_normal', in_axis=(0, 1), out_axis=2
    )
    # The layer norm's output is what an adapter adds: nearly nothing, at first.
    nearly_zero = nn.initializers.truncated_normal(stddev=1e-2)
    embed, bottleneck = self.emb_dim, self.bottleneck_dim
    return Adapter(
      down=generate('down', fan_in, embed=embed, bottleneck=bottleneck),
      up=generate('up', fan_in, bottleneck=bottleneck, embed=embed),
      norm_scale=generate('norm_scale', nearly_zero, embed=embed),
      norm_shift=generate('norm_shift', nearly_zero, embed=embed),
    )


class HyperFormer(Method):
  """HyperFormer++: one hypernetwork makes the adapters of all tasks, layers and positions.

  `A(x) = x + LN(U gelu(D x))` behind the self-attention and behind the MLP, in the encoder
  and in the decoder. A task owns its embedding alone.

  Attributes:
    bottleneck_dim: b, of the adapters.
    task_embed_dim: e, of the embeddings of tasks, layers and positions.
  """

  bottleneck_dim: int
  task_embed_dim: int

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: jax.Array) -> Conditioning:
    """Generates the adapters, `[m, t, ...]` each.

    Raises:
      UserError: for a size that cannot be.
    """
    self.check(bottleneck_dim=1, task_embed_dim=1)
    num_encoder = config.num_encoder_layers
    embeddings = conditioned_embeddings(
      {
        'position': len(POSITIONS),
        'layer': num_encoder + config.num_decoder_layers,
        'task': num_tasks,
      },
      self.task_embed_dim,
    )
    generated = AdapterHypernetwork(
      config.emb_dim, self.bottleneck_dim, name='hypernetwork'
    )(embeddings)

    def of(layers: slice) -> LayerConditioning:
      attention, mlp = (
        jax.tree.map(lambda x, n=n: x[n, layers], generated) for n in range(len(POSITIONS))
      )
      return LayerConditioning(attention_adapter=attention, mlp_adapter=mlp)

    return Conditioning(
      encoder=of(slice(num_encoder)), decoder=of(slice(num_encoder, None))
    )
