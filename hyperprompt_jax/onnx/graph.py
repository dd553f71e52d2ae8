"""ONNX graphs: operations, constants, and products of matrices in float32 or in int8."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hyperprompt_jax.nn import int8

_OPSET, _IR_VERSION = 20, 9  # the first that have Gelu
_RUNTIME = 'com.microsoft'  # the operations of ONNX Runtime itself
# Files are mapped into memory by pages.
_PAGE = 4096
# Weights have 7 bits and a sign less: two products of a weight and an activation of 8 bits
# then fit into the 16 bits in which processors without VNNI add them.
_LARGEST_WEIGHT, _LARGEST_ACTIVATION, _ZERO = 63.0, 127.0, 128

Name = str
Read = Callable[[], np.ndarray]


@dataclasses.dataclass
class WeightFile:
  """A file of weights, which several graphs share.

  Attributes:
    file: is opened for writing.
    name: is its name in the folder of the graphs.
    int8: tells whether the kernels of `Graph.matmul` are rounded to int8.
    tensors: are the weights that are in it already, by name.
  """

  file: IO[bytes]
  name: str
  int8: bool = False
  tensors: dict[str, TensorProto] = dataclasses.field(default_factory=dict)

  def add(self, name: str, read: Read) -> TensorProto:
    """Reads and writes an array, unless it is there already; returns its description."""
    if name not in self.tensors:
      array = read()
      contents = np.ascontiguousarray(array).tobytes()
      if len(contents) >= _PAGE:
        self.file.write(b'\0' * (-self.file.tell() % _PAGE))
      tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
      )
      place = {
        'location': self.name,
        'offset': self.file.tell(),
        'length': len(contents),
      }
      for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
      self.file.write(contents)
      self.tensors[name] = tensor
    return self.tensors[name]


class Graph:
  """A graph that is written one operation after another.

  Operations take and return the names of arrays.

  Args:
    weights: receives the weights.
  """

  def __init__(self, weights: WeightFile):
    self._weights = weights
    self._nodes: list[onnx.NodeProto] = []
    self._constants: dict[str, TensorProto] = {}
    self._inputs: list[onnx.ValueInfoProto] = []
    self._outputs: list[onnx.ValueInfoProto] = []
    self._renamed: dict[Name, Name] = {}
    # Activations in int8, with the sizes of their rows.
    self._rounded: dict[Name, tuple[Name, Name]] = {}

  def input(self, name: Name, dtype: Any, shape: Sequence[Any]) -> Name:
    """Declares an input; sizes that differ from call to call are names or None."""
    self._inputs.append(_described(name, dtype, shape))
    return name

  def output(self, name: Name, x: Name, dtype: Any, shape: Sequence[Any]) -> None:
    """Makes an array, which is no other output yet, an output by another name."""
    self._renamed[x] = name
    self._outputs.append(_described(name, dtype, shape))

  def op(self, kind: str, *inputs: Name, **attributes: Any) -> Name:
    """Adds an operation; returns its output."""
    name = f'{kind}_{len(self._nodes)}'
    self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
    return name

  def split(self, x: Name, number: int) -> list[Name]:
    """Splits the last axis into equal parts."""
    names = [f'{x}_part_{part}' for part in range(number)]
    node = helper.make_node('Split', [x], names, axis=-1, num_outputs=number)
    self._nodes.append(node)
    return names

  def constant(self, value: Any, dtype: Any = np.int64) -> Name:
    """Adds a small constant, which is kept in the graph itself."""
    array = np.asarray(value, dtype)
    name = f'{array.dtype.name}_{array.shape}_{array.tobytes().hex()}'
    if len(name) > 100:
      name = f'constant_{len(self._constants)}'
    self._constants.setdefault(name, numpy_helper.from_array(array, name))
    return name

  def weight(self, name: Name, read: Read) -> Name:
    """Adds a weight, which is kept in the file of weights.

    Args:
      name: names the weight in all graphs of the file.
      read: returns it; it is called for the first of these graphs alone.
    """
    self._constants[name] = self._weights.add(name, read)
    return name

  def matmul(self, x: Name, name: str, read: Read) -> Name:
    """Multiplies `[..., inputs]` by a kernel `[inputs, outputs]`, both float32.

    In int8 each row of `x` and each column of the kernel has its own scale, so that the
    result of a row does not depend on the rows beside it.

    Args:
      x: is the array.
      name: names the kernel.
      read: returns the kernel, as in `weight`.
    """
    if not self._weights.int8:
      return self.op('MatMul', x, self.weight(name, read))
    columns = functools.cache(lambda: _columns_in_int8(read()))
    rows, sizes = self._rows_in_int8(x)
    product = self.op(
      'MatMulIntegerToFloat',
      rows,
      self.weight(f'{name}.int8', lambda: columns()[0]),
      self.constant(1 / _LARGEST_ACTIVATION, np.float32),
      self.weight(f'{name}.scale', lambda: columns()[1]),
      self.constant(_ZERO, np.uint8),
      domain=_RUNTIME,
    )
    return self.op('Mul', product, sizes)

  def _rows_in_int8(self, x: Name) -> tuple[Name, Name]:
    """Returns `[..., inputs]` in 8 bits, and the sizes of its rows, `[..., 1]`.

    A row of zeros is divided by zero, and rounded to some number. Its size, by which the
    product is multiplied, makes zeros of it again.
    """
    if x not in self._rounded:
      sizes = self.op('ReduceMax', self.op('Abs', x), self.constant([-1]))
      rows = self.op(
        'QuantizeLinear',
        self.op('Div', x, sizes),
        self.constant(1 / _LARGEST_ACTIVATION, np.float32),
        self.constant(_ZERO, np.uint8),
      )
      self._rounded[x] = rows, sizes
    return self._rounded[x]

  def save(self, path: pathlib.Path) -> None:
    """Writes the graph; the weights are in their own file.

    Raises:
      OSError: if it cannot be written.
    """
    for node in self._nodes:
      for names in (node.input, node.output):
        names[:] = [self._renamed.get(name, name) for name in names]
    graph = helper.make_graph(
      self._nodes, path.stem, self._inputs, self._outputs, [*self._constants.values()]
    )
    model = helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', _OPSET), helper.make_opsetid(_RUNTIME, 1)],
      ir_version=_IR_VERSION,
      producer_name='hyperprompt_jax',
    )
    path.write_bytes(model.SerializeToString())


def _columns_in_int8(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns a kernel in int8, and the scales of its columns, float32."""
  scales = int8.scales_of(kernel, _LARGEST_WEIGHT)
  return int8.rounded(kernel, scales), scales


def _described(name: Name, dtype: Any, shape: Sequence[Any]) -> onnx.ValueInfoProto:
  kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
  return helper.make_tensor_value_info(name, kind, shape)
