"""Parameters that several methods have."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.layers import Initializer, param_with_axes

Array = jax.Array

# T5's vocabularies are sorted by frequency, after padding, EOS and the unknown token.
FIRST_WORD = 3
COMMON_WORDS = 5_000


def declare(name: str, init: Initializer, **sizes: int) -> Array:
  """Declares a float32 parameter, sizes by logical axis; for a compact method."""
  shape, axes = tuple(sizes.values()), tuple(sizes)
  return param_with_axes(name, init, shape, jnp.float32, axes=axes)


def root_mean_square(x: Array, axis: int | tuple[int, ...]) -> Array:
  """The root mean square over axes, which stay with size 1."""
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True) + 1e-12)


def task_prompts(
  name: str,
  init: str,
  num_tasks: int,
  length: int,
  embedding: Array,
  *,
  unit_scale: bool = False,
) -> Array:
  """Declares prompts as wide as the embedding; for a compact method.

  Args:
    name: is the parameter's name.
    init: is 'random' for a standard normal, or 'vocabulary' for the embeddings of common
      tokens. No token comes twice in a task while there are enough (Lester et al. 2021:
      the 5,000 most common).
    num_tasks: is t.
    length: is l.
    embedding: holds the vocabulary's embeddings, `[V, d]`.
    unit_scale: makes the sampled embeddings start at root mean square 1.

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
    words = jnp.take(embedding, tokens, axis=0).astype(dtype)
    return words / root_mean_square(words, axis=(0, 1, 2)) if unit_scale else words

  return declare(
    name,
    sampled if init == 'vocabulary' else nn.initializers.normal(stddev=1.0),
    tasks=num_tasks,
    prompt=length,
    embed=embedding.shape[1],
  )


def with_last_tasks(known: Array, fresh: Array) -> Array:
  """Returns `known`, extended by the last rows of `fresh` on the axis that is shorter."""
  for axis, (rows, all_rows) in enumerate(zip(known.shape, fresh.shape, strict=True)):
    if rows != all_rows:
      new = jax.lax.slice_in_dim(fresh, rows, None, axis=axis)
      return jnp.concatenate([known, new], axis)
  return known
