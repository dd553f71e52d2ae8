"""HyperFormer++ (Karimi Mahabadi et al. 2021): adapters that hypernetworks generate.

  A(x) = x + LN(U gelu(D x + b_D) + b_U)            behind self-attention and MLP
  I = LN(MLP(concat(task_embedding, layer_embedding, position_embedding)))
  D = W_D I + D_0                                   likewise U, b_D, b_U, gamma and beta

A position is one of the two places of an adapter in a layer. Encoder and decoder have a
hypernetwork each, as in the authors' code; the embeddings of tasks are common to both.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.methods.parameters import declare
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter, Conditioning, LayerConditioning

Array = jax.Array

# The places of a layer's two adapters.
POSITIONS = ('attention', 'mlp')

# The authors start every linear map of the hypernetworks so, with biases of zero.
INIT = nn.initializers.normal(stddev=1e-2)


class HyperFormer(Method):
  """HyperFormer++: a hypernetwork for each stack makes the adapters of its layers.

  A task owns its embedding alone.

  Attributes:
    bottleneck_dim: is b, the width of the adapters.
    task_embed_dim: is e, the width of I and of the embeddings of tasks, layers and
      positions.
    hidden_dim: is the hidden width of the MLP.
  """

  budgeted: ClassVar[tuple[str, ...]] = ('bottleneck_dim', 'task_embed_dim')

  bottleneck_dim: int
  task_embed_dim: int
  hidden_dim: int = 128

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: Array) -> Conditioning:
    """Generates the adapters of both stacks, `[m, t, ...]`.

    Raises:
      UserError: if a size is less than 1.
    """
    self.check(bottleneck_dim=1, task_embed_dim=1, hidden_dim=1)
    tasks = declare(
      'task_embedding',
      nn.initializers.normal(stddev=1.0),
      tasks=num_tasks,
      task_embed=self.task_embed_dim,
    )

    def adapters(stack: str, depth: int) -> LayerConditioning:
      hypernetwork = AdapterHypernetwork(
        config.emb_dim, self.bottleneck_dim, self.hidden_dim, name=stack
      )
      generated = hypernetwork(tasks, depth)  # [A, m, t, ...]
      attention, mlp = (
        jax.tree.map(lambda x, i=i: x[i], generated) for i in range(len(POSITIONS))
      )
      return LayerConditioning(attention_adapter=attention, mlp_adapter=mlp)

    return Conditioning(
      encoder=adapters('encoder', config.num_encoder_layers),
      decoder=adapters('decoder', config.num_decoder_layers),
    )


class AdapterHypernetwork(nn.Module):
  """The hypernetwork of a stack, with its embeddings of layers and positions.

  Attributes:
    emb_dim: is d.
    bottleneck_dim: is b.
    hidden_dim: is the hidden width of the MLP.
  """

  emb_dim: int
  bottleneck_dim: int
  hidden_dim: int

  @nn.compact
  def __call__(self, tasks: Array, num_layers: int) -> Adapter:
    """Generates `[A, m, t, ...]` from the embeddings of tasks, `[t, e]`."""
    d, b = self.emb_dim, self.bottleneck_dim
    embeddings = self._embeddings(tasks, num_layers)  # [A, m, t, e]

    def generate(name: str, **sizes: int) -> Array:
      return Linear(tuple(sizes), tuple(sizes.values()), name=name)(embeddings)

    return Adapter(
      down=generate('down', embed=d, bottleneck=b),
      up=generate('up', bottleneck=b, embed=d),
      down_bias=generate('down_bias', bottleneck=b),
      up_bias=generate('up_bias', embed=d),
      norm_scale=generate('norm_scale', embed=d),
      norm_shift=generate('norm_shift', embed=d),
    )

  def _embeddings(self, tasks: Array, num_layers: int) -> Array:
    """`I = LN(MLP(concat(task, layer, position)))`, `[A, m, t, e]`."""
    num_tasks, e = tasks.shape
    unit = nn.initializers.normal(stddev=1.0)
    layers = declare('layer_embedding', unit, layers=num_layers, task_embed=e)
    positions = declare('position_embedding', unit, positions=len(POSITIONS), task_embed=e)
    grid = (len(POSITIONS), num_layers, num_tasks, e)
    parts = (tasks[None, None], layers[None, :, None], positions[:, None, None])
    x = jnp.concatenate([jnp.broadcast_to(part, grid) for part in parts], axis=-1)
    hidden = nn.relu(Linear(('task_embed_out',), (self.hidden_dim,), name='mlp_wi')(x))
    x = Linear(('task_embed_out',), (e,), name='mlp_wo')(hidden)
    # LN with scale and shift.
    x -= jnp.mean(x, axis=-1, keepdims=True)
    x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    scale = declare('mlp_norm_scale', nn.initializers.ones, task_embed=e)
    shift = declare('mlp_norm_shift', nn.initializers.zeros, task_embed=e)
    return x * scale + shift


class Linear(nn.Module):
  """A linear map with a bias, from the last axis to one or more axes.

  Attributes:
    axes: names the logical axes of the output.
    sizes: holds their sizes.
  """

  axes: tuple[str, ...]
  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[..., e]` to the sizes."""
    sizes = dict(zip(self.axes, self.sizes, strict=True))
    kernel = declare('kernel', INIT, task_embed=x.shape[-1], **sizes)
    bias = declare('bias', nn.initializers.zeros, **sizes)
    return jnp.tensordot(x, kernel, axes=1) + bias
