"""The parameters of T5X's `scalable_t5`, as umT5 was published, by the paths of our tree.

There the layers of a stack are the second axis of each array, below `encoder/encoder` and
`decoder/decoder`. Projections of attention have separate axes of heads and head width. Each
layer has a position bias.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from hyperprompt_jax.checkpoints.lazy import MOST_LAYERS, Index, LazyArray
from hyperprompt_jax.nn.stacking import STACK

_STACK = re.compile(r'(encoder|decoder)/\1/(.+)')
_PROJECTION = re.compile(r'.*attention/(query|key|value|out)/kernel')
_LAYER_AXIS = 1


def unrolled(arrays: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
  """Returns the arrays of each layer by itself, and all others unchanged.

  Args:
    arrays: are keyed by path; those of another layout are returned as they are.
  """
  result: dict[str, LazyArray] = {}
  for path, array in arrays.items():
    match = _STACK.fullmatch(path)
    is_stack = len(array.shape) > _LAYER_AXIS and array.shape[_LAYER_AXIS] <= MOST_LAYERS
    if match is None or not is_stack:
      result[path] = _joined(path, array)
      continue
    side, rest = match.groups()
    for number in range(array.shape[_LAYER_AXIS]):
      layer_path = f'{side}/{STACK}_{number}/{rest}'
      result[layer_path] = _joined(layer_path, _layer(array, number))
  return result


def _layer(stack: LazyArray, number: int) -> LazyArray:
  """Takes one index of the axis of layers."""
  before, after = stack.shape[:_LAYER_AXIS], stack.shape[_LAYER_AXIS + 1 :]

  def read(index: Index) -> np.ndarray:
    stacked = (*index[:_LAYER_AXIS], slice(number, number + 1), *index[_LAYER_AXIS:])
    return stack.read(stacked).squeeze(_LAYER_AXIS)

  return dataclasses.replace(stack, shape=(*before, *after), read_index=read)


def _joined(path: str, array: LazyArray) -> LazyArray:
  """Joins heads and head width of a projection; returns all other arrays unchanged."""
  match = _PROJECTION.fullmatch(path)
  if match is None or len(array.shape) != 3:
    return array
  # [d, h, k], or [h, k, d] of the projection back.
  axis = 0 if match[1] == 'out' else 1
  joined = math.prod(array.shape[axis : axis + 2])
  shape = (*array.shape[:axis], joined, *array.shape[axis + 2 :])

  def read(index: Index) -> np.ndarray:
    all_heads = (slice(None), slice(None))
    part = array.read((*index[:axis], *all_heads, *index[axis + 1 :]))
    part = part.reshape(*part.shape[:axis], joined, *part.shape[axis + 2 :])
    return part[(*(slice(None),) * axis, index[axis])]

  return dataclasses.replace(array, shape=shape, read_index=read)
