"""Kernels in int8 for inference, with a scale for each output; activations stay floats.

The product of `Dense` is `(x W) * s`, where W is the kernel in int8 and s has a float32
number for each output. Kernels stay under their names, and their scales are in a collection
of their own. Embeddings, norms, position biases and the method's parameters stay float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import struct

# The dtypes of kernels.
FLOAT32, INT8 = 'float32', 'int8'
# The collection of scales; each has the path of its kernel.
SCALES = 'scales'
# The largest number of a kernel. Its negative is the smallest, so that zero is zero.
LARGEST = 127.0
_TINY = 1e-12  # in place of the size of a column of zeros


@struct.dataclass
class Int8Params:
  """The parameters of a network whose kernels are int8.

  A tied output layer gets a kernel of its own, `decoder/logits_dense/kernel`, so that the
  embeddings of tokens stay exact.

  Attributes:
    params: are the parameters by their names, with kernels in int8.
    scales: are the scales of kernels, float32. A scale has the path of its kernel, and its
      shape without the axis of inputs, the last but one.
  """

  params: Mapping[str, Any]
  scales: Mapping[str, Any]


def variables(params: Mapping[str, Any] | Int8Params) -> dict[str, Any]:
  """Returns parameters as the collections of Flax."""
  if isinstance(params, Int8Params):
    return {'params': params.params, SCALES: params.scales}
  return {'params': params}


def scales_of(kernel: np.ndarray, largest: float = LARGEST) -> np.ndarray:
  """Returns the scales of a kernel `[..., inputs, outputs]`, `[..., outputs]` float32.

  Args:
    kernel: is a float32 matrix, or a stack of them.
    largest: is the number to which the largest entry of each column is rounded.
  """
  largest_entries = np.maximum(np.abs(kernel).max(axis=-2), _TINY)
  return (largest_entries / largest).astype(np.float32)


def rounded(kernel: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Returns a kernel in int8, by the scales of its columns."""
  return np.rint(kernel / scales[..., None, :]).astype(np.int8)
