"""Optimizers that Optax lacks: T5's Adafactor, and one that skips steps on spikes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.stacking import STACK

Rates = dict[str, jax.Array]


class RatedTransformation(optax.GradientTransformationExtraArgs):
  """A transformation that tells its learning rates.

  Attributes:
    rates: maps the states before and after an update to its learning rates, by name.
  """

  rates: Callable[[Any, Any], Rates]

  def __new__(
    cls, init: Any, update: Any, rates: Callable[[Any, Any], Rates]
  ) -> 'RatedTransformation':
    """Makes a transformation of its functions, and of `rates`."""
    rated = super().__new__(cls, init, update)
    rated.rates = rates
    return rated


def learning_rates(
  optimizer: optax.GradientTransformation, before: Any, after: Any
) -> Rates:
  """Returns the learning rates of an update, by name, as far as they are known.

  Those of `adafactor` are known, and those that `optax.inject_hyperparams` keeps in the
  state of an optimizer. Other optimizers of Optax do not tell their rates.

  Args:
    optimizer: is the optimizer of a run.
    before: is its state before the update.
    after: is its state after the update.
  """
  if isinstance(optimizer, RatedTransformation):
    return optimizer.rates(before, after)
  name = 'learning_rate'
  kept = [value for _, value in optax.tree_utils.tree_get_all_with_path(after, name)]
  return {name: jnp.asarray(kept[0], jnp.float32)} if kept else {}


def _rates_of_adafactor(
  **rates: optax.ScalarOrSchedule,
) -> Callable[[Any, Any], Rates]:
  """Returns a function that gives the learning rates of Adafactor's updates, by name."""

  def at_update(before: Any, after: Any) -> Rates:
    del after
    # Every group of parameters counts the same updates.
    state = before.inner_states['other']
    count = optax.tree_utils.tree_get_all_with_path(state, 'count')[0][1]
    return {
      name: jnp.asarray(rate(count) if callable(rate) else rate, jnp.float32)
      for name, rate in rates.items()
    }

  return at_update


def adafactor(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  multiply_by_parameter_scale: bool = True,
  method_learning_rate: optax.ScalarOrSchedule | None = None,
  weight_decay_rate: float = 0.0,
) -> optax.GradientTransformation:
  """Adafactor with T5's recipe, layer by layer where layers are stacked.

  Update clipping and parameter scale are root mean squares over one tensor. A stack of
  scanned layers is one array but as many tensors as it has layers: each takes the very
  step that it would take unrolled (T5X: `FactorDim.BATCH` of `t5x/adafactor.py`).

  Args:
    learning_rate: is a constant or a schedule; it is relative to a tensor's scale if
      `multiply_by_parameter_scale`.
    decay_rate: is the exponent of the second moment's decay, `1 - step ** -decay_rate`.
    clipping_threshold: bounds the root mean square of a tensor's update before scaling.
    multiply_by_parameter_scale: makes steps relative to a tensor's root mean square, at
      least 1e-3.
    method_learning_rate: replaces `learning_rate` for the parameters that the method of
      task-conditioning adds; None keeps it.
    weight_decay_rate: is the part of each parameter that every step takes away, whatever
      the learning rate.
  """
  own_rate = learning_rate if method_learning_rate is None else method_learning_rate
  for name, rate in {
    'learning_rate': learning_rate,
    'method_learning_rate': own_rate,
    'weight_decay_rate': weight_decay_rate,
  }.items():
    if isinstance(rate, int | float):
      ObjectSettings.check(name, rate)

  def with_rate(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    transform = optax.adafactor(
      rate,
      decay_rate=decay_rate,
      clipping_threshold=clipping_threshold,
      multiply_by_parameter_scale=False,
    )
    if multiply_by_parameter_scale:
      transform = _relative_to_parameters(transform)
    return _decaying(transform, weight_decay_rate) if weight_decay_rate else transform

  backbone = with_rate(learning_rate)
  stacked = _vmapped(backbone)
  # A transformation for each stack, since stacks may differ in depth. The method has its
  # own whether its rate differs or not: a run may be resumed with another rate.
  groups = {'encoder': stacked, 'decoder': stacked, 'other': backbone}
  init, update = optax.partition({**groups, 'method': with_rate(own_rate)}, _group)
  rates = _rates_of_adafactor(learning_rate=learning_rate, method_learning_rate=own_rate)
  return RatedTransformation(init, update, rates)


def _relative_to_parameters(
  transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Scales updates by the root mean square of each parameter, at least 1e-3.

  `optax.scale_by_param_block_rms`, which can be differentiated and writes a copy of all
  parameters for it: 1.0 s of Base's step of 12.4 s on two cores.
  """

  def update(updates, state, params=None):
    updates, state = transform.update(updates, state, params)
    scale = lambda p: jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(p))), 1e-3)
    return jax.tree.map(lambda u, p: u * scale(p), updates, params), state

  return optax.GradientTransformation(transform.init, update)


def _decaying(
  transform: optax.GradientTransformation, rate: float
) -> optax.GradientTransformation:
  """Takes a part of each parameter away, besides the transformation's update."""

  def update(updates, state, params=None):
    updates, state = transform.update(updates, state, params)
    return jax.tree.map(lambda u, p: u - rate * p, updates, params), state

  return optax.GradientTransformation(transform.init, update)


def _vmapped(
  transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies `transform` to each index of the leading axis of all arrays by itself."""

  def over_layers(function, params):
    # An unrolled network has no stack, and vmap nothing to map over.
    return jax.vmap(function) if jax.tree.leaves(params) else function

  def init(params):
    return over_layers(transform.init, params)(params)

  def update(updates, state, params=None):
    return over_layers(transform.update, updates)(updates, state, params)

  return optax.GradientTransformation(init, update)


def _group(params):
  """Labels each parameter by the stack it is stacked in, or the part it belongs to."""

  def label(path, _):
    keys = [getattr(entry, 'key', None) for entry in path]
    if keys[0] == 'method':
      return 'method'
    return keys[0] if STACK in keys else 'other'

  return jax.tree_util.tree_map_with_path(label, params)


class SkipStepState(NamedTuple):
  """State of `skip_step_on_spikes`.

  Attributes:
    inner_state: is the state of the optimizer inside.
    history: `[2, interval]` float32, losses and gradient norms of the last steps in which
      both were finite.
    recorded: int32 scalar, how many steps the history has ever taken up.
    not_finite: int32 scalar, how many steps in a row were not finite.
    skipped_steps: int32 scalar, how many were skipped, all in all.
  """

  inner_state: Any
  history: jax.Array
  recorded: jax.Array
  not_finite: jax.Array
  skipped_steps: jax.Array


def skip_step_on_spikes(
  optimizer: optax.GradientTransformation,
  interval: int = 128,
  scaling_factor: float = 6.0,
  max_consecutive_errors: int = 5,
) -> optax.GradientTransformationExtraArgs:
  """Skips the steps in which the loss or the norm of the gradient spikes.

  A step is skipped if either lies more than `scaling_factor` standard deviations above its
  mean over the last `interval` steps, or is not finite: parameters and the state of the
  optimizer keep their bits. The rule and its numbers are those of OLMo-core, Levanter and
  MaxText. Until the history has half an interval, only non-finite steps are skipped.

  Args:
    optimizer: takes the other steps.
    interval: is the number of steps over which mean and standard deviation are taken.
    scaling_factor: is the number of standard deviations from the mean to the limit.
    max_consecutive_errors: limits the steps in a row that are skipped because they are not
      finite; the next one is taken (as by `optax.apply_if_finite`), which ends training.

  Raises:
    UserError: if a number is out of range.
  """
  _check_spike_rule(interval, scaling_factor, max_consecutive_errors)
  inner = optax.with_extra_args_support(optimizer)

  def init(params):
    zero = jnp.zeros((), jnp.int32)
    history = jnp.zeros((2, interval), jnp.float32)
    return SkipStepState(inner.init(params), history, zero, zero, zero)

  def update(updates, state, params=None, *, value, **extra_args):
    observed = jnp.stack([value, optax.global_norm(updates)])
    limit = _spike_limit(state, interval, scaling_factor)
    finite = jnp.all(jnp.isfinite(observed))
    not_finite = jnp.where(finite, 0, state.not_finite + 1)
    skip = jnp.where(
      finite, jnp.any(observed > limit), not_finite <= max_consecutive_errors
    )
    # A spike is recorded, so that a new level is not skipped forever. It is recorded as the
    # limit, since its own value would raise the limit so far that the next spike passed.
    slot = state.recorded % interval
    history = state.history.at[:, slot].set(jnp.minimum(observed, limit))
    updates, inner_state = inner.update(
      updates, state.inner_state, params, value=value, **extra_args
    )
    # Adding 0.0 to a parameter would turn -0.0 into 0.0; adding -0.0 changes nothing.
    updates = jax.tree.map(lambda x: jnp.where(skip, -0.0, x), updates)
    keep = lambda when, old, new: jax.tree.map(lambda o, n: jnp.where(when, o, n), old, new)
    return updates, SkipStepState(
      inner_state=keep(skip, state.inner_state, inner_state),
      history=keep(~finite, state.history, history),
      recorded=state.recorded + finite,
      not_finite=not_finite,
      skipped_steps=state.skipped_steps + skip,
    )

  rates = lambda *states: learning_rates(optimizer, *(s.inner_state for s in states))
  return RatedTransformation(init, update, rates)


def _check_spike_rule(
  interval: int, scaling_factor: float, max_consecutive_errors: int
) -> None:
  if interval < 2:
    raise UserError(f'skip_step_on_spikes.interval must be at least 2, not {interval}')
  for name, value in {
    'scaling_factor': scaling_factor,
    'max_consecutive_errors': max_consecutive_errors,
  }.items():
    if value < 0:
      raise UserError(f'skip_step_on_spikes.{name} must be 0 or more, not {value}')


def _spike_limit(state: SkipStepState, interval: int, scaling_factor: float) -> jax.Array:
  """Returns the largest loss and gradient norm that are no spike, `[2]`."""
  known = jnp.arange(interval) < state.recorded
  mean = jnp.mean(state.history, axis=1, where=known)
  deviation = jnp.std(state.history, axis=1, where=known, ddof=1)
  has_history = state.recorded >= max(2, interval // 2)
  return jnp.where(has_history, mean + scaling_factor * deviation, jnp.inf)


def as_saved(like: Any, saved: Any, sharding: jax.sharding.Sharding) -> Any:
  """Returns the state to restore, from a run that may have skipped steps unlike this one.

  Args:
    like: gives the shapes, dtypes and shardings of the state that is wanted.
    saved: is the tree of the checkpoint, of leaves with shapes and dtypes.
    sharding: is the sharding of the arrays that step skipping adds.

  Returns:
    Shapes, dtypes and shardings; `as_wanted` makes the state of what is restored.
  """
  inner = like.inner_state if isinstance(like, SkipStepState) else like
  if not (isinstance(saved, Mapping) and 'skipped_steps' in saved):
    return inner
  rest: Any = {
    name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=sharding)
    for name, leaf in saved.items()
    if name != 'inner_state'
  }
  return SkipStepState(inner, **rest)


def as_wanted(restored: Any, like: Any) -> Any:
  """The state for this run's optimizer, which may begin or cease to skip steps.

  Args:
    restored: is the checkpoint's state.
    like: shapes, dtypes and shardings of the state that is wanted.
  """
  skipped = isinstance(restored, SkipStepState)
  if not isinstance(like, SkipStepState):
    return restored.inner_state if skipped else restored
  if skipped and restored.history.shape == like.history.shape:
    return restored
  fresh = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), like._replace(inner_state=())
  )
  return fresh._replace(inner_state=restored.inner_state if skipped else restored)
