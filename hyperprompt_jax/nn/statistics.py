"""What attention looks at, reduced to a few numbers where it happens.

The maps themselves, `[b, h, q, k]` for each layer, are never kept. Axis letters: see
`hyperprompt_jax.nn`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

# The collection of Flax that they are sown into; nothing is computed unless it is mutable.
COLLECTION = 'attention_statistics'
NAME = 'statistics'
NUM_BINS = 64


@struct.dataclass
class AttentionStatistics:
  """Of one layer's self-attention, float32; of a stack with an axis m before the others.

  Over queries that are no padding, with `a` the softmax over prompts and tokens:

  Attributes:
    prompt_mass: mean over queries of the sum of `a` over prompts, `[b, h]`.
    token_mass: the same over tokens, `[b, h]`; the two add up to 1.
    entropy: mean over queries of `-sum(c * ln(c))` over tokens, where `c` is `a` over its
      sum over tokens: what prompts take away does not count. Nats, `[b, h]`.
    histogram: how many queries, of all heads, have an entropy in each of NUM_BINS bins of
      equal width from 0 to ln(k), `[b, n]`.
  """

  prompt_mass: Array
  token_mass: Array
  entropy: Array
  histogram: Array


def of_attention(weights: Array, num_prompts: int, queries: Array) -> AttentionStatistics:
  """Reduces the attention of a layer.

  Args:
    weights: softmax, `[b, h, q, p + k]` float32; prompts come first.
    num_prompts: p, of a row.
    queries: whether each query is no padding, `[b, q]` bool.
  """
  queries = queries.astype(jnp.float32)
  number = jnp.maximum(jnp.sum(queries, axis=-1), 1.0)[:, None]
  mean = lambda x: jnp.einsum('bhq,bq->bh', x, queries) / number
  tokens = weights[..., num_prompts:]
  token_mass = jnp.sum(tokens, axis=-1)
  # -sum(c ln c) with c = a / s is ln s - sum(a ln a) / s; 0 ln 0 is 0.
  logs = jnp.where(tokens > 0.0, jnp.log(jnp.where(tokens > 0.0, tokens, 1.0)), 0.0)
  mass = jnp.maximum(token_mass, jnp.finfo(jnp.float32).tiny)
  entropy = jnp.log(mass) - jnp.sum(tokens * logs, axis=-1) / mass
  bins = jnp.floor(entropy / entropy_range(tokens.shape[-1]) * NUM_BINS)
  one_hot = jax.nn.one_hot(jnp.clip(bins, 0, NUM_BINS - 1).astype(jnp.int32), NUM_BINS)
  return AttentionStatistics(
    prompt_mass=mean(jnp.sum(weights[..., :num_prompts], axis=-1)),
    token_mass=mean(token_mass),
    entropy=mean(entropy),
    histogram=jnp.einsum('bhqn,bq->bn', one_hot, queries),
  )


def entropy_range(num_tokens: int) -> float:
  """The entropy of attention that is spread evenly over all tokens, in nats."""
  return math.log(max(num_tokens, 2))


def collect(found: Any) -> AttentionStatistics:
  """The statistics of a stack's layers, from what the network has sown.

  Args:
    found: the part of the collection that is the stack's.

  Returns:
    Arrays `[m, b, ...]`.
  """
  if 'layers' in found:
    (of_attention,) = found['layers'].values()
    return of_attention[NAME]
  layers = [found[f'layers_{number}'] for number in range(len(found))]
  each = [next(iter(layer.values()))[NAME] for layer in layers]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
