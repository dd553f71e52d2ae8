"""Distributions of the next token that are narrower, or wider, than a model's own.

Axis letters are those of `hyperprompt_jax.nn`: B rows, N candidates of a row, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from hyperprompt_jax.nn import backend

# Below this temperature, sampling is greedy: dividing the logits would lose all precision.
MIN_TEMPERATURE = 1.0e-4


@dataclasses.dataclass(frozen=True)
class Narrowing:
  """A distribution of tokens that is narrower, or wider, than the model's own.

  The numbers may be traced, so that one program serves all of them.

  Attributes:
    temperature: divides the logits before they are truncated; below 1e-4, the likeliest
      token is taken.
    top_k: limits the draw to this number of most probable tokens; 0 means all.
    top_p: limits the draw further, to the smallest set of most probable tokens with at
      least this total probability (Holtzman et al. 2020, "The Curious Case of Neural Text
      Degeneration", section 3.1); 0 and 1 mean all.
    most: is the largest `top_k` that may be given; 0 means any. Fewer candidates than the
      vocabulary's are sorted faster.

  Raises:
    ValueError: if `temperature` or `top_k` is a negative number, or `top_p` a number that
      is not in [0, 1].
  """

  temperature: float | jax.Array = 1.0
  top_k: int | jax.Array = 0
  top_p: float | jax.Array = 0.0
  most: int = 0

  def __post_init__(self):
    given = (self.temperature, self.top_k, self.top_p)
    if any(isinstance(value, jax.Array) for value in given):
      return
    if self.temperature < 0.0 or self.top_k < 0 or not 0.0 <= self.top_p <= 1.0:
      raise ValueError(
        'temperature and top_k must not be negative and top_p must lie in [0, 1], '
        f'not {self.temperature}, {self.top_k} and {self.top_p}.'
      )

  @property
  def _truncates(self) -> bool:
    """Whether fewer tokens than all may be drawn; True where that is not known yet."""
    return not (
      isinstance(self.top_k, int)
      and self.top_k == 0
      and isinstance(self.top_p, float | int)
      and self.top_p in (0, 1)
    )

  def draw(self, keys: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws tokens.

    Args:
      keys: are PRNG keys, `[B * N]`.
      logits: are the model's, `[B * N, V]` float32.

    Returns:
      Tokens `[B * N]`.
    """
    temperature = jnp.asarray(self.temperature, jnp.float32)
    tokens = self._drawn(keys, logits / jnp.maximum(temperature, MIN_TEMPERATURE))
    # Dividing by less would lose all precision.
    return jnp.where(temperature < MIN_TEMPERATURE, backend.argmax(logits), tokens)

  def _drawn(self, keys: jax.Array, logits: jax.Array) -> jax.Array:
    draw = jax.vmap(jax.random.categorical)
    if not self._truncates:
      return draw(keys, logits)
    vocab_size = logits.shape[-1]
    most = self.most or (self.top_k if isinstance(self.top_k, int) else 0) or vocab_size
    logits, tokens = lax.top_k(logits, min(most, vocab_size))
    rank = jnp.arange(logits.shape[-1])
    top_k = jnp.where(jnp.asarray(self.top_k) == 0, vocab_size, self.top_k)
    logits = jnp.where(rank < top_k, logits, -jnp.inf)
    probs = jax.nn.softmax(logits)
    # A token stays if the more probable tokens do not reach top_p. The first always stays.
    probs_before = jnp.cumsum(probs, axis=-1) - probs
    top_p = jnp.asarray(self.top_p, jnp.float32)
    kept = (top_p <= 0.0) | (top_p >= 1.0) | (probs_before < top_p) | (rank == 0)
    ranks = draw(keys, jnp.where(kept, logits, -jnp.inf))
    return jnp.take_along_axis(tokens, ranks[:, None], axis=-1).squeeze(-1)
