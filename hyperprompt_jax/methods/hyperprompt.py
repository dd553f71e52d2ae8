"""HyperPrompt (He et al. 2022): the whole paper, from the top.

  K' = concat(P_key[m,t], K),  V' = concat(P_value[m,t], V)    self-attention, section 3.1
  P_key[m,t] = U_key[m,t] relu(D_key[m,t] P[t])                likewise P_value, 3.2

P[t] is the global prompt of task t, and (D, U) is a local hypernetwork of layer m. The
variants differ in the local hypernetworks:

  Share    D[m],   U[m]     learned for each layer
  Sep      D[m,t], U[m,t]   learned for each layer and task
  Global   D[m,t] = W_D I[m,t], U[m,t] = W_U I[m,t]               section 3.3
           I[m,t] = MLP(concat(task_embedding[t], layer_embedding[m]))

The first equation is that of `nn.attention.attend_written_out`; the others are here. We add
to them, so that prompts start at the scale of keys and values: I is divided by its root
mean square, and a learned scale multiplies the prompts of each layer and task (`rescaled`).
Axis letters: see `hyperprompt_jax.nn`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.methods.parameters import declare, root_mean_square, task_prompts
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning, LayerConditioning, Prompts
from hyperprompt_jax.nn.layers import Dense, Initializer, with_sharding_constraint

Array = jax.Array
# From global prompts and the slice of their layers to prompts of layers.
Generator = Callable[[Array, slice], Array]

STACKS = ('encoder', 'decoder', 'both')


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of all local hypernetworks.

  Attributes:
    m: counts the layers with prompts, of both stacks.
    t: counts the tasks.
    d: is the model width.
    b: is the bottleneck.
    h: counts the heads.
    k: is the width of a head.
  """

  m: int
  t: int
  d: int
  b: int
  h: int
  k: int


# ---- The method: P, then P_key and P_value ----


class HyperPrompt(Method):
  """Share, Sep and Global without their local hypernetworks.

  Attributes:
    prompt_length: is l, the number of prompts of each layer and task; 0 makes the network
      that of multi-task learning.
    bottleneck_dim: is b, the width of the local hypernetworks.
    stacks: names the self-attentions that are given prompts: 'encoder', 'decoder' or
      'both'.
    first_layer: is the lowest layer of a stack that is given prompts, from 0.
    prompt_init: says how global prompts start: 'random', or 'vocabulary' for embeddings of
      common tokens at root mean square 1.
    decoder_prompt_length: is l of the decoder; None is for `prompt_length`.
    logit_offset: starts a learned offset of the prompts' logits, for each layer and head; a
      negative one, such as -6, spares a pretrained network. None has no offset, as in the
      paper.
  """

  budgeted: ClassVar[tuple[str, ...]] = ('bottleneck_dim',)

  prompt_length: int
  bottleneck_dim: int
  stacks: str = 'encoder'
  first_layer: int = 0
  prompt_init: str = 'random'
  decoder_prompt_length: int | None = None
  logit_offset: float | None = None

  @nn.compact
  def __call__(self, config: Config, num_tasks: int, embedding: Array) -> Conditioning:
    """Generates the prompts of the chosen layers, `[m, t, l, h, k]` for each stack.

    Raises:
      UserError: if a size, a stack, a layer or an initialisation is out of range.
    """
    lengths, layers = self._lengths(), self._layers(config)
    sizes = Sizes(
      m=max((numbers.stop for numbers in layers.values()), default=0),
      t=num_tasks,
      d=config.emb_dim,
      b=self.bottleneck_dim,
      h=config.num_heads,
      k=config.head_dim,
    )
    if not layers:
      return Conditioning()
    hypernetworks = self.local_hypernetworks(sizes)
    prompted: dict[str, Any] = {}
    for stack, numbers in layers.items():
      # P[t], a global prompt for each stack.
      global_prompts = task_prompts(
        f'{stack}_prompts',
        self.prompt_init,
        num_tasks,
        lengths[stack],
        embedding,
        unit_scale=True,
      )
      # P_key[m,t] and P_value[m,t].
      key, value = (
        rescaled(f'{stack}_{kind}_scale', hypernetworks[kind](global_prompts, numbers))
        for kind in ('key', 'value')
      )
      prompted[stack] = LayerConditioning(
        self._with_lower_layers(Prompts(key, value, logit_offset=self._offset(stack, key)))
      )
    return Conditioning(**prompted)

  def local_hypernetworks(self, sizes: Sizes) -> dict[str, Generator]:
    """Makes the local hypernetworks for keys and for values.

    Returns:
      Functions of global prompts `[t, l, d]` and the slice of their layers, which return
      `[m, t, l, h, k]`, by 'key' and 'value'.
    """
    raise NotImplementedError

  def _lengths(self) -> dict[str, int]:
    """The prompt length of each chosen stack."""
    self.check(prompt_length=0, bottleneck_dim=1, first_layer=0)
    if self.stacks not in STACKS:
      raise UserError(f"stacks must be 'encoder', 'decoder' or 'both', not {self.stacks!r}")
    in_decoder = self.decoder_prompt_length
    if in_decoder is not None:
      self.check(decoder_prompt_length=0)
    lengths = {
      'encoder': self.prompt_length,
      'decoder': self.prompt_length if in_decoder is None else in_decoder,
    }
    return {
      stack: length for stack, length in lengths.items() if self.stacks in (stack, 'both')
    }

  def _layers(self, config: Config) -> dict[str, slice]:
    """The numbers m of each stack's layers; they are counted through both stacks."""
    depths = {
      'encoder': config.num_encoder_layers,
      'decoder': config.num_decoder_layers,
    }
    layers, start = {}, 0
    for stack, length in self._lengths().items():
      depth = depths[stack]
      if self.first_layer >= depth:
        raise UserError(
          f'{type(self).__name__}.first_layer={self.first_layer} is out of range: the '
          f'{stack} has layers 0 to {depth - 1}'
        )
      if length:
        stop = start + depth - self.first_layer
        layers[stack] = slice(start, stop)
        start = stop
    return layers

  def _offset(self, stack: str, key: Array) -> Array | None:
    """The learned offset of the prompts' logits, `[m, h]`."""
    if self.logit_offset is None:
      return None
    init = nn.initializers.constant(self.logit_offset)
    m, h = key.shape[0], key.shape[3]
    return declare(f'{stack}_logit_offset', init, layers=m, heads=h)

  def _with_lower_layers(self, prompts: Prompts) -> Prompts:
    """The prompts of a whole stack, whose layers below `first_layer` have none."""
    if self.first_layer == 0:
      return prompts
    # A scan runs the same program in every layer, so the lower layers are given prompts,
    # too. Their queries do not see them.
    lower = self.first_layer
    pad = lambda x: jnp.pad(x, ((lower, 0), *((0, 0) for _ in x.shape[1:])))
    active = jnp.arange(lower + prompts.key.shape[0]) >= lower
    return jax.tree.map(pad, prompts).replace(active=active)


def rescaled(name: str, prompts: Array) -> Array:
  """Multiplies prompts by a learned scale `[m, t]`; for a compact method.

  The scale starts at the inverse of the prompts' root mean square. So the prompts of every
  layer and task start at root mean square 1, as T5's keys and values do, whatever the
  sizes.
  """
  prompts = with_sharding_constraint(
    prompts, ('layers', 'tasks', 'prompt', 'heads', 'kv')
  )  # [m, t, l, h, k]
  m, t = prompts.shape[:2]

  def inverse(*_) -> Array:
    # The bound is for bottlenecks of a few units, all of which may start inactive.
    return 1 / jnp.maximum(root_mean_square(prompts, axis=(2, 3, 4)).reshape(m, t), 0.1)

  scale = declare(name, inverse, layers=m, tasks=t)
  return prompts * scale[:, :, None, None, None]


# ---- Share and Sep: D and U are learned ----


class HyperPromptShare(HyperPrompt):
  """HyperPrompt-Share: every layer has a local hypernetwork that its tasks share."""

  shared_by_tasks: ClassVar[bool] = True

  def local_hypernetworks(self, sizes: Sizes) -> dict[str, Generator]:
    """Makes the hypernetworks of all layers."""
    return {
      kind: LocalHypernetworks(sizes, self.shared_by_tasks, name=f'{kind}_hypernetworks')
      for kind in ('key', 'value')
    }


class HyperPromptSep(HyperPromptShare):
  """HyperPrompt-Sep: every layer has a local hypernetwork for each task."""

  shared_by_tasks: ClassVar[bool] = False


class LocalHypernetworks(nn.Module):
  """The local hypernetworks of all layers, as parameters.

  Attributes:
    sizes: are the sizes of D and U.
    shared_by_tasks: says whether the tasks share the hypernetwork of a layer.
  """

  sizes: Sizes
  shared_by_tasks: bool

  @nn.compact
  def __call__(self, prompts: Array, layers: slice) -> Array:
    """`U relu(D P[t])`: maps `[t, l, d]` to `[m, t, l, h, k]`, both float32."""
    s = self.sizes
    own = {'layers': s.m} if self.shared_by_tasks else {'layers': s.m, 'tasks': s.t}
    # Half of the hidden units are zero, which U's gain of 2 makes up for.
    D = declare('down', _normal(1.0, s.d), **own, embed=s.d, bottleneck=s.b)[layers]
    U = declare('up', _normal(2.0, s.b), **own, bottleneck=s.b, heads=s.h, kv=s.k)[layers]
    if self.shared_by_tasks:
      hidden = nn.relu(jnp.einsum('mdb,tld->mtlb', D, prompts))
      return jnp.einsum('mbhk,mtlb->mtlhk', U, hidden)
    hidden = nn.relu(jnp.einsum('mtdb,tld->mtlb', D, prompts))
    return jnp.einsum('mtbhk,mtlb->mtlhk', U, hidden)


def _normal(gain: float, fan_in: int) -> Initializer:
  """Normal with variance gain / fan_in."""
  return nn.initializers.normal(stddev=(gain / fan_in) ** 0.5)


# ---- Global: D and U are generated ----


class HyperPromptGlobal(HyperPrompt, kw_only=True):
  """HyperPrompt-Global: one hypernetwork for keys and one for values make all prompts.

  Knowledge flows between tasks and layers through the two hypernetworks and the MLP. A task
  owns its global prompt and its embedding.

  Attributes:
    task_embed_dim: is e, the width of task, layer and layer-aware task embeddings.
  """

  budgeted: ClassVar[tuple[str, ...]] = ('bottleneck_dim', 'task_embed_dim')

  task_embed_dim: int

  def local_hypernetworks(self, sizes: Sizes) -> dict[str, Generator]:
    """Makes the two global hypernetworks, which read the same I.

    Raises:
      UserError: if the width is less than 1.
    """
    self.check(task_embed_dim=1)
    embeddings = layer_aware_task_embeddings(sizes, self.task_embed_dim)

    def generator(kind: str) -> Generator:
      hypernetwork = GlobalHypernetwork(sizes, name=f'{kind}_hypernetwork')
      return lambda prompts, layers: hypernetwork(embeddings[layers], prompts)

    return {kind: generator(kind) for kind in ('key', 'value')}


def layer_aware_task_embeddings(sizes: Sizes, width: int) -> Array:
  """`I[m,t] = MLP(concat(task_embedding[t], layer_embedding[m]))`; for a compact method.

  I is divided by its root mean square, since D and U are both linear in it: without that,
  the prompts would grow with its square, which differs from layer to layer.

  Returns:
    `[m, t, e]` float32.
  """
  unit = nn.initializers.normal(stddev=1.0)
  task = declare('task_embedding', unit, tasks=sizes.t, task_embed=width)
  layer = declare('layer_embedding', unit, layers=sizes.m, task_embed=width)
  grid = (sizes.m, sizes.t, width)
  pairs = jnp.concatenate(
    [jnp.broadcast_to(task[None], grid), jnp.broadcast_to(layer[:, None], grid)], axis=-1
  )
  axes = ('task_embed', 'task_embed_out')
  # The hidden layer is as wide as the pairs. With e small, a narrow one would be inactive
  # for some pairs, whose I would be zero.
  hidden = nn.relu(Dense(2 * width, axes, name='mlp_wi')(pairs))
  embeddings = Dense(width, axes, name='mlp_wo')(hidden)
  return embeddings / root_mean_square(embeddings, axis=-1)


class GlobalHypernetwork(nn.Module):
  """Generates the local hypernetworks of layers and tasks, and applies them.

  Attributes:
    sizes: are the sizes of D and U.
  """

  sizes: Sizes

  @nn.compact
  def __call__(self, embeddings: Array, prompts: Array) -> Array:
    """`U[m,t] relu(D[m,t] P[t])` with `D[m,t] = W_D I[m,t]` and `U[m,t] = W_U I[m,t]`.

    Args:
      embeddings: is I, `[m, t, e]` float32.
      prompts: is P, `[t, l, d]` float32.

    Returns:
      `[m, t, l, h, k]` float32.
    """
    s, e = self.sizes, embeddings.shape[-1]
    # D and U have the variance that Share's have: fan-in is that of both contracted axes.
    W_D = declare('down', _normal(1.0, e * s.d), task_embed=e, embed=s.d, bottleneck=s.b)
    W_U = declare(
      'up', _normal(2.0, e * s.b), task_embed=e, bottleneck=s.b, heads=s.h, kv=s.k
    )
    # The order of contraction is left to einsum, which does not build D and U where it is
    # cheaper to apply W_D and W_U to the prompts first.
    hidden = nn.relu(
      jnp.einsum('mte,edb,tld->mtlb', embeddings, W_D, prompts, optimize='optimal')
    )
    return jnp.einsum('mte,ebhk,mtlb->mtlhk', embeddings, W_U, hidden, optimize='optimal')
