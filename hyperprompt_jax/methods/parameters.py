"""Parameters that several methods have: prompts of tasks, and embeddings of what varies."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.layers import Dense, Initializer, param_with_axes

Array = jax.Array

# T5's vocabularies are sorted by frequency, after padding, EOS and the unknown token.
FIRST_WORD = 3
COMMON_WORDS = 5_000


def declare(name: str, init: Initializer, **sizes: int) -> Array:
  """Declares a float32 parameter, sizes by logical axis; for a compact method."""
  shape, axes = tuple(sizes.values()), tuple(sizes)
  return param_with_axes(name, init, shape, jnp.float32, axes=axes)


def task_prompts(init: str, num_tasks: int, length: int, embedding: Array) -> Array:
  """Declares `prompts`, as wide as the embedding; for a compact method.

  Args:
    init: 'random', from a standard normal; or 'vocabulary', the embeddings of common
      tokens, no token twice in a task while there are enough (Lester et al. 2021: the
      5,000 most common).
    num_tasks: t.
    length: l.
    embedding: `[V, d]`.

  Returns:
    `[t, l, d]` float32.

  Raises:
    UserError: if `init` is neither.
  """
  if init not in ('random', 'vocabulary'):
    raise UserError(f"prompt_init must be 'random' or 'vocabulary', not {init!r}")

  def sampled(rng: Array, shape: tuple[int, ...], dtype) -> Array:
    common = min(COMMON_WORDS, embedding.shape[0]) - FIRST_WORD
    repeats = -(-length // common)  # a toy vocabulary may have fewer words than prompts
    order = jax.vmap(lambda key: jax.random.permutation(key, common))(
      jax.random.split(rng, num_tasks * repeats)
    )
    tokens = FIRST_WORD + order.reshape(num_tasks, -1)[:, :length]
    return jnp.take(embedding, tokens, axis=0).astype(dtype)

  return declare(
    'prompts',
    sampled if init == 'vocabulary' else nn.initializers.normal(stddev=1.0),
    tasks=num_tasks,
    prompt=length,
    embed=embedding.shape[1],
  )


def conditioned_embeddings(sizes: Mapping[str, int], width: int) -> Array:
  """`I = MLP(concat(embeddings))` of every combination; for a compact method.

  With tasks and layers these are HyperPrompt's layer-aware task embeddings `I[m,t]`
  (section 3.3); with the adapters' positions besides, HyperFormer++'s.

  Args:
    sizes: how many there are of each thing that varies, say `{'layer': m, 'task': t}`;
      its table is `layer_embedding`, with the logical axis `layers`.
    width: e, of the tables, the MLP and what is returned.

  Returns:
    `[*sizes, e]` float32.
  """
  grid = tuple(sizes.values())
  parts = []
  for place, (name, size) in enumerate(sizes.items()):
    table = declare(
      f'{name}_embedding',
      nn.initializers.normal(stddev=1.0),
      **{f'{name}s': size, 'task_embed': width},
    )
    alone = [size if i == place else 1 for i in range(len(grid))]
    parts.append(jnp.broadcast_to(table.reshape(*alone, width), (*grid, width)))
  kernel_axes = ('task_embed', 'task_embed_out')
  hidden = Dense(width, kernel_axes, name='mlp_wi')(jnp.concatenate(parts, -1))
  return Dense(width, kernel_axes, name='mlp_wo')(nn.relu(hidden))
