"""Sums over all bits of saved arrays, which reveal damage when the arrays are read.

Equal arrays have equal sums, however they are laid out over devices and hosts.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyperprompt_jax.checkpoints.differences import by_path

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def sums_by_path(tree: Any) -> dict[str, int]:
  """Adds up each array of a tree, by its path, in one small program for all of them."""
  arrays = by_path(tree)
  sums = jax.device_get(_all_sums([*arrays.values()]))
  return dict(zip(arrays, map(int, sums), strict=True))


def differing(tree: Any, sums: Mapping[str, int]) -> list[str]:
  """Returns the paths of arrays that differ from those whose sums are given."""
  own = sums_by_path(tree)
  return sorted(path for path in {*own, *sums} if own.get(path) != sums.get(path))


@jax.jit
def weighted_sum(x: jax.Array) -> jax.Array:
  """Adds up an array's words, weighted by their places, modulo 2 ** 32.

  Integer addition is associative, so the sum does not depend on an array's layout. Weights
  are odd, so that a single changed word always changes the sum.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
  place, stride = jnp.zeros((), jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(
      stride % 2**32
    )
    stride *= x.shape[axis]
  return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


@jax.jit
def _all_sums(arrays: list[jax.Array]) -> list[jax.Array]:
  return [weighted_sum(x) for x in arrays]
