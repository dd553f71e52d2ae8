"""One step of training, and a fresh state to begin with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from hyperprompt_jax.checkpoints import Initial, TrainState
from hyperprompt_jax.methods.by_segment import TASKS
from hyperprompt_jax.model import Batch, Model
from hyperprompt_jax.nn import backend
from hyperprompt_jax.nn.stacking import STACK
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.optimizers import learning_rates
from hyperprompt_jax.training.trainable import EVERY_PARAMETER, TrainableParameters, merge

Array = jax.Array
StepMetrics = dict[str, Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
# Tells whether a parameter stays as it is stored, by its path and its logical axes.
StaysFn = Callable[[Any, Any], bool]
# Maps parameters, a batch and a key of dropout to gradients and summed metrics.
GradFn = Callable[[Any, Batch, Array], tuple[Any, StepMetrics]]


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
  trainable: TrainableParameters = EVERY_PARAMETER,
) -> TrainState:
  """Shapes, dtypes and shardings of the state; no memory is taken.

  Trainable parameters are spread over all devices; see `make_train_step`.

  Args:
    model: is the network.
    optimizer: is the optimizer; it has a state for the trainable parameters alone.
    partitioner: is the device mesh.
    trainable: selects the parameters that training changes.
  """
  params = model.param_shapes()
  trainable_shapes = trainable.split(params)[0]
  trainable_axes, frozen_axes = trainable.split(model.param_axes())
  active = jax.eval_shape(trainable.active_part, trainable_shapes)
  opt_state = jax.eval_shape(optimizer.init, active)
  shardings = TrainState(
    step=partitioner.replicated,
    params=merge(
      partitioner.spread_shardings(trainable_shapes, trainable_axes),
      partitioner.shardings(frozen_axes),
    ),
    opt_state=partitioner.optimizer_shardings(opt_state, active, trainable_axes),
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
  trainable: TrainableParameters = EVERY_PARAMETER,
  *,
  initial: Initial | None = None,
) -> TrainState:
  """The state that training starts with, made where `like` places it.

  Args:
    model: is the network.
    optimizer: is the optimizer; its state is fresh.
    like: gives the shapes, dtypes and shardings.
    seed: is the seed of random parameters.
    trainable: selects the parameters that training changes.
    initial: is the checkpoint that gives all parameters it has, and the step to count from;
      None for random parameters and step 0.
  """

  def make(rng: Array, loaded: Any) -> TrainState:
    params = model.init_from(rng, loaded) if loaded else model.init(rng)
    opt_state = optimizer.init(trainable.active_part(trainable.split(params)[0]))
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
  trainable: TrainableParameters = EVERY_PARAMETER,
) -> StepFn:
  """The jitted training step; the state that it is given is donated.

  The gradient is that of the mean loss over the batch's target tokens, whatever the
  number of microbatches. Dropout depends on the seed, the step and the microbatch.

  Devices that share no model hold different parts of the parameters, each of which is
  updated in one place. A step begins by gathering a working copy in the dtype in which
  layers use it: bfloat16 halves the communication, the memory and the reads.

  Args:
    model: is the network.
    optimizer: is the optimizer.
    partitioner: is the device mesh.
    like: gives the shapes and shardings of the state.
    seed: is the seed of dropout.
    num_microbatches: is the number of parts in which a batch is processed.
    trainable: selects the parameters that training changes; the others have no gradient.

  Returns:
    Maps a state and a batch `[b, ...]` to the next state and the sums that
    `Model.loss` returns. It adds `grad_norm`, and `param_norm` of the trainable
    parameters after the step; the learning rates, if the optimizer tells them; where the
    optimizer skips steps, also `skipped`, whether it skipped this one, and
    `skipped_steps`, the number skipped so far.
  """
  active_axes = trainable.split(model.param_axes())[0]

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    params, frozen = trainable.split(state.params)
    active = trainable.active_part(params)
    all_params = lambda active: merge(trainable.with_active_part(params, active), frozen)
    grad_fn = _grad_fn(model, partitioner, all_params, active_axes)
    stays = _stays_spread(model, batch['task_ids'].size, num_microbatches)
    working_copy = _working_copy(model, partitioner, active, active_axes, stays)
    summed, metrics = _accumulated(grad_fn, working_copy, batch, rng, num_microbatches)
    active, opt_state = _update(
      optimizer, state.opt_state, active, summed, metrics, trainable
    )
    return TrainState(state.step + 1, all_params(active), opt_state), metrics

  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  # Every host reads the sums; their sharding is like the step counter's.
  everywhere = like.step.sharding
  return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, everywhere))


def _working_copy(
  model: Model, partitioner: Partitioner, active: Any, axes: Any, stays: StaysFn
) -> Any:
  """Active parameters in the dtype that layers use, gathered where they use them.

  Parameters for which `stays` is true are not gathered.
  """
  dtype = model.config.activation_dtype
  copy = jax.tree_util.tree_map_with_path(
    lambda path, x: x.astype(dtype) if _is_used_in_activation_dtype(path) else x, active
  )
  shardings = jax.tree_util.tree_map_with_path(
    lambda path, names, used, stored: stored if stays(path, names) else used,
    axes,
    partitioner.shardings(axes),
    partitioner.spread_shardings(active, axes),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  return jax.lax.with_sharding_constraint(copy, shardings)


def _stays_spread(model: Model, num_segments: int, num_microbatches: int) -> StaysFn:
  """Tells, by path and logical axes, which parameters the working copy leaves spread.

  If a batch is conditioned by segment, these are the parameters that tasks own: the rows
  that a batch needs are selected where they are stored (`methods.by_segment`).

  On TPUs these are also the kernels of the encoder's layers. Each layer gathers its own, in
  both passes: gathered copies of all layers would be kept while the decoder runs, where a
  step needs the most memory. This is not done for microbatches, each of which would gather
  them, nor without rematerialisation, which would keep what each layer gathers.
  """
  config = model.config
  by_segment = model.conditions_segments(num_segments // num_microbatches)
  rematerialises = config.scan_layers and config.remat_policy != 'none'
  in_loop = rematerialises and backend.gathers_layer_by_layer() and num_microbatches == 1

  def stays(path: Any, names: Any) -> bool:
    if path[0].key == 'encoder' and in_loop:
      return _is_used_in_activation_dtype(path)
    return by_segment and TASKS in tuple(names)

  return stays


def _grad_fn(
  model: Model, partitioner: Partitioner, all_params: Callable[[Any], Any], axes: Any
) -> GradFn:
  """The gradient of the summed loss with respect to the active parameters, float32."""

  def loss(active: Any, batch: Batch, rng: Array) -> tuple[Array, StepMetrics]:
    return model.loss(all_params(active), batch, rng)

  def grad_fn(active: Any, batch: Batch, rng: Array) -> tuple[Any, StepMetrics]:
    grads, metrics = jax.grad(loss, has_aux=True)(active, batch, rng)
    shardings = partitioner.spread_shardings(grads, axes)
    grads = jax.lax.with_sharding_constraint(grads, shardings)
    return jax.tree.map(lambda g: g.astype(jnp.float32), grads), metrics

  return grad_fn


def _accumulated(
  grad_fn: GradFn, active: Any, batch: Batch, rng: Array, num_microbatches: int
) -> tuple[Any, StepMetrics]:
  """Gradients and metrics, summed over the microbatches of a batch."""
  if num_microbatches == 1:
    return grad_fn(active, batch, jax.random.fold_in(rng, 0))
  # Row i goes to microbatch i mod n, so that each takes an equal part of every device.
  parts = jax.tree.map(
    lambda x: jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0), batch
  )

  def accumulate(total, part):
    index, microbatch = part
    new = grad_fn(active, microbatch, jax.random.fold_in(rng, index))
    return jax.tree.map(jnp.add, total, new), None

  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(grad_fn, active, first, rng)
  )
  total, _ = jax.lax.scan(accumulate, zeros, (jnp.arange(num_microbatches), parts))
  return total


def _update(
  optimizer: optax.GradientTransformation,
  opt_state: Any,
  active: Any,
  summed_grads: Any,
  metrics: StepMetrics,
  trainable: TrainableParameters,
) -> tuple[Any, Any]:
  """The active parameters and the optimizer's state after a step; adds to `metrics`."""
  # A batch of padding alone has no token and no gradient.
  tokens = jnp.maximum(metrics['tokens'], 1.0)
  grads = jax.tree.map(lambda g: g / tokens, summed_grads)
  updates, new_state = optax.with_extra_args_support(optimizer).update(
    grads,
    opt_state,
    active,
    value=metrics['loss'] / tokens,
    task_tokens=trainable.active_tasks(metrics['task_tokens']),
  )
  active = optax.apply_updates(active, updates)
  metrics |= learning_rates(optimizer, opt_state, new_state)
  # The squares of the divided gradients, which the optimizer takes as well, would be
  # written to memory for two uses.
  metrics['grad_norm'] = optax.global_norm(summed_grads) / tokens
  metrics['param_norm'] = optax.global_norm(active)
  skipped_steps = optax.tree_utils.tree_get(new_state, 'skipped_steps')
  if skipped_steps is not None:
    before = optax.tree_utils.tree_get(opt_state, 'skipped_steps')
    metrics['skipped_steps'] = skipped_steps
    metrics['skipped'] = skipped_steps - before
  return active, new_state


def _is_used_in_activation_dtype(path: Any) -> bool:
  """Whether every use of a parameter is in the dtype of activations.

  In the backbone, these are the matrices of the layers: `layers.Dense` casts them first.
  """
  stack, *_, name = (entry.key for entry in path)
  in_layers = any(entry.key.startswith(STACK) for entry in path)
  return stack in ('encoder', 'decoder') and in_layers and name == 'kernel'
