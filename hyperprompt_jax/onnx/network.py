"""T5 with a folded method as two ONNX graphs: `encoder` and `decoder`.

The encoder also projects the keys and values of the decoder's cross-attention, and returns
the first keys and values of the decoder's self-attention, which are the prompts. The
decoder takes any number of tokens: one at a time for decoding, all of a target for a score.

The graphs compute what `hyperprompt_jax.nn` computes without dropout and packing. Read them
beside `nn.stacks`, `nn.attention`, `nn.layers` and `nn.insertion`. Axis letters: see
`hyperprompt_jax.nn`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING, OUTPUT_LAYER
from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.nn.attention_inputs import MASKED_LOGIT
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Adapter, Conditioning
from hyperprompt_jax.nn.layers import (
  LayerNorm,
  RelativePositionBiases,
  relative_position_bucket,
)
from hyperprompt_jax.onnx.graph import Graph, Name, WeightFile

ACTIVATIONS = ('linear', 'relu', 'gelu', 'silu', 'swish')
_FLOAT, _INT = np.float32, np.int32


@dataclasses.dataclass(frozen=True)
class Network:
  """The parameters of a T5, and the arrays that a method makes of all its tasks.

  Attributes:
    config: configures the network.
    arrays: are the parameters of the backbone, by their unrolled paths.
    conditioning: is the result of `Model.condition`.
    num_tasks: is t.
  """

  config: Config
  arrays: Mapping[str, LazyArray]
  conditioning: Conditioning
  num_tasks: int

  def encoder(self, weights: WeightFile) -> Graph:
    """Returns the graph of the encoder."""
    return _Encoder(self, Graph(weights)).written()

  def attention(self, weights: WeightFile) -> Graph:
    """Returns a graph of the encoder's attention mass on prompts, `[B, m]`."""
    return _Encoder(self, Graph(weights)).watched()

  def decoder(self, weights: WeightFile) -> Graph:
    """Returns the graph of the decoder."""
    return _Decoder(self, Graph(weights)).written()

  def prompts(self, stack: str, layer: int) -> dict[str, np.ndarray]:
    """Returns the prompts of a layer, `key` and `value` `[t, h, l, k]`; none: empty."""
    made = getattr(self.conditioning, stack).prompts
    if made is None or (made.active is not None and not made.active[layer]):
      return {}
    arrays = {'key': made.key[layer], 'value': made.value[layer]}
    return {n: np.asarray(x, _FLOAT).transpose(0, 2, 1, 3) for n, x in arrays.items()}

  def logit_offset(self, stack: str, layer: int) -> np.ndarray | None:
    """Returns the offset of the logits of a layer's prompts, `[h]`, or None."""
    made = getattr(self.conditioning, stack).prompts
    if not self.prompts(stack, layer) or made.logit_offset is None:
      return None
    return np.asarray(made.logit_offset[layer], _FLOAT)


class _Stack:
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
    return self.network.arrays[f'{self.name}/{path}'].read().astype(_FLOAT)

  def embed(self, tokens: Name) -> Name:
    """Embeds tokens `[B, P]` as `[B, P, d]`."""
    table = self.network.arrays[EMBEDDING].read().astype(_FLOAT)
    return self.op('Gather', self.graph.weight(EMBEDDING, table), tokens)

  def norm(self, path: str, x: Name) -> Name:
    """Divides by the root mean square; ONNX Runtime knows this order of operations."""
    square = self.op('Pow', x, self.graph.constant(2, _FLOAT))
    mean = self.op('ReduceMean', square, self.graph.constant([-1]))
    mean = self.op('Add', mean, self.graph.constant(LayerNorm.epsilon, _FLOAT))
    scale = self.graph.weight(f'{self.name}/{path}', self.read(f'{path}/scale'))
    return self.op('Mul', self.op('Div', x, self.op('Sqrt', mean)), scale)

  def dense(self, path: str, x: Name) -> Name:
    """Multiplies by a kernel."""
    return self.graph.matmul(x, f'{self.name}/{path}', self.read(f'{path}/kernel'))

  def branches(self, path: str, names: Sequence[str], x: Name) -> list[Name]:
    """Multiplies by several kernels of one width."""
    if not self.joins or len(names) == 1:
      return [self.dense(f'{path}/{name}', x) for name in names]
    kernels = [self.read(f'{path}/{name}/kernel') for name in names]
    name = f'{self.name}/{path}/{"_".join(names)}'
    y = self.graph.matmul(x, name, np.concatenate(kernels, axis=1))
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
      array = np.asarray(getattr(adapter, part)[layer], _FLOAT)
      made = self.graph.weight(f'{self.name}/{layer}/{name}/{part}', array)
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
    variance = self.op('Add', variance, self.graph.constant(1e-6, _FLOAT))
    return self.op('Div', centred, self.op('Sqrt', variance))

  def bias(self, layer: int, distance: Name, mask: Name) -> Name:
    """The bias of a layer's self-attention with its mask, zeros for prompts first.

    Args:
      layer: is the layer's number.
      distance: is the place in the table of biases, `[Q, K]` int.
      mask: is added to the biases of tokens.
    """
    own = f'layers_{layer}/' if self.config.position_bias_per_layer else ''
    prompts = self.network.prompts(self.name, layer)
    offset = self.network.logit_offset(self.name, layer)
    length = prompts['key'].shape[2] if prompts else 0
    known = own, length, None if offset is None else offset.tobytes()
    if known not in self._biases:
      embedding = self.read(f'{own}relpos_bias/rel_embedding')  # [h, r]
      table = embedding[:, self._buckets()]
      if offset is not None:
        # Softmax ignores a common shift of all logits: it is taken off the tokens'.
        table = table - offset[:, None]
      bias = self.op('Gather', self.graph.constant(table, _FLOAT), distance, axis=1)
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


class _Encoder(_Stack):
  """The encoder, with the keys and values that the decoder starts from."""

  name = 'encoder'
  joins = False
  _distance: Name | None = None

  def written(self) -> Graph:
    """Writes the encoder, and the arrays from which the decoder starts."""
    graph = self.graph
    x, seen = self.embedded()
    mask = _mask(graph, seen)
    for layer in range(self.config.num_encoder_layers):
      x, _ = self.layer(layer, x, mask)
    x = self.norm('encoder_norm', x)
    graph.output('activations', x, _FLOAT, ['B', 'P', self.config.emb_dim])
    graph.output('mask', mask, _FLOAT, ['B', 1, 1, 'P'])
    start = _Start(self.network, graph)
    for layer in range(self.config.num_decoder_layers):
      start.layer(layer, x)
    return graph

  def watched(self) -> Graph:
    """Writes the encoder, and the mean attention mass on prompts over heads and queries."""
    graph = self.graph
    x, seen = self.embedded()
    mask, masses = _mask(graph, seen), []
    for layer in range(self.config.num_encoder_layers):
      x, weights = self.layer(layer, x, mask)
      masses.append(self.prompt_mass(layer, weights, seen))
    mass = self.op('Concat', *masses, axis=1)
    graph.output('prompt_mass', mass, _FLOAT, ['B', self.config.num_encoder_layers])
    return graph

  def embedded(self) -> tuple[Name, Name]:
    """Returns `[B, P, d]`, and which positions are no padding, `[B, 1, 1, P]`."""
    graph, prompts = self.graph, self.network.conditioning.input_prompts
    tokens = graph.input('inputs', _INT, ['B', 'K'])
    graph.input('task_ids', _INT, ['B'])
    x = self.embed(tokens)
    seen = self.op('Greater', tokens, graph.constant(0, _INT))
    if prompts is not None:
      weight = graph.weight('input_prompts', np.asarray(prompts, _FLOAT))
      x = self.op('Concat', self.op('Gather', weight, 'task_ids'), x, axis=1)
      all_seen = graph.constant(np.ones(prompts.shape[:2]), np.bool_)
      seen = self.op('Concat', self.op('Gather', all_seen, 'task_ids'), seen, axis=1)
    return x, self.op('Unsqueeze', seen, graph.constant([1, 2]))

  def layer(self, layer: int, x: Name, mask: Name) -> tuple[Name, Name]:
    """Writes a layer; returns its output, and its attention weights `[B, h, Q, K]`."""
    path, own = f'layers_{layer}', self.network.conditioning.encoder
    y = self.norm(f'{path}/pre_attention_layer_norm', x)
    names = ('query', 'key', 'value')
    query, *keys = self.projected(f'{path}/attention', names, y)
    prompts = self.network.prompts(self.name, layer)
    for i, name in enumerate(names[1:] if prompts else ()):
      made = self.graph.weight(f'{self.name}/{path}/prompt_{name}', prompts[name])
      keys[i] = self.op('Concat', self.op('Gather', made, 'task_ids'), keys[i], axis=2)
    key = self.op('Transpose', keys[0], perm=[0, 1, 3, 2])
    bias = self.bias(layer, self.distance(x), mask)
    y, weights = self.attend(f'{path}/attention', query, key, keys[1], bias)
    x = self.op('Add', x, self.adapt('attention', own.attention_adapter, layer, y))
    y = self.mlp(f'{path}/mlp', self.norm(f'{path}/pre_mlp_layer_norm', x))
    return self.op('Add', x, self.adapt('mlp', own.mlp_adapter, layer, y)), weights

  def distance(self, x: Name) -> Name:
    """The place of each key's distance in the table of biases, `[Q, K]`."""
    if self._distance is None:
      farthest = RelativePositionBiases.max_distance
      constant = self.graph.constant
      places = self.range(constant(0), self.size(x, 1))
      keys, queries = (self.op('Unsqueeze', places, constant([i])) for i in (0, 1))
      relative = self.op('Sub', keys, queries)
      near = self.op('Clip', relative, constant(-farthest), constant(farthest))
      self._distance = self.op('Add', near, constant(farthest))
    return self._distance

  def prompt_mass(self, layer: int, weights: Name, seen: Name) -> Name:
    """The mean attention mass on prompts over heads and queries, `[B, 1]`."""
    constant, prompts = self.graph.constant, self.network.prompts(self.name, layer)
    length = prompts['key'].shape[2] if prompts else 0
    on_prompts = self.op('Slice', weights, constant([0]), constant([length]), constant([3]))
    mass = self.op('ReduceSum', on_prompts, constant([3]), keepdims=0)  # [B, h, Q]
    mass = self.op('ReduceMean', mass, constant([1]), keepdims=0)
    counted = self.op('Squeeze', seen, constant([1, 2]))
    counted = self.op('Cast', counted, to=TensorProto.FLOAT)
    total = self.op('ReduceSum', self.op('Mul', mass, counted), constant([1]))
    return self.op('Div', total, self.op('ReduceSum', counted, constant([1])))


class _Start(_Stack):
  """The keys and values from which the decoder starts, written into the encoder's graph."""

  name = 'decoder'
  joins = False

  def layer(self, layer: int, encoded: Name) -> None:
    """Writes the keys and values of a layer's cross-attention, and its prompts."""
    h, k = self.config.num_heads, self.config.head_dim
    path = f'layers_{layer}/encoder_decoder_attention'
    key, value = self.projected(path, ('key', 'value'), encoded)
    key = self.op('Transpose', key, perm=[0, 1, 3, 2])
    self.graph.output(f'cross_key_{layer}', key, _FLOAT, ['B', h, k, 'P'])
    self.graph.output(f'cross_value_{layer}', value, _FLOAT, ['B', h, 'P', k])
    nothing = np.zeros((self.network.num_tasks, h, 0, k), _FLOAT)
    prompts = self.network.prompts(self.name, layer)
    for name in ('key', 'value'):
      made = prompts.get(name, nothing)
      weight = self.graph.weight(f'{self.name}/layers_{layer}/prompt_{name}', made)
      own = self.op('Gather', weight, 'task_ids')
      self.graph.output(f'{name}_{layer}', own, _FLOAT, ['B', h, None, k])


class _Decoder(_Stack):
  """The decoder, with its output layer and the log probabilities."""

  name = 'decoder'
  joins = True

  def written(self) -> Graph:
    """Writes all operations."""
    graph, config = self.graph, self.config
    h, k = config.num_heads, config.head_dim
    tokens = graph.input('tokens', _INT, ['B', 'Q'])
    targets = graph.input('targets', _INT, ['B', 'Q'])
    graph.input('task_ids', _INT, ['B'])
    graph.input('mask', _FLOAT, ['B', 1, 1, 'K'])
    for layer in range(config.num_decoder_layers):
      graph.input(f'cross_key_{layer}', _FLOAT, ['B', h, k, 'K'])
      graph.input(f'cross_value_{layer}', _FLOAT, ['B', h, 'K', k])
      graph.input(f'past_key_{layer}', _FLOAT, ['B', h, None, k])
      graph.input(f'past_value_{layer}', _FLOAT, ['B', h, None, k])
    x = self.embed(tokens)
    distance, mask = self.distances(tokens)
    for layer in range(config.num_decoder_layers):
      x = self.layer(layer, x, distance, mask)
    self.predict(self.norm('decoder_norm', x), targets)
    return graph

  def layer(self, layer: int, x: Name, distance: Name, mask: Name) -> Name:
    """Writes a layer; returns its output."""
    path, own = f'layers_{layer}', self.network.conditioning.decoder
    h, k = self.config.num_heads, self.config.head_dim
    y = self.norm(f'{path}/pre_self_attention_layer_norm', x)
    attention = f'{path}/self_attention'
    names = ('query', 'key', 'value')
    query, *keys = self.projected(attention, names, y)
    for i, name in enumerate(names[1:]):
      keys[i] = self.op('Concat', f'past_{name}_{layer}', keys[i], axis=2)
      self.graph.output(f'{name}_{layer}', keys[i], _FLOAT, ['B', h, None, k])
    key = self.op('Transpose', keys[0], perm=[0, 1, 3, 2])
    bias = self.bias(layer, distance, mask)
    y, _ = self.attend(attention, query, key, keys[1], bias)
    x = self.op('Add', x, self.adapt('attention', own.attention_adapter, layer, y))

    attention = f'{path}/encoder_decoder_attention'
    y = self.norm(f'{path}/pre_cross_attention_layer_norm', x)
    (query,) = self.projected(attention, ('query',), y)
    of_encoder = f'cross_key_{layer}', f'cross_value_{layer}'
    y, _ = self.attend(attention, query, *of_encoder, 'mask')
    x = self.op('Add', x, y)

    y = self.mlp(f'{path}/mlp', self.norm(f'{path}/pre_mlp_layer_norm', x))
    return self.op('Add', x, self.adapt('mlp', own.mlp_adapter, layer, y))

  def distances(self, tokens: Name) -> tuple[Name, Name]:
    """The distance of each key in the table of biases, and the causal mask, `[Q, K]`."""
    constant = self.graph.constant
    prompts = self.network.prompts(self.name, 0)
    length = prompts['key'].shape[2] if prompts else 0
    first = self.op('Sub', self.size('past_key_0', 2), constant(length))
    last = self.op('Add', first, self.size(tokens, 1))
    queries = self.op('Unsqueeze', self.range(first, last), constant([1]))
    keys = self.op('Unsqueeze', self.range(constant(0), last), constant([0]))
    distance = self.op('Sub', queries, keys)
    seen = self.op('GreaterOrEqual', distance, constant(0))
    farthest = constant(RelativePositionBiases.max_distance)
    return self.op('Clip', distance, constant(0), farthest), _mask(self.graph, seen)

  def predict(self, x: Name, targets: Name) -> None:
    """Writes the output layer, and the outputs of the graph."""
    graph, config = self.graph, self.config
    if config.scales_logits:
      x = self.op('Mul', x, graph.constant(1 / math.sqrt(config.emb_dim), _FLOAT))
    arrays = self.network.arrays
    tied = config.logits_via_embedding
    kernel = arrays[EMBEDDING].read().T if tied else arrays[OUTPUT_LAYER].read()
    logits = graph.matmul(x, 'output_layer', kernel.astype(_FLOAT))  # [B, Q, V]
    logs = self.op('LogSoftmax', logits, axis=-1)
    last = graph.constant([-1])
    places = self.op('Cast', self.op('Unsqueeze', targets, last), to=TensorProto.INT64)
    of_targets = self.op('GatherElements', logs, places, axis=-1)
    graph.output('log_probabilities', logs, _FLOAT, ['B', 'Q', config.vocab_size])
    best = self.op('ArgMax', logits, axis=-1, keepdims=0)
    graph.output('best', best, np.int64, ['B', 'Q'])
    highest = self.op('ReduceMax', logs, last, keepdims=0)
    graph.output('best_log_probability', highest, _FLOAT, ['B', 'Q'])
    of_targets = self.op('Squeeze', of_targets, last)
    graph.output('target_log_probability', of_targets, _FLOAT, ['B', 'Q'])


def _mask(graph: Graph, seen: Name) -> Name:
  """Zeros where a key is seen, and `MASKED_LOGIT` elsewhere."""
  zero, masked = (graph.constant(x, _FLOAT) for x in (0, MASKED_LOGIT))
  return graph.op('Where', seen, zero, masked)
