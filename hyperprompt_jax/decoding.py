"""Greedy, sampling and beam-search decoding over a step function.

Axis letters are those of `hyperprompt_jax.nn`: B rows of a batch, N candidates of a row
(beams or samples), P positions up to `max_decode_len`, V vocabulary. The step function sees
`B * N` rows, in which the candidates of one row are adjacent.

The three decoders share three arguments. They can be jitted over the state, a PRNG key and
the arrays that the step function closes over.

- `step_fn` maps (tokens `[B * N]` int32, state, index int32) to (logits `[B * N, V]`
  float32, state). The logits predict the token at `index`. The tokens are those generated
  at `index - 1`; at index 0 they are 0, T5's start token.
- `state` is the state before the first token, with B rows: any pytree, usually the
  attention cache. `step_fn` gets it expanded to B * N rows.
- `settings` are the `DecodeSettings`.

Decoded sequences hold the generated tokens, `eos_id` included, followed by 0 (padding).
Loops end before `max_decode_len` once further steps cannot change the result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from hyperprompt_jax.nn import backend
from hyperprompt_jax.sampling import Narrowing

PyTree = Any
StepFn = Callable[[jax.Array, PyTree, jax.Array], tuple[jax.Array, PyTree]]
SelectFn = Callable[[jax.Array, jax.Array], jax.Array]

# The score of an impossible candidate. It is finite, so that its sums never become NaN.
IMPOSSIBLE = -1.0e7


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
  """The shape of a decoded batch, and the token that ends its sequences.

  Attributes:
    batch_size: is the number of rows, B.
    max_decode_len: is the most tokens to generate, P.
    eos_id: is the token that ends a sequence.
    batch_axis: is the axis of the rows in every array of the state: 0, or 1 if the layers
      are scanned.
    limit: is the most tokens to generate, at most P, as an int32 scalar that may be traced;
      None for P.
  """

  batch_size: int
  max_decode_len: int
  eos_id: int
  batch_axis: int = 0
  limit: jax.Array | None = None

  @property
  def last(self) -> int | jax.Array:
    """The number of tokens after which decoding ends."""
    return self.max_decode_len if self.limit is None else self.limit


class InPlace(NamedTuple):
  """A state whose arrays stay where they are, whatever prefixes candidates go on from.

  Attributes:
    arrays: have the axis of positions after that of the rows. With N candidates, each
      position has N slots side by side, `[..., B, K * N, ...]`, and candidate n writes slot
      n.
    slots: names the slot in which each candidate's prefix has each position, `[B * N, P]`
      int32.
  """

  arrays: PyTree
  slots: jax.Array

  def at(self, position: jax.Array, num_decodes: int) -> 'InPlace':
    """Returns the state in which each candidate has its own slot at a position."""
    own = jnp.arange(len(self.slots)) % num_decodes
    return self._replace(slots=self.slots.at[:, position].set(own))


def expand_beams(state: PyTree, num_decodes: int, batch_axis: int = 0) -> PyTree:
  """Repeats every row of a pytree `num_decodes` times, side by side.

  Arrays outside the decoding state that a step function closes over, such as the
  encoder's outputs, must be expanded by the same number.

  Args:
    state: holds arrays with B at `batch_axis`, or is `InPlace`.
    num_decodes: is the number of candidates of each row, N.
    batch_axis: is the axis of the rows.

  Returns:
    The pytree with B * N at `batch_axis`; candidate j of row i is row `i * N + j`. If it is
    `InPlace`, positions are repeated in place of rows.
  """
  if isinstance(state, InPlace):
    arrays = expand_beams(state.arrays, num_decodes, batch_axis + 1)
    return InPlace(arrays, expand_beams(state.slots, num_decodes))
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_decodes, axis=batch_axis), state)


def end_at_once(step_fn: StepFn, rows: jax.Array, eos_id: int) -> StepFn:
  """Returns a step function that predicts the end for some rows, whatever their logits.

  Rows that only fill a batch up do not hold up the end of the loop.

  Args:
    step_fn: predicts the next token.
    rows: marks the rows that end at once, `[B]` bool.
    eos_id: is the token that ends a sequence.
  """

  def step(tokens: jax.Array, state: PyTree, index: jax.Array) -> tuple[jax.Array, PyTree]:
    logits, state = step_fn(tokens, state, index)
    end = jnp.where(jnp.arange(logits.shape[-1]) == eos_id, 0.0, 100 * IMPOSSIBLE)
    candidates = jnp.repeat(rows, logits.shape[0] // rows.shape[0])
    return jnp.where(candidates[:, None], end, logits), state

  return step


def length_penalty(length: int | jax.Array, alpha: float) -> jax.Array:
  """Returns the divisor `((5 + length) / 6) ** alpha` of a candidate's log probability.

  This is equation 14 of Wu et al. (2016), "Google's Neural Machine Translation System". The
  length counts the generated tokens, EOS included. The result is float32.
  """
  return jnp.power((5.0 + jnp.asarray(length, jnp.float32)) / 6.0, alpha)


def greedy(
  step_fn: StepFn, state: PyTree, settings: DecodeSettings
) -> tuple[jax.Array, jax.Array]:
  """Takes the most probable token at every position.

  The module's docstring describes the arguments.

  Returns:
    Tokens `[B, P]` int32 and scores `[B]` float32, the sum of the generated tokens'
    log probabilities.
  """
  select = lambda logits, index: backend.argmax(logits)
  return _generate(step_fn, state, select, settings.batch_size, settings)


def sample(
  step_fn: StepFn,
  state: PyTree,
  settings: DecodeSettings,
  *,
  rng: jax.Array,
  narrowing: Narrowing | None = None,
  num_decodes: int = 1,
) -> tuple[jax.Array, jax.Array]:
  """Draws every token from the model's distribution, or from its most probable tokens.

  The module's docstring describes the first three arguments.

  Args:
    step_fn: predicts the next token.
    state: is the state before the first token.
    settings: are the settings that all decoders share.
    rng: is a PRNG key, or a key for each row, `[B]`; equal keys give equal draws.
    narrowing: makes the distribution narrower than the model's; None draws from that.
    num_decodes: is the number of independent candidates of each row, N.

  Returns:
    Tokens `[B, N, P]` int32 in the order of the draws, and scores `[B, N]` float32: the sum
    of the generated tokens' log probabilities under the model itself, before temperature
    and truncation (as T5X with `rescale_log_probs=False`).
  """
  narrowing = narrowing or Narrowing()
  keys = rng if rng.ndim else jax.random.split(rng, settings.batch_size)
  candidates = jnp.arange(num_decodes)
  of_candidates = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  keys = of_candidates(keys, candidates).reshape(-1)

  def select(logits: jax.Array, index: jax.Array) -> jax.Array:
    at_position = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
    return narrowing.draw(at_position, logits)

  tokens, scores = _generate(
    step_fn,
    expand_beams(state, num_decodes, settings.batch_axis),
    select,
    settings.batch_size * num_decodes,
    settings,
  )
  return (
    tokens.reshape(settings.batch_size, num_decodes, settings.max_decode_len),
    scores.reshape(settings.batch_size, num_decodes),
  )


def beam_search(
  step_fn: StepFn,
  state: PyTree,
  settings: DecodeSettings,
  *,
  num_decodes: int = 4,
  alpha: float = 0.6,
) -> tuple[jax.Array, jax.Array]:
  """Keeps the N most probable unfinished prefixes and the N best finished sequences.

  Every step extends the live prefixes to 2N prefixes, so that N stay alive even if N of
  them end. The search is over when no live prefix could displace a finished sequence. The
  result equals that of T5X's `beam_search`, but with the best sequence first, not last.

  The module's docstring describes the first three arguments.

  Args:
    step_fn: predicts the next token.
    state: is the state before the first token.
    settings: are the settings that all decoders share.
    num_decodes: is the number of beams, N, all of which are returned.
    alpha: is the exponent of `length_penalty`, at least 0.

  Returns:
    Sequences `[B, N, P]` int32, best first, and scores `[B, N]` float32: the sum of the
    generated tokens' log probabilities over `length_penalty`. If a row has finished fewer
    than N sequences, the others are padding with score -1e7. If it has finished none, its
    live prefixes are returned. Their scores are not normalised, since all have length P.

  Raises:
    ValueError: if `alpha` is negative.
  """
  if alpha < 0.0:
    # A live prefix's present score would then be no bound of its final score.
    raise ValueError(f'alpha must not be negative, not {alpha}.')
  longest_penalty = length_penalty(settings.last, alpha)

  def can_improve(beams: _Beams) -> jax.Array:
    # Log probabilities only fall, so this is the best score that a live prefix can reach.
    best_live = beams.live_log_probs[:, 0] / longest_penalty
    settled = beams.finished_scores[:, -1] > best_live
    settled |= beams.live_log_probs[:, 0] < IMPOSSIBLE / 2
    return (beams.position < settings.last) & ~jnp.all(settled)

  def step(beams: _Beams) -> _Beams:
    tokens = beams.live_tokens.reshape(-1)
    logits, state = step_fn(tokens, beams.state, beams.position)
    return _advance_beams(beams, logits, state, alpha, settings)

  state = expand_beams(state, num_decodes, settings.batch_axis)
  beams = _init_beams(state, num_decodes, settings)
  beams = lax.while_loop(can_improve, step, beams)

  any_finished = beams.finished_scores[:, :1] > IMPOSSIBLE
  return (
    jnp.where(any_finished[..., None], beams.finished_sequences, beams.live_sequences),
    jnp.where(any_finished, beams.finished_scores, beams.live_log_probs),
  )


class _Rows(NamedTuple):
  """The carry of greedy decoding and sampling, from one position to the next."""

  position: jax.Array  # scalar int32, the position about to be generated
  state: PyTree
  tokens: jax.Array  # [B * N] int32, the tokens of the previous position
  sequences: jax.Array  # [B * N, P] int32
  scores: jax.Array  # [B * N] float32
  ended: jax.Array  # [B * N] bool


def _generate(
  step_fn: StepFn,
  state: PyTree,
  select: SelectFn,
  num_rows: int,
  settings: DecodeSettings,
) -> tuple[jax.Array, jax.Array]:
  """Extends every row by `select(logits, index) -> tokens` until it ends."""

  def unfinished(rows: _Rows) -> jax.Array:
    return (rows.position < settings.last) & ~jnp.all(rows.ended)

  def step(rows: _Rows) -> _Rows:
    logits, state = step_fn(rows.tokens, rows.state, rows.position)
    tokens = select(logits, rows.position).astype(jnp.int32)
    log_probs = jnp.take_along_axis(
      jax.nn.log_softmax(logits), tokens[:, None], axis=-1
    ).squeeze(-1)
    tokens = jnp.where(rows.ended, 0, tokens)
    return _Rows(
      position=rows.position + 1,
      state=state,
      tokens=tokens,
      sequences=rows.sequences.at[:, rows.position].set(tokens),
      scores=rows.scores + jnp.where(rows.ended, 0.0, log_probs),
      ended=rows.ended | (tokens == settings.eos_id),
    )

  rows = _Rows(
    position=jnp.int32(0),
    state=state,
    tokens=jnp.zeros((num_rows,), jnp.int32),
    sequences=jnp.zeros((num_rows, settings.max_decode_len), jnp.int32),
    scores=jnp.zeros((num_rows,), jnp.float32),
    ended=jnp.zeros((num_rows,), jnp.bool_),
  )
  rows = lax.while_loop(unfinished, step, rows)
  return rows.sequences, rows.scores


class _Beams(NamedTuple):
  """The carry of beam search; both sets of beams are sorted, best first."""

  position: jax.Array  # scalar int32, the position about to be generated
  state: PyTree  # the state of the live beams
  live_tokens: jax.Array  # [B, N] int32, the tokens of the previous position
  live_sequences: jax.Array  # [B, N, P] int32
  live_log_probs: jax.Array  # [B, N] float32
  finished_sequences: jax.Array  # [B, N, P] int32
  finished_scores: jax.Array  # [B, N] float32, IMPOSSIBLE without a finished sequence


def _init_beams(state: PyTree, num_decodes: int, settings: DecodeSettings) -> _Beams:
  """Returns the beams before the first token, of a state that is already expanded."""
  shape = (settings.batch_size, num_decodes)
  scores = jnp.full(shape, IMPOSSIBLE, jnp.float32)
  sequences = jnp.zeros((*shape, settings.max_decode_len), jnp.int32)
  return _Beams(
    position=jnp.int32(0),
    state=state,
    live_tokens=jnp.zeros(shape, jnp.int32),
    live_sequences=sequences,
    # Only one beam is possible at first; otherwise the N beams would be N copies.
    live_log_probs=scores.at[:, 0].set(0.0),
    finished_sequences=sequences,
    finished_scores=scores,
  )


def _advance_beams(
  beams: _Beams,
  logits: jax.Array,
  state: PyTree,
  alpha: float,
  settings: DecodeSettings,
) -> _Beams:
  """Extends the live beams by the logits `[B * N, V]` of the position `beams.position`."""
  rows, num_beams = beams.live_log_probs.shape
  vocab_size = logits.shape[-1]

  # Choose the 2N best extensions, [B, 2 * N].
  log_probs = jax.nn.log_softmax(logits).reshape(rows, num_beams, vocab_size)
  log_probs += beams.live_log_probs[:, :, None]
  log_probs, flat_index = lax.top_k(log_probs.reshape(rows, -1), 2 * num_beams)
  parents, tokens = flat_index // vocab_size, flat_index % vocab_size
  sequences = _gather(beams.live_sequences, parents).at[:, :, beams.position].set(tokens)
  # If the vocabulary has at most N tokens, impossible beams are among the extensions. They
  # must not end: the length penalty would lift their score above IMPOSSIBLE.
  ended = (tokens == settings.eos_id) & (log_probs > IMPOSSIBLE / 2)

  # Keep the N best extensions that have not ended.
  live_log_probs, live = lax.top_k(jnp.where(ended, IMPOSSIBLE, log_probs), num_beams)

  # Keep the N best sequences that have ended, at this step or before.
  new_scores = log_probs / length_penalty(beams.position + 1, alpha)
  new_scores = jnp.where(ended, new_scores, IMPOSSIBLE)
  scores = jnp.concatenate([beams.finished_scores, new_scores], axis=1)
  finished_scores, finished = lax.top_k(scores, num_beams)
  all_sequences = jnp.concatenate([beams.finished_sequences, sequences], axis=1)

  return _Beams(
    position=beams.position + 1,
    state=_gather_state(state, _gather(parents, live), settings.batch_axis),
    live_tokens=_gather(tokens, live),
    live_sequences=_gather(sequences, live),
    live_log_probs=live_log_probs,
    finished_sequences=_gather(all_sequences, finished),
    finished_scores=finished_scores,
  )


def _gather_state(state: PyTree, beams: jax.Array, batch_axis: int) -> PyTree:
  """Returns the state of the beams `[B, N]`, which are indices of a row's candidates."""
  if isinstance(state, InPlace):
    return state._replace(slots=_gather_state(state.slots, beams, 0))

  def gather(leaf: jax.Array) -> jax.Array:
    # The batch keeps an axis of its own, so that its shards need not exchange rows.
    split = (*leaf.shape[:batch_axis], *beams.shape, *leaf.shape[batch_axis + 1 :])
    return _gather(leaf.reshape(split), beams, batch_axis).reshape(leaf.shape)

  return jax.tree.map(gather, state)


def _gather(array: jax.Array, beams: jax.Array, batch_axis: int = 0) -> jax.Array:
  """Returns the beams `[B, N]`, by index, of an array with axes B, N at `batch_axis`."""
  take = lambda x, i: jnp.take(x, i, axis=batch_axis, mode='clip')
  return jax.vmap(take, in_axes=(batch_axis, 0), out_axes=batch_axis)(array, beams)
