"""T5 with a folded method as three ONNX graphs: encoder, decoder and attention on prompts.

The encoder also projects the keys and values of the decoder's cross-attention, and returns
the first keys and values of the decoder's self-attention, which are the prompts. The
decoder takes any number of tokens: one at a time for decoding, all of a target for a score.

The graphs compute what `hyperprompt_jax.nn` computes without dropout and packing. Read them
beside `nn.stacks`, `nn.attention`, `nn.layers` and `nn.insertion`. Axis letters: see
`hyperprompt_jax.nn`.
"""

import math

import numpy as np
from onnx import TensorProto

from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING, OUTPUT_LAYER
from hyperprompt_jax.nn.layers import RelativePositionBiases
from hyperprompt_jax.onnx.graph import Graph, Name, WeightFile
from hyperprompt_jax.onnx.layers import FLOAT, INT, Stack
from hyperprompt_jax.onnx.network import Network

# The blocks in which the likeliest token is sought have as many tokens, or a part of that.
_BLOCK = 128


def encoder(network: Network, weights: WeightFile) -> Graph:
  """Returns the graph of the encoder."""
  return _Encoder(network, Graph(weights)).written()


def attention(network: Network, weights: WeightFile) -> Graph:
  """Returns a graph of the encoder's attention mass on prompts, `[B, m]`."""
  return _Encoder(network, Graph(weights)).watched()


def decoder(network: Network, weights: WeightFile) -> Graph:
  """Returns the graph of the decoder."""
  return _Decoder(network, Graph(weights)).written()


class _Encoder(Stack):
  """The encoder, with the keys and values that the decoder starts from."""

  name = 'encoder'
  joins = False
  _distance: Name | None = None

  def written(self) -> Graph:
    """Writes the encoder, and the arrays from which the decoder starts."""
    graph = self.graph
    x, seen = self.embedded()
    mask = self.mask(seen)
    for layer in range(self.config.num_encoder_layers):
      x, _ = self.layer(layer, x, mask)
    x = self.norm('encoder_norm', x)
    graph.output('activations', x, FLOAT, ['B', 'P', self.config.emb_dim])
    graph.output('mask', mask, FLOAT, ['B', 1, 1, 'P'])
    start = _Start(self.network, graph)
    for layer in range(self.config.num_decoder_layers):
      start.layer(layer, x)
    return graph

  def watched(self) -> Graph:
    """Writes the encoder, and the mean attention mass on prompts over heads and queries."""
    graph = self.graph
    x, seen = self.embedded()
    mask, masses = self.mask(seen), []
    for layer in range(self.config.num_encoder_layers):
      x, weights = self.layer(layer, x, mask)
      masses.append(self.prompt_mass(layer, weights, seen))
    mass = self.op('Concat', *masses, axis=1)
    graph.output('prompt_mass', mass, FLOAT, ['B', self.config.num_encoder_layers])
    return graph

  def embedded(self) -> tuple[Name, Name]:
    """Returns `[B, P, d]`, and which positions are no padding, `[B, 1, 1, P]`."""
    graph, prompts = self.graph, self.network.conditioning.input_prompts
    tokens = graph.input('inputs', INT, ['B', 'K'])
    graph.input('task_ids', INT, ['B'])
    x = self.embed(tokens)
    seen = self.op('Greater', tokens, graph.constant(0, INT))
    if prompts is not None:
      weight = graph.weight('input_prompts', lambda: np.asarray(prompts, FLOAT))
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
    if self.network.prompt_length(self.name, layer):
      for i, name in enumerate(names[1:]):
        keys[i] = self.op('Concat', self.prompts(layer, name), keys[i], axis=2)
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
    constant, length = self.graph.constant, self.network.prompt_length(self.name, layer)
    on_prompts = self.op('Slice', weights, constant([0]), constant([length]), constant([3]))
    mass = self.op('ReduceSum', on_prompts, constant([3]), keepdims=0)  # [B, h, Q]
    mass = self.op('ReduceMean', mass, constant([1]), keepdims=0)
    counted = self.op('Squeeze', seen, constant([1, 2]))
    counted = self.op('Cast', counted, to=TensorProto.FLOAT)
    total = self.op('ReduceSum', self.op('Mul', mass, counted), constant([1]))
    return self.op('Div', total, self.op('ReduceSum', counted, constant([1])))


class _Start(Stack):
  """The keys and values from which the decoder starts, written into the encoder's graph."""

  name = 'decoder'
  joins = False

  def layer(self, layer: int, encoded: Name) -> None:
    """Writes the keys and values of a layer's cross-attention, and its prompts."""
    h, k = self.config.num_heads, self.config.head_dim
    path = f'layers_{layer}/encoder_decoder_attention'
    key, value = self.projected(path, ('key', 'value'), encoded)
    key = self.op('Transpose', key, perm=[0, 1, 3, 2])
    self.graph.output(f'cross_key_{layer}', key, FLOAT, ['B', h, k, 'P'])
    self.graph.output(f'cross_value_{layer}', value, FLOAT, ['B', h, 'P', k])
    for name in ('key', 'value'):
      own = self.prompts(layer, name)
      self.graph.output(f'{name}_{layer}', own, FLOAT, ['B', h, None, k])


class _Decoder(Stack):
  """The decoder, with its output layer and the log probabilities."""

  name = 'decoder'
  joins = True

  def written(self) -> Graph:
    """Writes all operations."""
    graph, config = self.graph, self.config
    h, k = config.num_heads, config.head_dim
    tokens = graph.input('tokens', INT, ['B', 'Q'])
    targets = graph.input('targets', INT, ['B', 'Q'])
    graph.input('task_ids', INT, ['B'])
    graph.input('mask', FLOAT, ['B', 1, 1, 'K'])
    for layer in range(config.num_decoder_layers):
      graph.input(f'cross_key_{layer}', FLOAT, ['B', h, k, 'K'])
      graph.input(f'cross_value_{layer}', FLOAT, ['B', h, 'K', k])
      graph.input(f'past_key_{layer}', FLOAT, ['B', h, None, k])
      graph.input(f'past_value_{layer}', FLOAT, ['B', h, None, k])
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
      self.graph.output(f'{name}_{layer}', keys[i], FLOAT, ['B', h, None, k])
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
    length = self.network.prompt_length(self.name, 0)
    first = self.op('Sub', self.size('past_key_0', 2), constant(length))
    last = self.op('Add', first, self.size(tokens, 1))
    queries = self.op('Unsqueeze', self.range(first, last), constant([1]))
    keys = self.op('Unsqueeze', self.range(constant(0), last), constant([0]))
    distance = self.op('Sub', queries, keys)
    seen = self.op('GreaterOrEqual', distance, constant(0))
    farthest = constant(RelativePositionBiases.max_distance)
    return self.op('Clip', distance, constant(0), farthest), self.mask(seen)

  def predict(self, x: Name, targets: Name) -> None:
    """Writes the output layer, and the outputs of the graph."""
    graph, config = self.graph, self.config
    if config.scales_logits:
      x = self.op('Mul', x, graph.constant(1 / math.sqrt(config.emb_dim), FLOAT))
    logits = graph.matmul(x, 'output_layer', self.output_kernel)  # [B, Q, V]
    logs = self.op('LogSoftmax', logits, axis=-1)
    last = graph.constant([-1])
    places = self.op('Cast', self.op('Unsqueeze', targets, last), to=TensorProto.INT64)
    of_targets = self.op('GatherElements', logs, places, axis=-1)
    graph.output('log_probabilities', logs, FLOAT, ['B', 'Q', config.vocab_size])
    graph.output('best', self.best(logits), np.int64, ['B', 'Q'])
    highest = self.op('ReduceMax', logs, last, keepdims=0)
    graph.output('best_log_probability', highest, FLOAT, ['B', 'Q'])
    of_targets = self.op('Squeeze', of_targets, last)
    graph.output('target_log_probability', of_targets, FLOAT, ['B', 'Q'])

  def best(self, logits: Name) -> Name:
    """The likeliest token, `[B, Q]`.

    As in `backend.argmax`, the best block is found first: ONNX Runtime's ArgMax takes one
    value at a time.
    """
    constant, last = self.graph.constant, self.graph.constant([-1])
    size = math.gcd(self.config.vocab_size, _BLOCK)
    blocks = self.op('Reshape', logits, constant([0, 0, -1, size]))
    maxima = self.op('ReduceMax', blocks, last, keepdims=0)
    block = self.op('ArgMax', maxima, axis=-1, keepdims=1)  # [B, Q, 1]
    values = self.op('GatherND', blocks, block, batch_dims=2)  # [B, Q, size]
    place = self.op('ArgMax', values, axis=-1, keepdims=0)
    first = self.op('Mul', self.op('Squeeze', block, last), constant(size))
    return self.op('Add', first, place)

  def output_kernel(self) -> np.ndarray:
    """Reads the kernel of the output layer, `[d, V]`."""
    if self.config.logits_via_embedding:
      return self.network.read(EMBEDDING).T
    return self.network.read(OUTPUT_LAYER)
