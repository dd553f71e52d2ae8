"""The operations that encoder and decoder share; see `nn.layers` and `nn.attention`."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING
from hyperprompt_jax.nn.attention_inputs import MASKED_LOGIT
from hyperprompt_jax.nn.insertion import Adapter
from hyperprompt_jax.nn.layers import (
  LayerNorm,
  RelativePositionBiases,
  relative_position_bucket,
)
from hyperprompt_jax.onnx.graph import Graph, Name
from hyperprompt_jax.onnx.network import Network

ACTIVATIONS = ('linear', 'relu', 'gelu', 'silu', 'swish')
FLOAT, INT = np.float32, np.int32


class Stack:
  """The operations that encoder and decoder have in common.

  Args:
    network: holds the parameters.
    graph: receives the operations.
  """

  name: str
  # Whether products with one operand in common are one product. With few rows that saves
  # time; with many the copies of the split cost more.
  joins: bool

  def __init__(self, network: Network, graph: Graph):
    self.network = network
    self.graph = graph
    self.op = graph.op
    self.config = network.config
    self._biases: dict[Any, Name] = {}

  def read(self, path: str) -> np.ndarray:
    """Reads a parameter of the stack as float32."""
    return self.network.read(f'{self.name}/{path}')

  def embed(self, tokens: Name) -> Name:
    """Embeds tokens `[B, P]` as `[B, P, d]`."""
    table = self.graph.weight(EMBEDDING, lambda: self.network.read(EMBEDDING))
    return self.op('Gather', table, tokens)

  def prompts(self, layer: int, part: str) -> Name:
    """The prompts of the rows' tasks in a layer, `[B, h, l, k]`; l may be 0.

    Args:
      layer: is the number of the layer.
      part: is 'key' or 'value'.
    """
    network, config = self.network, self.config
    if network.prompt_length(self.name, layer):
      name = f'{self.name}/layers_{layer}/prompt_{part}'
      made = self.graph.weight(name, lambda: network.prompts(self.name, layer, part))
    else:
      shape = (network.num_tasks, config.num_heads, 0, config.head_dim)
      made = self.graph.constant(np.zeros(shape), FLOAT)
    return self.op('Gather', made, 'task_ids')

  def norm(self, path: str, x: Name) -> Name:
    """Divides by the root mean square; ONNX Runtime knows this order of operations."""
    square = self.op('Pow', x, self.graph.constant(2, FLOAT))
    mean = self.op('ReduceMean', square, self.graph.constant([-1]))
    mean = self.op('Add', mean, self.graph.constant(LayerNorm.epsilon, FLOAT))
    scale = self.graph.weight(f'{self.name}/{path}', lambda: self.read(f'{path}/scale'))
    return self.op('Mul', self.op('Div', x, self.op('Sqrt', mean)), scale)

  def dense(self, path: str, x: Name) -> Name:
    """Multiplies by a kernel."""
    read = functools.partial(self.read, f'{path}/kernel')
    return self.graph.matmul(x, f'{self.name}/{path}', read)

  def branches(self, path: str, names: Sequence[str], x: Name) -> list[Name]:
    """Multiplies by several kernels of one width."""
    if not self.joins or len(names) == 1:
      return [self.dense(f'{path}/{name}', x) for name in names]

    def read() -> np.ndarray:
      kernels = [self.read(f'{path}/{name}/kernel') for name in names]
      return np.concatenate(kernels, axis=1)

    y = self.graph.matmul(x, f'{self.name}/{path}/{"_".join(names)}', read)
    return self.graph.split(y, len(names))

  def heads_apart(self, x: Name) -> Name:
    """`[B, P, h * k]` as `[B, h, P, k]`."""
    shape = self.graph.constant([0, 0, self.config.num_heads, self.config.head_dim])
    return self.op('Transpose', self.op('Reshape', x, shape), perm=[0, 2, 1, 3])

  def projected(self, path: str, names: Sequence[str], x: Name) -> list[Name]:
    """Projects to heads, `[B, h, P, k]`."""
    return [*map(self.heads_apart, self.branches(path, names, x))]

  def attend(
    self, path: str, query: Name, key: Name, value: Name, bias: Name
  ) -> tuple[Name, Name]:
    """Returns the output `[B, Q, d]`, and the weights `[B, h, Q, K]`.

    Args:
      path: names the attention.
      query: has shape `[B, h, Q, k]`.
      key: has shape `[B, h, k, K]`.
      value: has shape `[B, h, K, k]`.
      bias: is added to the logits, and masks them.
    """
    logits = self.op('Add', self.op('MatMul', query, key), bias)
    weights = self.op('Softmax', logits, axis=-1)
    x = self.op('Transpose', self.op('MatMul', weights, value), perm=[0, 2, 1, 3])
    x = self.op('Reshape', x, self.graph.constant([0, 0, -1]))
    return self.dense(f'{path}/out', x), weights

  def mlp(self, path: str, x: Name) -> Name:
    """T5's feed-forward block."""
    names = self.config.mlp_activations
    inputs = ['wi'] if len(names) == 1 else [f'wi_{i}' for i in range(len(names))]
    activated = map(self.activate, names, self.branches(path, inputs, x))
    product = functools.reduce(lambda x, y: self.op('Mul', x, y), activated)
    return self.dense(f'{path}/wo', product)

  def activate(self, name: str, x: Name) -> Name:
    """Applies a function of `flax.linen` that is one of ACTIVATIONS."""
    if name == 'linear':
      return x
    if name == 'relu':
      return self.op('Relu', x)
    if name == 'gelu':
      return self.op('Gelu', x, approximate='tanh')
    return self.op('Mul', x, self.op('Sigmoid', x))

  def adapt(self, name: str, adapter: Adapter | None, layer: int, x: Name) -> Name:
    """`x + LN(U gelu(D x + b_D) + b_U)` by the adapters of the rows' tasks."""
    if adapter is None:
      return x

    def own(part: str, expand: bool = True) -> Name:
      """An array of each row's task; vectors get an axis of positions."""
      read = lambda: np.asarray(getattr(adapter, part)[layer], FLOAT)
      made = self.graph.weight(f'{self.name}/{layer}/{name}/{part}', read)
      made = self.op('Gather', made, 'task_ids')
      return self.op('Unsqueeze', made, self.graph.constant([1])) if expand else made

    hidden = self.op('MatMul', x, own('down', expand=False))
    if adapter.down_bias is not None:
      hidden = self.op('Add', hidden, own('down_bias'))
    y = self.op('MatMul', self.activate('gelu', hidden), own('up', expand=False))
    if adapter.up_bias is not None:
      y = self.op('Add', y, own('up_bias'))
    if adapter.norm_scale is not None:
      y = self.op('Mul', self._normalised(y), own('norm_scale'))
      y = self.op('Add', y, own('norm_shift'))
    return self.op('Add', x, y)

  def _normalised(self, y: Name) -> Name:
    last = self.graph.constant([-1])
    centred = self.op('Sub', y, self.op('ReduceMean', y, last))
    variance = self.op('ReduceMean', self.op('Mul', centred, centred), last)
    variance = self.op('Add', variance, self.graph.constant(1e-6, FLOAT))
    return self.op('Div', centred, self.op('Sqrt', variance))

  def bias(self, layer: int, distance: Name, mask: Name) -> Name:
    """The bias of a layer's self-attention with its mask, zeros for prompts first.

    Args:
      layer: is the layer's number.
      distance: is the place in the table of biases, `[Q, K]` int.
      mask: is added to the biases of tokens.
    """
    own = f'layers_{layer}/' if self.config.position_bias_per_layer else ''
    length = self.network.prompt_length(self.name, layer)
    offset = self.network.logit_offset(self.name, layer)
    known = own, length, None if offset is None else offset.tobytes()
    if known not in self._biases:
      embedding = self.read(f'{own}relpos_bias/rel_embedding')  # [h, r]
      table = embedding[:, self._buckets()]
      if offset is not None:
        # Softmax ignores a common shift of all logits: it is taken off the tokens'.
        table = table - offset[:, None]
      bias = self.op('Gather', self.graph.constant(table, FLOAT), distance, axis=1)
      bias = self.op('Unsqueeze', bias, self.graph.constant([0]))  # [1, h, Q, K]
      bias = self.op('Add', bias, mask)
      if length:
        bias = self.op('Pad', bias, self.graph.constant([0, 0, 0, length, 0, 0, 0, 0]))
      self._biases[known] = bias
    return self._biases[known]

  def _buckets(self) -> np.ndarray:
    """The bucket of each distance; all farther keys share the last one."""
    farthest = RelativePositionBiases.max_distance
    relative = np.arange(-farthest, farthest + 1)
    if self.name == 'decoder':
      relative = -np.arange(farthest + 1)
    return relative_position_bucket(
      relative,
      bidirectional=self.name == 'encoder',
      num_buckets=RelativePositionBiases.num_buckets,
      max_distance=farthest,
    )

  def range(self, first: Name, last: Name) -> Name:
    """The numbers from `first` up to and without `last`, int64 scalars."""
    return self.op('Range', first, last, self.graph.constant(1))

  def size(self, x: Name, axis: int) -> Name:
    """The size of an axis, an int64 scalar."""
    shape = self.op('Shape', x, start=axis, end=axis + 1)
    return self.op('Squeeze', shape)

  def mask(self, seen: Name) -> Name:
    """Zeros where a key is seen, and `MASKED_LOGIT` elsewhere."""
    zero, masked = (self.graph.constant(x, FLOAT) for x in (0, MASKED_LOGIT))
    return self.op('Where', seen, zero, masked)
