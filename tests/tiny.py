"""A network small enough for tests, and batches for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import HyperPromptGlobal, Method, MultiTaskLearning
from hyperprompt_jax.nn.config import Config

VOCAB_SIZE = 48
TASKS = ('a', 'b', 'c')


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


def init(of: Model, seed: int = 0):
  """Random parameters of about unit gain, without compiling the initialisers."""
  rng = np.random.default_rng(seed)

  def make(path, leaf):
    x = rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 1)
    # Norms near 1; prompts and embeddings as large as what they are added to.
    near_one = 'scale' in str(path[-1])
    large = any(word in str(path[-1]) for word in ('prompts', 'embedding'))
    x = 1 + 0.1 * x if near_one else x * np.sqrt(leaf.shape[-2]) if large else x
    return jnp.asarray(x, leaf.dtype)

  return jax.tree_util.tree_map_with_path(make, of.param_shapes())


# Compiled once for each model, and faster than dispatching operation by operation.
@functools.partial(jax.jit, static_argnums=0)
def logits(of: Model, params, batch):
  """Logits by teacher forcing, without dropout."""
  inputs = [
    batch[name]
    for name in (
      'encoder_input_tokens',
      'decoder_input_tokens',
      'decoder_target_tokens',
      'task_ids',
    )
  ]
  return of.module.apply({'params': params}, *inputs, enable_dropout=False)


@functools.partial(jax.jit, static_argnums=0)
def loss(of: Model, params, batch, rng=None):
  """The summed loss of a batch."""
  return of.loss(params, batch, rng)[0]


gradient = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def condition(of: Model, params):
  """The conditioning of all tasks."""
  return of.condition(params)


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
