"""Optimizers that are T5's and not Optax's as they come."""

import jax
import optax

from hyperprompt_jax.nn.stacking import STACK


def adafactor(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  multiply_by_parameter_scale: bool = True,
) -> optax.GradientTransformation:
  """Adafactor with T5's recipe, layer by layer where layers are stacked.

  Update clipping and parameter scale are root mean squares over one tensor. A stack of
  scanned layers is one array but as many tensors as it has layers: each takes the very
  step that it would take unrolled (T5X: `FactorDim.BATCH` of `t5x/adafactor.py`).

  Args:
    learning_rate: constant or schedule; relative to a tensor's scale if
      `multiply_by_parameter_scale`.
    decay_rate: exponent of the second moment's decay, `1 - step ** -decay_rate`.
    clipping_threshold: largest root mean square of a tensor's update before scaling.
    multiply_by_parameter_scale: whether steps are relative to a tensor's root mean
      square, at least 1e-3.
  """
  transform = optax.adafactor(
    learning_rate,
    decay_rate=decay_rate,
    clipping_threshold=clipping_threshold,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
  )
  stacked = _vmapped(transform)
  # A transformation for each stack, since stacks may differ in depth.
  return optax.partition(
    {'encoder': stacked, 'decoder': stacked, 'other': transform}, _stack_of
  )


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


def _stack_of(params):
  """Labels each parameter by the stack it is stacked in, if any."""

  def label(path, _):
    keys = [getattr(entry, 'key', None) for entry in path]
    return keys[0] if STACK in keys else 'other'

  return jax.tree_util.tree_map_with_path(label, params)
