"""A network small enough for tests, and batches for it."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.methods import (
  HoulsbyAdapter,
  HyperFormer,
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
  Method,
  MultiTaskLearning,
  PromptTuning,
)
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.stacking import stack_layers

VOCAB_SIZE = 48
TASKS = ('a', 'b', 'c', 'd')

# Every method, by the name of its gin file. single_task is left out: its network is mtl's.
METHODS: dict[str, Method] = {
  'mtl': MultiTaskLearning(),
  'prompt_tuning': PromptTuning(3),
  'adapter': HoulsbyAdapter(5),
  'hyperformer': HyperFormer(5, 6),
  'hyperprompt_share': HyperPromptShare(4, 5),
  'hyperprompt_sep': HyperPromptSep(4, 5),
  'hyperprompt_global': HyperPromptGlobal(4, 5, task_embed_dim=6),
}
# The methods, and the options of their prompts.
VARIANTS = {
  **METHODS,
  'decoder': HyperPromptGlobal(4, 5, 'decoder', task_embed_dim=6),
  'both': HyperPromptSep(4, 5, 'both'),
  'upper_layers_of_both': HyperPromptGlobal(4, 5, 'both', 1, task_embed_dim=6),
  'lengths_and_offsets': HyperPromptShare(
    4, 5, 'both', 1, decoder_prompt_length=2, logit_offset=-1.0
  ),
}


def config(**overrides) -> Config:
  """Two encoder layers, three decoder layers, no dropout."""
  defaults = dict(  # noqa: C408 - reads as the constructor does
    vocab_size=VOCAB_SIZE,
    emb_dim=24,
    num_heads=3,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=8,
    mlp_dim=32,
    dropout_rate=0.0,
  )
  return Config(**{**defaults, **overrides})


def hyperprompt(prompt_length: int = 4, **overrides) -> Method:
  """HyperPrompt-Global with a bottleneck of 5 and embeddings of width 6."""
  return HyperPromptGlobal(prompt_length, bottleneck_dim=5, task_embed_dim=6, **overrides)


def model(method: Method | None = None, **overrides) -> Model:
  """A model of `config(**overrides)`."""
  return Model(config(**overrides), method or hyperprompt(), TASKS)


def init(model: Model, seed: int = 0):
  """Random parameters of about unit gain, without compiling the initialisers."""
  return jax.tree.map(jnp.array, _init(model, seed))  # copies, which a step may consume


@functools.cache
def _init(model: Model, seed: int):
  """Draws the arrays of `init`, once for all tests of a model, as NumPy's."""
  rng = np.random.default_rng(seed)

  def make(path, leaf):
    x = rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 1)
    # Norms are near 1; prompts and embeddings have the size of the activations.
    near_one = 'scale' in str(path[-1])
    large = any(word in str(path[-1]) for word in ('prompts', 'embedding', '_bias'))
    x = 1 + 0.1 * x if near_one else x * np.sqrt(leaf.shape[-2]) if large else x
    return np.asarray(x, leaf.dtype)

  return jax.tree_util.tree_map_with_path(make, model.param_shapes())


def fresh(method: Method, **overrides):
  """The initial parameters of a model, whose operations run one by one.

  Layers are unrolled, since they then share the few operations that are compiled.
  """
  unrolled = model(method, scan_layers=False, **overrides)
  return stack_layers(unrolled.init_variables(jax.random.key(0))['params'])


# Compiled once for each model, and faster than dispatching operation by operation.
@functools.partial(jax.jit, static_argnums=0)
def logits(model: Model, params, batch):
  """Logits by teacher forcing, without dropout."""
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}
  return model.module.apply({'params': params}, **inputs, enable_dropout=False)


@functools.partial(jax.jit, static_argnums=0)
def loss(model: Model, params, batch, rng=None):
  """The summed loss of a batch."""
  return model.loss(params, batch, rng)[0]


@functools.partial(jax.jit, static_argnums=0)
def outputs(model: Model, params, batch):
  """Returns the logits of a batch, the sums of its loss and the gradient, compiled once."""
  kept, compute = [], Model.logits

  def keep(*args, **kwargs):
    kept.append(compute(*args, **kwargs))
    return kept[-1]

  def loss(params):
    # The network is compiled once: the logits are those of which the loss is computed.
    with mock.patch.object(Model, 'logits', keep):
      loss, sums = model.loss(params, batch, None)
    return loss, (kept[0], sums)

  grads, (logits, sums) = jax.grad(loss, has_aux=True)(params)
  return logits, sums, grads


@functools.partial(jax.jit, static_argnums=0)
def condition(model: Model, params):
  """The conditioning of all tasks."""
  return model.condition(params)


def mtl() -> Method:
  """No conditioning."""
  return MultiTaskLearning()


def batch(rows: int = 4, inputs: int = 9, targets: int = 6, seed: int = 0, task=None):
  """Random tokens; rows end in padding of different lengths, tasks differ by row."""
  rng = np.random.default_rng(seed)

  def tokens(length):
    x = rng.integers(2, VOCAB_SIZE, (rows, length), dtype=np.int32)
    for row in range(rows):
      x[row, length - row % 3 :] = 0
    return x

  target_tokens = tokens(targets)
  task_ids = rng.permutation(np.arange(rows) % len(TASKS)).astype(np.int32)[:, None]
  if task is not None:
    task_ids = np.full((rows, 1), task, np.int32)
  features = {
    'encoder_input_tokens': tokens(inputs),
    'decoder_target_tokens': target_tokens,
    'decoder_input_tokens': np.pad(target_tokens, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': (target_tokens > 0).astype(np.int32),
    'task_ids': task_ids,
  }
  return {name: jnp.asarray(x) for name, x in features.items()}


def assert_trees_close(got, want, tolerance):
  """Compares two trees of arrays; the tolerance is relative to an array's largest entry."""

  def compare(path, g, w):
    largest = max(float(np.abs(w).max()), 1e-3)
    np.testing.assert_allclose(g, w, atol=tolerance * largest, err_msg=str(path))

  jax.tree_util.tree_map_with_path(compare, got, want)


def pack(batch, rows, least=0):
  """Packs rows of an unpacked batch.

  Args:
    batch: is an unpacked batch, as `batch` makes it.
    rows: names the rows of the batch that each packed row holds, in order.
    least: is the least length of the inputs.
  """
  slots = max(len(indices) for indices in rows)
  packed = {}
  for name in ('encoder_input_tokens', 'decoder_target_tokens', 'decoder_input_tokens'):
    # Padding at a row's end is dropped; the start symbol of decoder inputs, also 0, stays.
    tokens_name = name if name.startswith('encoder') else 'decoder_target_tokens'
    lengths = (np.asarray(batch[tokens_name]) > 0).sum(1)
    width = max(sum(lengths[i] for i in indices) for indices in rows) + 2
    width = max(width, least) if name.startswith('encoder') else width
    packed[name] = np.zeros((len(rows), width), np.int32)
    segments = np.zeros((len(rows), width), np.int32)
    for r, indices in enumerate(rows):
      joined = [np.asarray(batch[name])[i, : lengths[i]] for i in indices]
      ids = [np.full(lengths[i], n) for n, i in enumerate(indices, 1)]
      packed[name][r, : sum(map(len, joined))] = np.concatenate(joined)
      segments[r, : sum(map(len, joined))] = np.concatenate(ids)
    side = 'encoder' if name.startswith('encoder') else 'decoder'
    packed[f'{side}_segment_ids'] = segments
  packed['decoder_loss_weights'] = (packed['decoder_target_tokens'] > 0).astype(np.int32)
  packed['task_ids'] = np.zeros((len(rows), slots), np.int32)
  for r, indices in enumerate(rows):
    packed['task_ids'][r, : len(indices)] = np.asarray(batch['task_ids'])[list(indices), 0]
  return {name: jnp.asarray(x) for name, x in packed.items()}
