"""One run of the study: a network, a method, a seed; trained, and scored as it learns."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.interference import tasks
from hyperprompt_jax import tuning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import (
  HoulsbyAdapter,
  HyperFormer,
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
  Method,
  MultiTaskLearning,
  PromptTuning,
)
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.train_step import abstract_state, initial_state, make_train_step

HEAD_DIM = 16
TEST_ROWS = 128  # of each task
EVALUATIONS = 16


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What is trained.

  Attributes:
    method: 'mtl', 'single_task', 'prompt_tuning', 'adapter', 'hyperformer', 'share', 'sep',
      'global'.
    seed: of initialisation and data; the same for what is compared.
    num_tasks: the first so many of `tasks.NAMES`.
    width: e; heads and MLP follow.
    mlp_dim: f; None for twice the width.
    layers: of encoder and decoder each.
    prompt_length: p.
    stacks: where prompts go: 'encoder', 'decoder' or 'both'.
    tuned: 'all', or 'task' with a backbone that is random.
    shared_prompts: whether all tasks are given the prompts of one.
    frozen_prompts: whether prompts stay as they are drawn.
    steps: of training.
    batch_size: rows of a step, of all tasks together.
    learning_rate: at its highest.
  """

  method: str
  seed: int = 0
  num_tasks: int = 16
  width: int = 48
  mlp_dim: int | None = None
  layers: int = 2
  prompt_length: int = 4
  stacks: str = 'encoder'
  tuned: str = tuning.ALL
  shared_prompts: bool = False
  frozen_prompts: bool = False
  steps: int = 4000
  batch_size: int = 128
  learning_rate: float = 3e-3

  def config(self) -> Config:
    """The backbone."""
    return Config(
      vocab_size=tasks.VOCAB_SIZE,
      emb_dim=self.width,
      num_heads=max(1, self.width // HEAD_DIM),
      num_encoder_layers=self.layers,
      num_decoder_layers=self.layers,
      head_dim=HEAD_DIM,
      mlp_dim=self.mlp_dim or 2 * self.width,
      dropout_rate=0.0,
      scan_layers=False,
    )

  def make_method(self) -> Method:
    """The method of conditioning."""
    p, stacks = self.prompt_length, self.stacks
    return {
      'mtl': lambda: MultiTaskLearning(),
      'single_task': lambda: MultiTaskLearning(),
      'prompt_tuning': lambda: PromptTuning(p),
      'adapter': lambda: HoulsbyAdapter(4),
      'hyperformer': lambda: HyperFormer(4, 8),
      'share': lambda: HyperPromptShare(p, 8, stacks),
      'sep': lambda: HyperPromptSep(p, 8, stacks),
      'global': lambda: HyperPromptGlobal(p, 8, stacks, task_embed_dim=8),
    }[self.method]()


def run(experiment: Experiment) -> dict[str, Any]:
  """Trains and scores; returns the record that the report is made of."""
  start = time.monotonic()
  everything = list(range(experiment.num_tasks))
  if experiment.method == 'single_task':
    parts = [_train(experiment, [task]) for task in everything]
    curve = [np.concatenate(of) for of in zip(*(p['curve'] for p in parts), strict=True)]
    tokens = np.concatenate([p['token_accuracy'] for p in parts])
    found = {**parts[0], 'curve': curve, 'token_accuracy': tokens}
    found['parameters'] *= experiment.num_tasks
  else:
    found = _train(experiment, everything)
  return {
    'experiment': dataclasses.asdict(experiment),
    'parameters': found['parameters'],
    'task_parameters': found['task_parameters'],
    'steps': found['steps'],
    'curve': [np.asarray(of).round(5).tolist() for of in found['curve']],
    'token_accuracy': np.asarray(found['token_accuracy']).round(5).tolist(),
    'seconds': round(time.monotonic() - start, 1),
  }


def _train(experiment: Experiment, of: list[int]) -> dict[str, Any]:
  """Trains on some tasks at once, each with the rows that it has among all of them."""
  names = tasks.NAMES[: experiment.num_tasks]
  model = Model(experiment.config(), experiment.make_method(), names, z_loss=0.0)
  optimizer = _optimizer(experiment)
  partitioner = Partitioner(devices=jax.devices()[:1])
  per_task = experiment.batch_size // experiment.num_tasks
  data, test = np.random.default_rng(experiment.seed), np.random.default_rng(10**6)

  def batch(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    # The strings of all tasks are drawn, so that a task's are the same in any company.
    x = tasks.strings(rows * experiment.num_tasks, rng).reshape(-1, rows, tasks.LENGTH)
    found = tasks.batch(rows, of, x[of].reshape(-1, tasks.LENGTH))
    if experiment.shared_prompts:
      found['task_ids'] = np.zeros_like(found['task_ids'])
    return found

  with partitioner.activate():
    like = abstract_state(model, optimizer, partitioner, experiment.tuned)
    state = initial_state(model, optimizer, like, experiment.seed, experiment.tuned)
    step = make_train_step(
      model, optimizer, like, seed=experiment.seed, tuned=experiment.tuned
    )
    held_out = batch(TEST_ROWS, test)
    right = jax.jit(lambda params: _right(model, params, held_out))
    period = experiment.steps // EVALUATIONS
    curve, steps = [], []
    for number in range(1, experiment.steps + 1):
      state, _ = step(state, batch(per_task, data))
      if number % period == 0:
        tokens = np.asarray(right(state.params)).reshape(len(of), TEST_ROWS, -1)
        curve.append(tokens.all(-1).mean(-1))
        steps.append(number)
  own = tuning.split(model.param_shapes(), tuning.TASK)[0]
  size = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
  return {
    'curve': curve,
    'steps': steps,
    'token_accuracy': tokens.mean((1, 2)),
    'parameters': size(model.param_shapes()),
    'task_parameters': size(own),
  }


def _right(model: Model, params: Any, batch: dict[str, np.ndarray]) -> jax.Array:
  """Which target tokens greedy decoding would get right, if it got those before right."""
  logits = model.logits(params, {name: jnp.asarray(x) for name, x in batch.items()})
  return jnp.argmax(logits, axis=-1) == batch['decoder_target_tokens']


def _optimizer(experiment: Experiment) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    0.0,
    experiment.learning_rate,
    experiment.steps // 20,
    experiment.steps,
    experiment.learning_rate / 20,
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
  if not experiment.frozen_prompts:
    return optimizer
  label = lambda params: {
    name: jax.tree.map(lambda _: name == 'method', part) for name, part in params.items()
  }
  return optax.partition({False: optimizer, True: optax.set_to_zero()}, label)
