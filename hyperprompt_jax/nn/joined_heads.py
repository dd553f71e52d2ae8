"""Products of attention for a few queries, in which the heads of a row are one matrix.

For one query, a TPU's compiler makes no matrix product of `BQhk,BKhk->BhQK`: it multiplies
and adds in float32 on the vector units, and writes a copy of all keys in float32 first.
Here each head of a query is a row that is zero outside of its own head, `[h, h * k]`, and
is multiplied by the keys of all heads, `[K, h * k]`, as they are stored. Most of these
products are with zeros, but a step of decoding waits for its memory, which is read once.
Axis letters: see `hyperprompt_jax.nn`; in the two einsums, Q counts the heads of all
queries, and d is `h * k`.
"""

import jax
import jax.numpy as jnp

from hyperprompt_jax.nn.segments import Array


def logits(query: Array, key: Array, groups: int) -> Array:
  """The products of queries `[B, Q, h, k]` and keys `[B, K, h, k]`, `[B, h, Q, K]` float32.

  Args:
    query: holds the queries.
    key: holds the keys.
    groups: divides h. The products of a group of heads are one, so that devices which
      divide the heads send nothing.
  """
  of_groups = jax.vmap(_logits, in_axes=2, out_axes=1)(
    _grouped(query, groups), _grouped(key, groups)
  )
  return of_groups.reshape(query.shape[0], -1, *of_groups.shape[3:])


def weighted_sum(weights: Array, value: Array, groups: int) -> Array:
  """The sums of values `[B, K, h, k]` by weights `[B, h, Q, K]`: `[B, Q, h, k]`."""
  rows, heads, queries, keys = weights.shape
  weights = weights.reshape(rows, groups, heads // groups, queries, keys)
  of_groups = jax.vmap(_weighted_sum, in_axes=(1, 2), out_axes=2)(
    weights, _grouped(value, groups)
  )
  return of_groups.reshape(rows, queries, heads, -1)


def _logits(query: Array, key: Array) -> Array:
  rows, queries, heads, _ = query.shape
  apart = jnp.where(_own(heads), query[:, :, :, None], 0)  # [B, Q, h, h, k]
  x = jnp.einsum(
    'BQd,BKd->BQK',
    apart.reshape(rows, queries * heads, -1),
    key.reshape(*key.shape[:2], -1),
    preferred_element_type=jnp.float32,
  )
  return x.reshape(rows, queries, heads, -1).transpose(0, 2, 1, 3)


def _weighted_sum(weights: Array, value: Array) -> Array:
  rows, heads, queries, keys = weights.shape
  x = jnp.einsum(
    'BQK,BKd->BQd',
    weights.transpose(0, 2, 1, 3).reshape(rows, queries * heads, keys),
    value.reshape(*value.shape[:2], -1),
  )
  apart = x.reshape(rows, queries, heads, heads, -1)
  return jnp.sum(jnp.where(_own(heads), apart, 0), axis=3)


def _grouped(x: Array, groups: int) -> Array:
  """`[B, P, h, k]` as groups of heads, `[B, P, groups, h / groups, k]`."""
  return x.reshape(*x.shape[:2], groups, -1, x.shape[-1])


def _own(heads: int) -> Array:
  """Marks the own head of each head, `[h, h, 1]` bool."""
  return jnp.eye(heads, dtype=bool)[..., None]
