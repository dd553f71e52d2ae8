"""One run of the study: a network, a method, a seed; trained, and scored as it learns."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import ALL
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)
from hyperprompt_jax.training.trainable import resolve
from studies.interference import tasks

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
    start: 'random', or 'mtl': the backbone is first trained without the method, as long.
    tuned: 'all' or 'task'.
    shared_prompts: whether all tasks are given the prompts of one.
    frozen_prompts: whether prompts stay as they are drawn.
    steps: of training.
    batch_size: rows of a step, of all tasks together.
    learning_rate: at its highest.
  """

  method: str
  seed: int = 0
  num_tasks: int = 16
  width: int = 32
  mlp_dim: int | None = None
  layers: int = 2
  prompt_length: int = 4
  stacks: str = 'encoder'
  start: str = 'random'
  tuned: str = ALL
  shared_prompts: bool = False
  frozen_prompts: bool = False
  steps: int = 2000
  batch_size: int = 128
  learning_rate: float = 3e-3

  def model(self) -> Model:
    """The network."""
    config = Config(
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
    return Model(config, self._method(), tasks.NAMES[: self.num_tasks], z_loss=0.0)

  def _method(self) -> Method:
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
    parts = [train(experiment, [task]) for task in everything]
    right = [np.concatenate(of) for of in zip(*(p['right'] for p in parts), strict=True)]
    found = {**parts[0], 'right': right}
    found['parameters'] *= experiment.num_tasks
  else:
    found = train(experiment, everything)
  return {
    'experiment': dataclasses.asdict(experiment),
    'parameters': found['parameters'],
    'task_parameters': found['task_parameters'],
    'steps': found['steps'],
    'exact_match_curve': [round(float(of.all(-1).mean()), 5) for of in found['right']],
    'token_accuracy_curve': [round(float(of.mean()), 5) for of in found['right']],
    'exact_match': found['right'][-1].all(-1).mean(-1).round(5).tolist(),
    'token_accuracy': found['right'][-1].mean((-2, -1)).round(5).tolist(),
    'prompt_mass': found['prompt_mass'].round(5).tolist(),
    'entropy': found['entropy'].round(5).tolist(),
    'seconds': round(time.monotonic() - start, 1),
  }


def train(experiment: Experiment, of: list[int]) -> dict[str, Any]:
  """Trains on some tasks at once, each with the rows that it has among all of them.

  Args:
    experiment: what is trained.
    of: indices of the tasks.

  Returns:
    By evaluation, `right`, bool `[tasks, rows, tokens]`, and `steps`; after the last,
    `params`, `prompt_mass` and `entropy` of each encoder layer; `parameters` and
    `task_parameters`, how many there are.
  """
  model = experiment.model()
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
    trainable = resolve(model.param_axes(), experiment.tuned)
    like = abstract_state(model, optimizer, partitioner, trainable)
    state = initial_state(model, optimizer, like, experiment.seed, trainable)
    if experiment.start == 'mtl':
      plain = dataclasses.replace(experiment, method='mtl', start='random', tuned=ALL)
      state = state.replace(params={**state.params, **_backbone(plain)})
    # Without dropout the seed is the data's and the initialisation's alone; runs that
    # differ by nothing else are one program.
    step = make_train_step(model, optimizer, partitioner, like, seed=0, trainable=trainable)
    held_out = batch(TEST_ROWS, test)
    right = jax.jit(functools.partial(_right, model))
    period = experiment.steps // EVALUATIONS
    found, steps = [], []
    for number in range(1, experiment.steps + 1):
      state, _ = step(state, batch(per_task, data))
      if number % period == 0:
        tokens = np.asarray(right(state.params, held_out)).reshape(len(of), TEST_ROWS, -1)
        found.append(tokens)
        steps.append(number)
    looked = jax.jit(model.attention_statistics)(
      state.params, jax.jit(model.condition)(state.params), held_out
    )
  own = model.param_shapes().get('method', {})
  size = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
  return {
    'right': found,
    'steps': steps,
    'parameters': size(model.param_shapes()),
    'task_parameters': size(own),
    'params': state.params,
    'prompt_mass': np.asarray(looked.prompt_mass, np.float64).mean((1, 2)),
    'entropy': np.asarray(looked.entropy, np.float64).mean((1, 2)),
  }


@functools.lru_cache(maxsize=1)
def _backbone(plain: Experiment) -> Any:
  """The parameters of a network that was trained without a method; not on the device.

  A training step is given its state for good.
  """
  return jax.device_get(train(plain, list(range(plain.num_tasks)))['params'])


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

  def label(params: Any) -> Any:
    of = lambda part, is_method: jax.tree.map(lambda _: is_method, part)
    return {name: of(part, name == 'method') for name, part in params.items()}

  return optax.partition({False: optimizer, True: optax.set_to_zero()}, label)
