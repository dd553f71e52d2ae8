"""Parameters whose kernels are rounded to int8, as shapes and as arrays on disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from hyperprompt_jax.checkpoints import lazy
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING, OUTPUT_LAYER
from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.checkpoints.source import METHOD
from hyperprompt_jax.nn import int8
from hyperprompt_jax.nn.int8 import SCALES, Int8Params

T = TypeVar('T')
Index = tuple[slice, ...]
_KERNEL = '/kernel'


def shapes(params: Any) -> Int8Params:
  """Returns the shapes, dtypes and shardings that parameters have in int8.

  Args:
    params: is a tree of `jax.ShapeDtypeStruct` with shardings, those of float32.
  """
  collections = _collections(by_path(params), _rounded_shape, _transposed_shape)
  nested = traverse_util.unflatten_dict(collections, sep='/')
  return Int8Params(**nested)


def arrays(unrounded: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
  """Rounds the kernels among arrays of an unrolled network, when they are read.

  Returns:
    Arrays by path, `params/…` and `scales/…`.
  """
  return _collections(unrounded, _rounded_array, lazy.transposed)


def _collections(
  leaves: Mapping[str, T],
  rounded: Callable[[T], tuple[T, T]],
  transposed: Callable[[T], T],
) -> dict[str, T]:
  """Splits the kernels among parameters by path into int8 and scales.

  Args:
    leaves: are the parameters.
    rounded: splits a kernel.
    transposed: makes the kernel of a tied output layer from the embedding.
  """
  own = dict(leaves)
  own.setdefault(OUTPUT_LAYER, transposed(own[EMBEDDING]))
  params, scales = {}, {}
  for path, leaf in own.items():
    if path.endswith(_KERNEL) and not path.startswith(METHOD):
      leaf, scales[f'{SCALES}/{path}'] = rounded(leaf)
    params[f'params/{path}'] = leaf
  # A kernel is read before its scales, which are known then.
  return params | scales


def _rounded_shape(leaf: Any) -> tuple[Any, Any]:
  kernel = jax.ShapeDtypeStruct(leaf.shape, jnp.int8, sharding=leaf.sharding)
  axes = [axis for axis in range(leaf.ndim) if axis != leaf.ndim - 2]
  return kernel, _with_axes(leaf, axes)


def _transposed_shape(leaf: Any) -> Any:
  return _with_axes(leaf, (1, 0))


def _with_axes(leaf: Any, axes: Sequence[int]) -> Any:
  """Returns the shape that has some axes of another, each with its part of the mesh."""
  sharding = leaf.sharding
  if isinstance(sharding, NamedSharding):
    spec = (*sharding.spec, *(None for _ in range(leaf.ndim - len(sharding.spec))))
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*(spec[axis] for axis in axes)))
  shape = tuple(leaf.shape[axis] for axis in axes)
  return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)


def _rounded_array(kernel: LazyArray) -> tuple[LazyArray, LazyArray]:
  inputs, outputs = kernel.shape
  known: dict[tuple[int, int], np.ndarray] = {}  # scales, by their range of outputs

  def scales_of(columns: slice) -> np.ndarray:
    if (columns.start, columns.stop) not in known:
      read_kernel((slice(0, inputs), columns))
    return known[columns.start, columns.stop]

  def read_kernel(index: Index) -> np.ndarray:
    rows, columns = index
    place = columns.start, columns.stop
    if place in known:
      return int8.rounded(kernel.read(index).astype(np.float32), known[place])
    # The scale of an output needs all inputs, whatever part of them is asked for.
    entries = kernel.read((slice(0, inputs), columns)).astype(np.float32)
    known[place] = int8.scales_of(entries)
    return int8.rounded(entries[rows], known[place])

  return (
    LazyArray(kernel.shape, np.dtype(np.int8), read_kernel),
    LazyArray((outputs,), np.dtype(np.float32), lambda index: scales_of(index[0])),
  )
