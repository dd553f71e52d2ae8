"""Statistics of attention, reduced to a few numbers inside each layer.

The attention maps themselves, `[B, h, Q, K]` for each layer, are never kept. Axis letters:
see `hyperprompt_jax.nn`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hyperprompt_jax.nn.segments import Array

# The collection of Flax that statistics are sown into; they are computed only where it is
# mutable.
COLLECTION = 'attention_statistics'
NAME = 'statistics'
NUM_BINS = 64


@struct.dataclass
class AttentionStatistics:
  """Statistics of one layer's self-attention, float32; a stack has a leading axis m.

  All are over the queries of a row that are no padding. With `a` the softmax over prompts
  and tokens, and `c` the softmax over the tokens alone:

  Attributes:
    prompt_mass: is the mean over queries of the sum of `a` over prompts, `[B, h]`.
    token_mass: is the mean over queries of the sum of `a` over tokens, `[B, h]`; the two
      add up to 1.
    entropy: is the mean over queries of `-sum(c * ln(c))`, in nats, `[B, h]`. It does not
      depend on how much mass the prompts take.
    histogram: is the number of queries, of all heads, whose entropy falls into each of
      `NUM_BINS` bins of equal width from 0 to ln(K), `[B, NUM_BINS]`.
  """

  prompt_mass: Array
  token_mass: Array
  entropy: Array
  histogram: Array


def from_logits(logits: Array, num_prompts: int, queries: Array) -> AttentionStatistics:
  """Reduces the attention of a layer.

  Args:
    logits: has shape `[B, h, Q, S * l + K]`, with a large negative number for unseen keys;
      prompts come first.
    num_prompts: is S * l, the number of prompts of a row.
    queries: tells whether each query is no padding, `[B, Q]` bool.
  """
  logits = logits.astype(jnp.float32)
  queries = queries.astype(jnp.float32)
  number = jnp.maximum(jnp.sum(queries, axis=-1), 1.0)[:, None]
  mean = lambda x: jnp.einsum('BhQ,BQ->Bh', x, queries) / number

  weights = jax.nn.softmax(logits)
  # From the logits and not from the weights, of which those of tokens underflow to 0 where
  # the prompts take nearly all of the mass.
  tokens = jax.nn.log_softmax(logits[..., num_prompts:])
  entropy = -jnp.sum(jnp.exp(tokens) * tokens, axis=-1)  # [B, h, Q]

  bins = jnp.floor(entropy / entropy_range(tokens.shape[-1]) * NUM_BINS)
  one_hot = jax.nn.one_hot(jnp.clip(bins, 0, NUM_BINS - 1).astype(jnp.int32), NUM_BINS)
  return AttentionStatistics(
    prompt_mass=mean(jnp.sum(weights[..., :num_prompts], axis=-1)),
    token_mass=mean(jnp.sum(weights[..., num_prompts:], axis=-1)),
    entropy=mean(entropy),
    histogram=jnp.sum(one_hot * queries[:, None, :, None], axis=(1, 2)),
  )


def entropy_range(num_tokens: int) -> float:
  """The entropy of attention that is spread evenly over all tokens, in nats."""
  return math.log(max(num_tokens, 2))


def collect(sown: Any) -> AttentionStatistics:
  """Collects the statistics of a stack's layers, `[m, B, ...]`.

  Args:
    sown: is the stack's part of the collection, after the network was applied.
  """
  if 'layers' in sown:
    (attention,) = sown['layers'].values()
    return attention[NAME]
  layers = [sown[f'layers_{index}'] for index in range(len(sown))]
  each = [next(iter(layer.values()))[NAME] for layer in layers]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
