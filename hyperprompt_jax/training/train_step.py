"""One step of training, and a fresh state to begin with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperprompt_jax.checkpoints import Initial, TrainState
from hyperprompt_jax.model import Batch, Model
from hyperprompt_jax.nn.stacking import STACK
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import trainable

Array = jax.Array
StepMetrics = dict[str, Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def abstract_params(model: Model, partitioner: Partitioner) -> Any:
  """Shapes, dtypes and shardings of a network's parameters; no memory is taken."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    model.param_shapes(),
    partitioner.shardings(model.param_axes()),
  )


def abstract_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  tuned: str = trainable.ALL,
) -> TrainState:
  """Shapes, dtypes and shardings of the state; no memory is taken.

  What is tuned is spread over all devices; see `make_train_step`.

  Args:
    model: the network.
    optimizer: whose state there is for the tuned parameters alone.
    partitioner: of the mesh.
    tuned: which parameters are trained; see `trainable.Tuned`.
  """
  params = model.param_shapes()
  axes = model.param_axes()
  chosen = trainable.choose(axes, tuned)
  moving = jax.eval_shape(chosen.moving, chosen.split(params)[0])
  opt_state = jax.eval_shape(optimizer.init, moving)
  (tuned_axes, frozen_axes), of_tuned = chosen.split(axes), chosen.split(params)[0]
  shardings = TrainState(
    step=partitioner.replicated,
    params=trainable.merge(
      partitioner.spread_shardings(of_tuned, tuned_axes), partitioner.shardings(frozen_axes)
    ),
    opt_state=partitioner.optimizer_shardings(opt_state, moving, tuned_axes),
  )
  shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )


def initial_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  like: TrainState,
  seed: int,
  tuned: str = trainable.ALL,
  *,
  initial: Initial | None = None,
) -> TrainState:
  """The state that training starts with, made where `like` says that it lives.

  Args:
    model: the network.
    optimizer: whose state is fresh.
    like: shapes, dtypes and shardings.
    seed: of what is random.
    tuned: which parameters are trained; see `trainable.Tuned`.
    initial: the checkpoint that the parameters come from, all that it has, and that steps
      are counted from; None for random parameters and step 0.
  """
  chosen = trainable.choose(model.param_axes(), tuned)

  def make(rng: Array, loaded: Any) -> TrainState:
    params = model.init_from(rng, loaded) if loaded else model.init(rng)
    opt_state = optimizer.init(chosen.moving(chosen.split(params)[0]))
    return TrainState(jnp.int32(initial.step if initial else 0), params, opt_state)

  loaded = initial.load(like.params) if initial else {}
  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  # Arrays that become longer cannot be used again.
  donated = () if initial and initial.lacks_task else (1,)
  make = jax.jit(make, out_shardings=shardings, donate_argnums=donated)
  return make(jax.random.key(seed), loaded)


def make_train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  like: TrainState,
  *,
  seed: int,
  num_microbatches: int = 1,
  tuned: str = trainable.ALL,
) -> StepFn:
  """The jitted training step; the state it is given is donated.

  The gradient is that of the mean loss over the batch's target tokens, whatever the
  number of microbatches. Dropout depends on the seed, the step and the microbatch.

  Devices that share no model hold different parts of the parameters, each of which is
  updated in one place. A step begins by gathering a copy to work with, in the dtype in
  which layers use it: of bfloat16, half as much to communicate, to hold and to read.

  Args:
    model: what to train.
    optimizer: how.
    partitioner: of the mesh.
    like: shapes and shardings of the state.
    seed: of dropout.
    num_microbatches: parts that a batch is worked through in, to save memory.
    tuned: which parameters are trained; the others have no gradient.

  Returns:
    Maps a state and a batch `[b, ...]` to the next state and the sums that
    `Model.loss` returns. Besides, `grad_norm`, and `param_norm` of the tuned parameters
    after the step; where the optimizer skips steps, also `skipped`, whether this one was,
    and `skipped_steps`, how many were so far.
  """
  with_loss = optax.with_extra_args_support(optimizer)
  axes = model.param_axes()
  chosen = trainable.choose(axes, tuned)
  moving_axes = chosen.split(axes)[0]

  def working_copy(moving: Any) -> Any:
    dtype = model.config.activation_dtype
    copy = jax.tree_util.tree_map_with_path(
      lambda path, x: x.astype(dtype) if _is_used_in_activation_dtype(path) else x, moving
    )
    return jax.lax.with_sharding_constraint(copy, partitioner.shardings(moving_axes))

  def gradients(
    moving: Any, all_params: Callable[[Any], Any], batch: Batch, rng: Array
  ) -> tuple[Any, StepMetrics]:
    def loss(moving: Any, batch: Batch, rng: Array) -> tuple[Array, StepMetrics]:
      return model.loss(all_params(moving), batch, rng)

    def grad_fn(moving: Any, batch: Batch, rng: Array) -> tuple[Any, StepMetrics]:
      grads, metrics = jax.grad(loss, has_aux=True)(moving, batch, rng)
      shardings = partitioner.spread_shardings(grads, moving_axes)
      grads = jax.lax.with_sharding_constraint(grads, shardings)
      return jax.tree.map(lambda g: g.astype(jnp.float32), grads), metrics

    if num_microbatches == 1:
      return grad_fn(moving, batch, jax.random.fold_in(rng, 0))
    # Row i goes to microbatch i mod n, so that each takes an equal part of every device.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0), batch
    )

    def accumulate(total, part):
      index, microbatch = part
      new = grad_fn(moving, microbatch, jax.random.fold_in(rng, index))
      return jax.tree.map(jnp.add, total, new), None

    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(grad_fn, moving, first, rng)
    )
    total, _ = jax.lax.scan(accumulate, zeros, (jnp.arange(num_microbatches), parts))
    return total

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    params, frozen = chosen.split(state.params)
    moving = chosen.moving(params)
    all_params = lambda moving: trainable.merge(chosen.moved(params, moving), frozen)
    summed, metrics = gradients(working_copy(moving), all_params, batch, rng)
    # A batch of padding alone has no token and no gradient.
    tokens = jnp.maximum(metrics['tokens'], 1.0)
    grads = jax.tree.map(lambda g: g / tokens, summed)
    updates, opt_state = with_loss.update(
      grads, state.opt_state, moving, value=metrics['loss'] / tokens
    )
    moving = optax.apply_updates(moving, updates)
    metrics['grad_norm'] = optax.global_norm(grads)
    metrics['param_norm'] = optax.global_norm(moving)
    skipped_steps = optax.tree_utils.tree_get(opt_state, 'skipped_steps')
    if skipped_steps is not None:
      before = optax.tree_utils.tree_get(state.opt_state, 'skipped_steps')
      metrics['skipped_steps'] = skipped_steps
      metrics['skipped'] = skipped_steps - before
    return TrainState(state.step + 1, all_params(moving), opt_state), metrics

  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  # The sums are for every host to read; their sharding is like the step counter's.
  everywhere = like.step.sharding
  return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, everywhere))


def _is_used_in_activation_dtype(path: Any) -> bool:
  """Whether all that is done with a parameter is done in the dtype of activations.

  Of the backbone's, that is the matrices of the layers: `layers.Dense` casts them first.
  """
  stack, *_, name = (entry.key for entry in path)
  in_layers = any(entry.key.startswith(STACK) for entry in path)
  return stack in ('encoder', 'decoder') and in_layers and name == 'kernel'
