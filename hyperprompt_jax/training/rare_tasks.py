"""An optimizer for many tasks: a task that is not in a batch does not move.

Among thousands of tasks, each is in few batches. Ordinary optimizers work on whole arrays,
of which every task owns a row. They go on moving an absent task by its momentum and by
weight decay, let its second moment decay, and average over the rows of all tasks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from flax.linen import partitioning as nn_partitioning

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import Method
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.training.optimizers import (
  RatedTransformation,
  SkipStepState,
  learning_rates,
)
from hyperprompt_jax.training.trainable import Path, merge, split_by, task_axes

Array = jax.Array


class ByTaskState(NamedTuple):
  """State of `by_task`.

  Attributes:
    shared: is the state for the parameters that tasks share.
    own: is the state for the parameters that tasks own; all its arrays have an axis of
      tasks.
  """

  shared: Any
  own: Any


def by_task(
  optimizer: optax.GradientTransformation, method: Method, config: Config
) -> RatedTransformation:
  """Optimizes the parameters of each task by themselves, in steps that have the task.

  A task without a target token in the batch keeps the bits of its parameters and of their
  state: no momentum moves it, no second moment decays, no weight decay applies. A task in
  the batch takes the step that it would take as the only task of a network. Its count of
  steps, for bias correction and schedules, is its own. The averages that an optimizer takes
  over a tensor, as Adafactor does for its factors, clipping and scale, are taken over the
  part of the task. Parameters that tasks share are optimized as without `by_task`.

  A transformation that looks at all gradients at once, such as a clip by global norm or
  `skip_step_on_spikes`, belongs around `by_task`.

  Args:
    optimizer: takes the steps.
    method: is the method of task-conditioning, which declares the parameters of tasks.
    config: is the network's configuration.

  Raises:
    UserError: if the optimizer skips steps.
  """
  inner = optax.with_extra_args_support(optimizer)
  axes_by_path = _axes_of_method(method, config)
  split = functools.partial(split_by, predicate=lambda path: path not in axes_by_path)

  def init(params):
    shared, own = split(params)
    shared_state = inner.init(shared)
    if isinstance(shared_state, SkipStepState):
      raise UserError(
        'by_task is around skip_step_on_spikes, which decides on whole steps: set '
        'OPTIMIZER=@optimizers.skip_step_on_spikes() and '
        'optimizers.skip_step_on_spikes.optimizer=@rare_tasks.by_task()'
      )
    if not own:
      return ByTaskState(shared_state, ())
    axes, state_axes = _axes(inner, own, axes_by_path)
    return ByTaskState(shared_state, jax.vmap(inner.init, (axes,), state_axes)(own))

  def update(updates, state, params=None, *, task_tokens, **extra_args):
    step = functools.partial(inner.update, **extra_args)
    (shared, own), (shared_params, own_params) = split(updates), split(params)
    shared, shared_state = step(shared, state.shared, shared_params)
    if not own:
      return shared, ByTaskState(shared_state, ())

    axes, state_axes = _axes(inner, own, axes_by_path)
    step_of_tasks = jax.vmap(
      functools.partial(_step_if_present, step),
      in_axes=(axes, state_axes, axes, 0),
      out_axes=(axes, state_axes),
    )
    own, own_state = step_of_tasks(own, state.own, own_params, task_tokens > 0)
    return merge(shared, own), ByTaskState(shared_state, own_state)

  # The rates of the shared parameters: a schedule counts each task's steps by itself.
  rates = lambda *states: learning_rates(optimizer, *(s.shared for s in states))
  return RatedTransformation(init, update, rates)


def _step_if_present(
  step: Callable[..., tuple[Any, Any]], own: Any, state: Any, params: Any, present: Array
) -> tuple[Any, Any]:
  """Returns the update and the next state of one task; nothing changes if it is absent."""
  update, new_state = step(own, state, params)
  # Adding -0.0 changes no bit of a parameter.
  update = jax.tree.map(lambda u: jnp.where(present, u, -0.0), update)
  keep = lambda new, old: jnp.where(present, new, old)
  return update, jax.tree.map(keep, new_state, state)


def _axes_of_method(method: Method, config: Config) -> dict[Path, int]:
  """Returns the number of the axis of tasks, by path, for the parameters that tasks own."""
  embedding = jax.ShapeDtypeStruct((config.vocab_size, config.emb_dim), jnp.float32)
  init = lambda rng, table: method.init(rng, config, 1, table)
  variables: Any = jax.eval_shape(init, jax.random.key(0), embedding)
  names = nn_partitioning.get_axis_names(variables.get('params_axes', {}))
  return task_axes({'method': flax.core.unfreeze(names)})


def _axes(
  inner: optax.GradientTransformation, own: Any, axes_by_path: Mapping[Path, int]
) -> tuple[Any, Any]:
  """Returns the axes of tasks in parameters that tasks own, and in their state.

  An array of the state with the path and the shape of a parameter has the parameter's
  order of axes, so that it is spread over devices as the parameter is. In other arrays of
  the state, tasks are the first axis.
  """
  axes: Any = traverse_util.path_aware_map(
    lambda path, _: axes_by_path[tuple(map(str, path))], own
  )
  of_one_task = jax.eval_shape(
    lambda own: jax.tree.map(lambda x, axis: jnp.take(x, 0, axis), own, axes), own
  )
  shapes = {
    tuple(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_one_task)
  }

  def axis_of_state(path, leaf):
    for start in range(len(path)):
      if shapes.get(path[start:]) == leaf.shape:
        return axes_by_path[tuple(entry.key for entry in path[start:])]
    return 0

  state = jax.eval_shape(inner.init, of_one_task)
  return axes, jax.tree_util.tree_map_with_path(axis_of_state, state)
