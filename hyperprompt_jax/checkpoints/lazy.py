"""Arrays on disk, which are rearranged before they are read, a part at a time."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.stacking import STACK, layer_index
from hyperprompt_jax.runtime.terminal import track_bytes

# Start and stop on each axis.
Index = tuple[slice, ...]
# Layers of a stack that are read at the same time, to hide the latency of remote storage.
_PARALLEL_READS = 8
# The bytes of the parts in which two arrays are compared.
_PART_BYTES = 2**26
# A file can claim any number of layers; this is more than any network has.
MOST_LAYERS = 1_000


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array that can be read.

  Attributes:
    shape: is the array's shape.
    dtype: is the array's dtype.
    read_index: reads a part of it.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read_index: Callable[[Index], np.ndarray]

  @property
  def nbytes(self) -> int:
    """The number of bytes of the whole array."""
    return math.prod(self.shape) * self.dtype.itemsize

  def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
    """Reads a part of the array; all of it by default."""
    index = index or (slice(None),) * len(self.shape)
    bounds = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
    return self.read_index(tuple(slice(start, stop) for start, stop, _ in bounds))


def in_memory(array: np.ndarray) -> LazyArray:
  """Wraps an array that is in memory."""
  return LazyArray(array.shape, array.dtype, array.__getitem__)


def transposed(array: LazyArray) -> LazyArray:
  """Exchanges the axes of a matrix."""
  read = lambda index: array.read(index[::-1]).T
  return dataclasses.replace(array, shape=array.shape[::-1], read_index=read)


def cast(array: LazyArray, dtype: Any) -> LazyArray:
  """Converts an array to another dtype."""
  read = lambda index: array.read(index).astype(dtype)
  return dataclasses.replace(array, dtype=np.dtype(dtype), read_index=read)


def checked_finite(array: LazyArray, name: str, report: Callable[[str], None]) -> LazyArray:
  """Reports an array if a value that is read of it is NaN or infinite.

  Args:
    array: is the array to check.
    name: names the array.
    report: is called with the name; it may raise.
  """

  def read(index: Index) -> np.ndarray:
    values = array.read(index)
    if not np.isfinite(values).all():
      report(name)
    return values

  return dataclasses.replace(array, read_index=read)


def same_values(one: LazyArray, other: LazyArray) -> bool:
  """Tells whether two arrays are equal; it reads both in parts, up to a difference."""
  if one.shape != other.shape or not one.shape:
    return one.shape == other.shape and np.array_equal(one.read(), other.read())
  rows = max(1, _PART_BYTES // max(1, one.nbytes // max(1, one.shape[0])))
  rest = (slice(None),) * (len(one.shape) - 1)
  parts = (slice(start, start + rows) for start in range(0, one.shape[0], rows))
  return all(
    np.array_equal(one.read((part, *rest)), other.read((part, *rest))) for part in parts
  )


def with_rows(array: LazyArray, axis: int, rows: int) -> LazyArray:
  """Cuts or pads an array to a number of rows along an axis.

  An added row is the mean of the others. In an output layer it gives the mean logit, which
  is far below that of any likely token. Zero would be far above, since T5's z-loss keeps
  log Z near 0.
  """
  old_rows = array.shape[axis]
  shape = (*array.shape[:axis], rows, *array.shape[axis + 1 :])

  def read(index: Index) -> np.ndarray:
    start, stop = index[axis].start, index[axis].stop
    part = lambda at: (*index[:axis], at, *index[axis + 1 :])
    kept = array.read(part(slice(min(start, old_rows), min(stop, old_rows))))
    if stop <= old_rows:
      return kept
    mean = array.read(part(slice(None))).mean(axis, dtype=np.float64, keepdims=True)
    padding = np.repeat(mean.astype(array.dtype), stop - max(start, old_rows), axis)
    return np.concatenate([kept, padding], axis)

  return dataclasses.replace(array, shape=shape, read_index=read)


def _layer(stack: LazyArray, number: int) -> LazyArray:
  """Takes one index of the leading axis."""
  read = lambda index: stack.read((slice(number, number + 1), *index))[0]
  return dataclasses.replace(stack, shape=stack.shape[1:], read_index=read)


def _stacked(layers: Sequence[LazyArray]) -> LazyArray:
  """Stacks arrays of one shape along a new leading axis."""

  def read(index: Index) -> np.ndarray:
    first, *rest = index
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_READS) as pool:
      parts = pool.map(lambda layer: layer.read(tuple(rest)), layers[first])
      return np.stack([*parts])

  return LazyArray((len(layers), *layers[0].shape), layers[0].dtype, read)


def unrolled(arrays: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
  """Splits the stacks among arrays by path into layers: `layers_0`, `layers_1`, ….

  Raises:
    UserError: if an array that should be a stack has no layers, or too many.
  """
  result = {}
  for path, array in arrays.items():
    before, stack, after = path.partition(f'/{STACK}/')
    if stack:
      if not array.shape or array.shape[0] > MOST_LAYERS:
        raise UserError(
          f'{path} is a stack of layers of shape {list(array.shape)}; expected '
          f'{MOST_LAYERS} layers at most'
        )
      for number in range(array.shape[0]):
        result[f'{before}/{STACK}_{number}/{after}'] = _layer(array, number)
    else:
      result[path] = array
  return result


def arranged(
  arrays: Mapping[str, LazyArray], paths: Collection[str]
) -> dict[str, LazyArray]:
  """Arranges arrays of an unrolled network for a network that may have stacks.

  Args:
    arrays: are keyed by their paths in the unrolled network.
    paths: are the paths of the other network.

  Returns:
    Arrays by path. Layers that do not fit into one stack keep paths of their own.
  """
  result = {}
  stacks: dict[str, dict[str, LazyArray]] = {}
  for path, array in arrays.items():
    stacked_path, number = layer_index(path)
    if number is not None and path not in paths and stacked_path in paths:
      stacks.setdefault(stacked_path, {})[path] = array
    else:
      result[path] = array
  for stacked_path, layers in stacks.items():
    in_order = sorted(layers, key=lambda path: layer_index(path)[1] or 0)
    has_gap = [layer_index(path)[1] for path in in_order] != list(range(len(layers)))
    if has_gap or len({layer.shape for layer in layers.values()}) > 1:
      result |= layers
      continue
    result[stacked_path] = _stacked([layers[path] for path in in_order])
  return result


def load(
  arrays: Mapping[str, LazyArray], like: Mapping[str, Any], title: str
) -> dict[str, Any]:
  """Reads arrays onto devices, each device its own part.

  Args:
    arrays: are keyed by path; those that `like` lacks are not read.
    like: gives shapes, dtypes and shardings by path.
    title: labels the progress bar.

  Returns:
    A nested dict of arrays.
  """
  params = {}
  total = sum(arrays[path].nbytes for path in like)
  with track_bytes(title, total) as advance:
    for path, leaf in like.items():
      params[tuple(path.split('/'))] = _load_one(arrays[path], leaf)
      advance(arrays[path].nbytes)
  return traverse_util.unflatten_dict(params)


def _load_one(array: LazyArray, like: Any) -> jax.Array:
  parts: dict[str, np.ndarray] = {}

  def part(index: Any) -> np.ndarray:
    # Devices that hold the same part ask for it one by one.
    if str(index) not in parts:
      parts[str(index)] = array.read(index).astype(like.dtype)
    return parts[str(index)]

  return jax.make_array_from_callback(like.shape, like.sharding, part)
