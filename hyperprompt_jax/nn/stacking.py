"""Converts parameter trees between scanned and unrolled layers, without loss."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# The key under which a scanned stack keeps its layers, stacked along a leading axis.
STACK = 'layers'
_LAYER = re.compile(rf'{STACK}_(\d{{1,9}})')


def layer_index(path: str) -> tuple[str, int | None]:
  """The path `a/layers/b` that `a/layers_3/b` has in a stack, and its layer, 3.

  A path outside of all layers is returned unchanged, with None.
  """
  match = re.search(rf'/{_LAYER.pattern}/', path)
  if match is None:
    return path, None
  return f'{path[: match.start()]}/{STACK}/{path[match.end() :]}', int(match[1])


def unstack_layers(tree: Any) -> Any:
  """Turns every `layers` subtree into `layers_0`, `layers_1`, ….

  Args:
    tree: is a nested mapping of arrays; those below a key `layers` have the same leading
      axis.

  Returns:
    Nested dict; arrays outside such subtrees are unchanged.
  """
  if not isinstance(tree, Mapping):
    return tree
  result = {}
  for key, value in tree.items():
    if key == STACK:
      for index in range(jax.tree.leaves(value)[0].shape[0]):
        result[f'{STACK}_{index}'] = jax.tree.map(lambda x, i=index: x[i], dict(value))
    else:
      result[key] = unstack_layers(value)
  return result


def stack_layers(tree: Any) -> Any:
  """The inverse of `unstack_layers`.

  Args:
    tree: is a nested mapping of arrays, with subtrees `layers_0` … `layers_{m-1}` of the
      same structure.

  Returns:
    Nested dict with one subtree `layers`, whose arrays have a leading axis m.

  Raises:
    ValueError: if a layer is missing or differs in structure from the others.
  """
  if not isinstance(tree, Mapping):
    return tree
  layers = {int(m[1]): key for key in tree if (m := _LAYER.fullmatch(key))}
  if sorted(layers) != list(range(len(layers))):
    raise ValueError(f'layers are not numbered from 0 without a gap: {sorted(layers)}')
  result = {k: stack_layers(v) for k, v in tree.items() if not _LAYER.fullmatch(k)}
  if layers:
    ordered = [dict(tree[layers[i]]) for i in range(len(layers))]
    result[STACK] = jax.tree.map(lambda *xs: jnp.stack(xs), *ordered)
  return result
