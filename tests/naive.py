"""T5 with task-conditioning as in the papers: one row at a time, in loops, in float64.

The package is not imported. Parameters are unrolled (`layers_0`, `layers_1`, …).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

Array = np.ndarray


@dataclasses.dataclass
class Layer:
  """A task's additions to a layer: prompts `[l, h, k]`, and functions after the blocks."""

  prompts: tuple[Array, Array] | None = None
  prompt_logit: Array | None = None  # [h]
  after_attention: Callable[[Array], Array] = lambda x: x
  after_mlp: Callable[[Array], Array] = lambda x: x


@dataclasses.dataclass
class Added:
  """A task's additions to the network."""

  encoder: Sequence[Layer]
  decoder: Sequence[Layer]
  input_prompts: Array | None = None


def gelu(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rms_norm(x, params):
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params['scale']


def bucket(distance: int, bidirectional: bool) -> int:
  """Returns T5's bucket, one of 32, of a key that stands `distance` after the query."""
  number, start = 32, 0
  if bidirectional:
    number //= 2
    start = number if distance > 0 else 0
    distance = abs(distance)
  else:
    distance = max(-distance, 0)
  exact = number // 2
  if distance < exact:
    return start + distance
  far = exact + int(math.log(distance / exact) / math.log(128 / exact) * (number - exact))
  return start + min(far, number - 1)


def attention(
  params,
  x,
  memory,
  heads,
  *,
  prompts=None,
  prompt_logit=None,
  bias=None,
  causal=False,
  maps=None,
):
  """Computes attention of `x` `[Q, d]` to prompts and to `memory` `[K, d]`, head by head.

  The weights of each query are appended to the list `maps`, if there is one.
  """
  project = lambda name, rows: (rows @ params[name]['kernel']).reshape(len(rows), heads, -1)
  query, key, value = project('query', x), project('key', memory), project('value', memory)
  out = np.zeros_like(query)
  for h in range(heads):
    for q in range(len(x)):
      logits, values = [], []
      if prompts is not None:
        for prompt_key, prompt_value in zip(*prompts, strict=True):
          offset = 0.0 if prompt_logit is None else prompt_logit[h]
          logits.append(query[q, h] @ prompt_key[h] + offset)
          values.append(prompt_value[h])
      for k in range(q + 1 if causal else len(memory)):
        position = 0.0 if bias is None else bias[h, bucket(k - q, not causal)]
        logits.append(query[q, h] @ key[k, h] + position)
        values.append(value[k, h])
      weights = np.exp(np.array(logits) - max(logits))
      out[q, h] = (weights / weights.sum()) @ np.array(values)
      if maps is not None:
        maps.append(weights / weights.sum())
  return out.reshape(len(x), -1) @ params['out']['kernel']


def mlp(params, x):
  hidden = gelu(x @ params['wi_0']['kernel']) * (x @ params['wi_1']['kernel'])
  return hidden @ params['wo']['kernel']


def logits(params, heads: int, inputs, targets, added: Added, maps=()) -> Array:
  """Returns the logits `[Q, V]` of T5 1.1 for the tokens of one row, without padding.

  The attention weights of each encoder layer are appended to its list in `maps`.
  """
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  embedding, encoder, decoder = (
    params['token_embedder']['embedding'],
    params['encoder'],
    params['decoder'],
  )
  x = embedding[np.asarray(inputs)]
  if added.input_prompts is not None:
    x = np.concatenate([added.input_prompts, x])
  bias = encoder['relpos_bias']['rel_embedding']
  for m, layer in enumerate(added.encoder):
    p = encoder[f'layers_{m}']
    y = rms_norm(x, p['pre_attention_layer_norm'])
    y = attention(
      *(p['attention'], y, y, heads),
      prompts=layer.prompts,
      prompt_logit=layer.prompt_logit,
      bias=bias,
      maps=maps[m] if maps else None,
    )
    x = x + layer.after_attention(y)
    x = x + layer.after_mlp(mlp(p['mlp'], rms_norm(x, p['pre_mlp_layer_norm'])))
  memory = rms_norm(x, encoder['encoder_norm'])

  x = embedding[np.asarray([0, *targets[:-1]])]
  bias = decoder['relpos_bias']['rel_embedding']
  for m, layer in enumerate(added.decoder):
    p = decoder[f'layers_{m}']
    y = rms_norm(x, p['pre_self_attention_layer_norm'])
    y = attention(
      p['self_attention'],
      y,
      y,
      heads,
      prompts=layer.prompts,
      prompt_logit=layer.prompt_logit,
      bias=bias,
      causal=True,
    )
    x = x + layer.after_attention(y)
    y = rms_norm(x, p['pre_cross_attention_layer_norm'])
    x = x + attention(p['encoder_decoder_attention'], y, memory, heads)
    x = x + layer.after_mlp(mlp(p['mlp'], rms_norm(x, p['pre_mlp_layer_norm'])))
  return rms_norm(x, decoder['decoder_norm']) @ decoder['logits_dense']['kernel']


# ---- The additions of each method for a task, from its parameters ----


def nothing(method, p, t, depths) -> Added:
  return Added(*([Layer() for _ in range(depth)] for depth in depths))


def prompt_tuning(method, p, t, depths) -> Added:
  return dataclasses.replace(nothing(method, p, t, depths), input_prompts=p['prompts'][t])


def hyperprompt(local_hypernetwork) -> Callable[..., Added]:
  """`P[m,t] = s[m,t] U[m,t] relu(D[m,t] P[t])`, given a function that returns D and U."""

  def added(method, p, t, depths) -> Added:
    stacks, number = [], 0
    for name, depth in zip(('encoder', 'decoder'), depths, strict=True):
      layers = []
      for m in range(depth):
        prompted = method.stacks in (name, 'both') and m >= method.first_layer
        pair, offset = [], None
        for kind in ('key', 'value') if prompted else ():
          down, up = local_hypernetwork(p, kind, number, t)
          rows = [np.maximum(row @ down, 0) for row in p[f'{name}_prompts'][t]]
          scale = p[f'{name}_{kind}_scale'][m - method.first_layer, t]
          pair.append(scale * np.array([np.tensordot(row, up, axes=1) for row in rows]))
        if prompted and f'{name}_logit_offset' in p:
          offset = p[f'{name}_logit_offset'][m - method.first_layer]
        layers.append(Layer(tuple(pair) if prompted else None, offset))
        number += prompted
      stacks.append(layers)
    return Added(*stacks)

  return added


def share(p, kind, m, t):
  own = p[f'{kind}_hypernetworks']
  return own['down'][m], own['up'][m]


def sep(p, kind, m, t):
  own = p[f'{kind}_hypernetworks']
  return own['down'][m][t], own['up'][m][t]


def from_global(p, kind, m, t):
  pair = np.concatenate([p['task_embedding'][t], p['layer_embedding'][m]])
  hidden = np.maximum(pair @ p['mlp_wi']['kernel'], 0)
  embedding = hidden @ p['mlp_wo']['kernel']
  embedding = embedding / np.sqrt(np.mean(embedding**2))
  weights = p[f'{kind}_hypernetwork']
  generate = lambda w: sum(z * matrix for z, matrix in zip(embedding, w, strict=True))
  return generate(weights['down']), generate(weights['up'])


def layer_norm(x, scale, shift):
  deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
  return (x - x.mean(axis=-1, keepdims=True)) / deviation * scale + shift


def behind(own):
  """`A(x) = x + LN(U gelu(D x + b_D) + b_U)`, of one adapter."""

  def after(x):
    hidden = gelu(x @ own['down'] + own['down_bias'])
    y = hidden @ own['up'] + own['up_bias']
    return x + layer_norm(y, own['norm_scale'], own['norm_shift'])

  return after


def adapter(method, p, t, depths) -> Added:
  """Houlsby's, with the layer norm that Karimi Mahabadi et al. add."""

  def make(own, m):
    return behind({name: x[m, t] for name, x in own.items()})

  return Added(
    *(
      [
        Layer(
          after_attention=make(p[f'{stack}_attention'], m),
          after_mlp=make(p[f'{stack}_mlp'], m),
        )
        for m in range(depth)
      ]
      for stack, depth in zip(('encoder', 'decoder'), depths, strict=True)
    )
  )


def hyperformer(method, p, t, depths) -> Added:
  """HyperFormer++'s: the same adapter, all of it linear in `I = LN(MLP(concat(...)))`."""

  def linear(own, x):
    return np.tensordot(x, own['kernel'], axes=1) + own['bias']

  def make(own, layer, position):
    joined = np.concatenate(
      [
        p['task_embedding'][t],
        own['layer_embedding'][layer],
        own['position_embedding'][position],
      ]
    )
    embedding = linear(own['mlp_wo'], np.maximum(linear(own['mlp_wi'], joined), 0))
    embedding = layer_norm(embedding, own['mlp_norm_scale'], own['mlp_norm_shift'])
    names = ('down', 'up', 'down_bias', 'up_bias', 'norm_scale', 'norm_shift')
    return behind({name: linear(own[name], embedding) for name in names})

  return Added(
    *(
      [
        Layer(after_attention=make(p[stack], m, 0), after_mlp=make(p[stack], m, 1))
        for m in range(depth)
      ]
      for stack, depth in zip(('encoder', 'decoder'), depths, strict=True)
    )
  )


ADDED = {
  'MultiTaskLearning': nothing,
  'PromptTuning': prompt_tuning,
  'HoulsbyAdapter': adapter,
  'HyperFormer': hyperformer,
  'HyperPromptShare': hyperprompt(share),
  'HyperPromptSep': hyperprompt(sep),
  'HyperPromptGlobal': hyperprompt(from_global),
}


def batch_logits(model, params, batch, maps=None) -> list[Array]:
  """Returns the logits of each row's targets, without padding, for any method.

  If there is a list `maps`, each row's attention weights are appended: for each encoder
  layer, the weights of all keys for each head and query.
  """
  config = model.config
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params.get('method', {}))
  depths = (config.num_encoder_layers, config.num_decoder_layers)
  find = ADDED[type(model.method).__name__]
  rows = []
  for inputs, targets, (task,) in zip(
    np.asarray(batch['encoder_input_tokens']),
    np.asarray(batch['decoder_target_tokens']),
    np.asarray(batch['task_ids']),
    strict=True,
  ):
    added = find(model.method, p, int(task), depths)
    tokens = [x[x > 0] for x in (inputs, targets)]
    of_row: list[list[Array]] = [[] for _ in range(depths[0])]
    rows.append(logits(params, config.num_heads, *tokens, added, of_row))
    if maps is not None:
      maps.append(of_row)
  return rows
