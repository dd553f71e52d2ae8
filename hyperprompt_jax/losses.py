"""The loss of a token, and the likelihood of a text."""

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(
  logits: Array, targets: Array, *, label_smoothing: float, z_loss: float
) -> tuple[Array, Array]:
  """Returns the cross entropy with T5's auxiliary z-loss and label smoothing.

  Label smoothing spreads the mass `label_smoothing` evenly over the other classes. The
  entropy of the smoothed labels is subtracted, so that a perfect prediction costs 0, as in
  T5X (`t5x/losses.py`).

  Args:
    logits: are the network's outputs, `[..., V]` float32.
    targets: are the labels, `[...]` int32.
    label_smoothing: is the probability that each label gives to the other classes.
    z_loss: weighs the term `log(Z) ** 2`, which keeps logits from drifting.

  Returns:
    The total loss, and the z-loss that it includes: `[...]` float32 each.
  """
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - target_logit
  if label_smoothing:
    vocab_size = logits.shape[-1]
    low = label_smoothing / (vocab_size - 1)
    high = 1.0 - label_smoothing
    others = vocab_size * log_z - jnp.sum(logits, axis=-1) - loss
    entropy = -(high * jnp.log(high) + label_smoothing * jnp.log(low))
    loss = high * loss + low * others - entropy
  z_term = z_loss * jnp.square(log_z)
  return loss + z_term, z_term


def log_likelihood(logits: Array, targets: Array, weights: Array) -> Array:
  """Returns the log likelihood of each row's targets, `[B]` float32.

  Args:
    logits: are the network's outputs, `[B, Q, V]` float32.
    targets: are the tokens, `[B, Q]` int32.
    weights: are 1 for tokens that count, and 0 for padding, `[B, Q]`.
  """
  loss, _ = cross_entropy(logits, targets, label_smoothing=0.0, z_loss=0.0)
  return -jnp.sum(loss * weights, axis=1)
