"""Greedy, sampling and beam-search decoding over a step function.

Axis letters are those of `hyperprompt_jax.nn`: B examples, N decodes of one example (beams
or samples), P positions up to `max_decode_len`, V vocabulary. The model sees `B * N` rows,
in which the decodes of one example follow one another.

The three decoders share these arguments, and may be jitted over the state, a PRNG key
and whatever the step function closes over:

  step_fn         (tokens `[B * N]` int32, state, index int32) -> (logits `[B * N, V]`
                  float32, state). The logits are of the token to be generated at
                  `index`; the tokens are those generated at `index - 1`, at first 0,
                  T5's start.
  state           the state before the first token, for B rows: any pytree, usually the
                  attention cache. `step_fn` gets it expanded to B * N rows.
  batch_size      B
  max_decode_len  P, the most tokens to generate
  eos_id          the token that ends a sequence
  batch_axis      where every array of the state has its rows: 0, or 1 if its layers
                  are scanned

Decoded sequences hold generated tokens only, `eos_id` included, and 0 (padding) after
it. Loops end before `max_decode_len` as soon as going on can change nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
StepFn = Callable[[jax.Array, PyTree, jax.Array], tuple[jax.Array, PyTree]]
SelectFn = Callable[[jax.Array, jax.Array], jax.Array]

# The score of what cannot be. Finite, so that sums of it never become NaN.
IMPOSSIBLE = -1.0e7

# Below this temperature sampling is greedy: logits divided by less lose all precision.
MIN_TEMPERATURE = 1.0e-4


def expand_beams(state: PyTree, num_decodes: int, batch_axis: int = 0) -> PyTree:
  """Repeats every example's slice of a pytree `num_decodes` times, side by side.

  Arrays outside the decoding state that a step function closes over, such as the
  encoder's outputs, must be expanded by the same number.

  Args:
    state: arrays with B at `batch_axis`.
    num_decodes: N, the number of decodes of each example.
    batch_axis: the axis to repeat along.

  Returns:
    The pytree with B * N at `batch_axis`; decode j of example i is row `i * N + j`.
  """
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_decodes, axis=batch_axis), state)


def length_penalty(length: int | jax.Array, alpha: float) -> jax.Array:
  """The divisor `((5 + length) / 6) ** alpha` of a hypothesis' log probability.

  Wu et al. (2016), "Google's Neural Machine Translation System", equation 14. The
  length is of the generated tokens, EOS included; the result is float32, of its shape.
  """
  return jnp.power((5.0 + jnp.asarray(length, jnp.float32)) / 6.0, alpha)


def greedy(
  step_fn: StepFn,
  state: PyTree,
  *,
  batch_size: int,
  max_decode_len: int,
  eos_id: int,
  batch_axis: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Takes the most probable token at every position.

  Takes the module's common arguments, `batch_axis` only for their sake.

  Returns:
    Tokens `[B, P]` int32 and scores `[B]` float32, the sum of the generated tokens'
    log probabilities.
  """
  del batch_axis
  return _generate(
    step_fn,
    state,
    lambda logits, index: jnp.argmax(logits, axis=-1),
    num_rows=batch_size,
    max_decode_len=max_decode_len,
    eos_id=eos_id,
  )


def sample(
  step_fn: StepFn,
  state: PyTree,
  *,
  batch_size: int,
  max_decode_len: int,
  eos_id: int,
  rng: jax.Array,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 0.0,
  num_decodes: int = 1,
  batch_axis: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Draws every token from the model's distribution, or from the top of it.

  Besides the module's common arguments:

    rng: a PRNG key; equal keys give equal draws.
    temperature: divides the logits before anything else; below 1e-4, greedy.
    top_k: draw from this many most probable tokens; 0 for all.
    top_p: of those, draw from the fewest most probable that together have at least this
      probability; 0 or 1 for all. Holtzman et al. (2020), "The Curious Case of Neural
      Text Degeneration", section 3.1.
    num_decodes: N, independent draws per example.

  Returns:
    Tokens `[B, N, P]` int32, in the order drawn, and scores `[B, N]` float32, the sum
    of the generated tokens' log probabilities under the model itself, whatever the
    temperature and truncation (as T5X with `rescale_log_probs=False`).

  Raises:
    ValueError: if `temperature` or `top_k` is negative or `top_p` is not in [0, 1].
  """
  if temperature < 0.0 or top_k < 0 or not 0.0 <= top_p <= 1.0:
    raise ValueError(
      'temperature and top_k must not be negative and top_p must lie in [0, 1], '
      f'not {temperature}, {top_k} and {top_p}.'
    )

  def select(logits: jax.Array, index: jax.Array) -> jax.Array:
    if temperature < MIN_TEMPERATURE:
      return jnp.argmax(logits, axis=-1)
    step_rng = jax.random.fold_in(rng, index)
    return _draw(step_rng, logits / temperature, top_k, top_p)

  tokens, scores = _generate(
    step_fn,
    expand_beams(state, num_decodes, batch_axis),
    select,
    num_rows=batch_size * num_decodes,
    max_decode_len=max_decode_len,
    eos_id=eos_id,
  )
  return (
    tokens.reshape(batch_size, num_decodes, max_decode_len),
    scores.reshape(batch_size, num_decodes),
  )


def beam_search(
  step_fn: StepFn,
  state: PyTree,
  *,
  batch_size: int,
  max_decode_len: int,
  eos_id: int,
  num_decodes: int = 4,
  alpha: float = 0.6,
  batch_axis: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Keeps the N most probable unfinished prefixes and the N best finished sequences.

  Every step extends the live prefixes to 2N candidates, so that N stay alive even if
  as many end. The search is over when no live prefix could displace a finished
  sequence. The result is that of T5X's `beam_search`, best first instead of last.

  Besides the module's common arguments:

    num_decodes: N, the number of beams, all of which are returned.
    alpha: exponent of `length_penalty`, at least 0.

  Returns:
    Sequences `[B, N, P]` int32, best first, and scores `[B, N]` float32: the sum of the
    generated tokens' log probabilities over `length_penalty`. Where an example has
    finished fewer than N sequences, the rest are all padding with score -1e7. Where it
    has finished none, its live prefixes are returned and their scores are not
    normalised, since all are of length P.

  Raises:
    ValueError: if `alpha` is negative.
  """
  if alpha < 0.0:
    # Then a live prefix's final score would not be bounded by its present one.
    raise ValueError(f'alpha must not be negative, not {alpha}.')
  longest_penalty = length_penalty(max_decode_len, alpha)

  def can_improve(beams: _Beams) -> jax.Array:
    # Log probabilities only fall, so this is the most a live prefix can come to.
    best_live = beams.live_log_probs[:, 0] / longest_penalty
    settled = jnp.all(beams.finished_scores[:, -1] > best_live)
    return (beams.position < max_decode_len) & ~settled

  def step(beams: _Beams) -> _Beams:
    tokens = beams.live_tokens.reshape(-1)
    logits, state = step_fn(tokens, beams.state, beams.position)
    return _advance_beams(beams, logits, state, eos_id, alpha, batch_axis)

  state = expand_beams(state, num_decodes, batch_axis)
  beams = _init_beams(state, batch_size, num_decodes, max_decode_len)
  beams = lax.while_loop(can_improve, step, beams)

  any_finished = beams.finished_scores[:, :1] > IMPOSSIBLE
  return (
    jnp.where(any_finished[..., None], beams.finished_sequences, beams.live_sequences),
    jnp.where(any_finished, beams.finished_scores, beams.live_log_probs),
  )


class _Rows(NamedTuple):
  """What greedy decoding and sampling carry from one position to the next."""

  position: jax.Array  # scalar int32, the position about to be generated
  state: PyTree
  tokens: jax.Array  # [B * N] int32, the previous position's
  sequences: jax.Array  # [B * N, P] int32
  scores: jax.Array  # [B * N] float32
  ended: jax.Array  # [B * N] bool


def _generate(
  step_fn: StepFn,
  state: PyTree,
  select: SelectFn,
  *,
  num_rows: int,
  max_decode_len: int,
  eos_id: int,
) -> tuple[jax.Array, jax.Array]:
  """Extends every row by `select(logits, index) -> tokens` until it ends."""

  def unfinished(rows: _Rows) -> jax.Array:
    return (rows.position < max_decode_len) & ~jnp.all(rows.ended)

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
      ended=rows.ended | (tokens == eos_id),
    )

  rows = _Rows(
    position=jnp.int32(0),
    state=state,
    tokens=jnp.zeros((num_rows,), jnp.int32),
    sequences=jnp.zeros((num_rows, max_decode_len), jnp.int32),
    scores=jnp.zeros((num_rows,), jnp.float32),
    ended=jnp.zeros((num_rows,), jnp.bool_),
  )
  rows = lax.while_loop(unfinished, step, rows)
  return rows.sequences, rows.scores


def _draw(rng: jax.Array, logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Draws tokens `[B * N]` from logits `[B * N, V]`, truncated to `top_k`, then `top_p`."""
  truncates_p = 0.0 < top_p < 1.0
  if not top_k and not truncates_p:
    return jax.random.categorical(rng, logits)
  vocab_size = logits.shape[-1]
  logits, tokens = lax.top_k(logits, min(top_k or vocab_size, vocab_size))
  if truncates_p:
    probs = jax.nn.softmax(logits)
    # A token stays if those before it do not reach top_p; the first always does.
    probs_before = jnp.cumsum(probs, axis=-1) - probs
    logits = jnp.where(probs_before < top_p, logits, -jnp.inf)
  ranks = jax.random.categorical(rng, logits)
  return jnp.take_along_axis(tokens, ranks[:, None], axis=-1).squeeze(-1)


class _Beams(NamedTuple):
  """What beam search carries; both sets of beams are sorted, best first."""

  position: jax.Array  # scalar int32, the position about to be generated
  state: PyTree  # of the live beams
  live_tokens: jax.Array  # [B, N] int32, the previous position's
  live_sequences: jax.Array  # [B, N, P] int32
  live_log_probs: jax.Array  # [B, N] float32
  finished_sequences: jax.Array  # [B, N, P] int32
  finished_scores: jax.Array  # [B, N] float32, IMPOSSIBLE where there is none


def _init_beams(
  state: PyTree, batch_size: int, num_decodes: int, max_decode_len: int
) -> _Beams:
  """Beams before the first token, of a state already expanded."""
  scores = jnp.full((batch_size, num_decodes), IMPOSSIBLE, jnp.float32)
  sequences = jnp.zeros((batch_size, num_decodes, max_decode_len), jnp.int32)
  return _Beams(
    position=jnp.int32(0),
    state=state,
    live_tokens=jnp.zeros((batch_size, num_decodes), jnp.int32),
    live_sequences=sequences,
    # Only one may live at first, or the N beams would be N copies.
    live_log_probs=scores.at[:, 0].set(0.0),
    finished_sequences=sequences,
    finished_scores=scores,
  )


def _advance_beams(
  beams: _Beams,
  logits: jax.Array,
  state: PyTree,
  eos_id: int,
  alpha: float,
  batch_axis: int,
) -> _Beams:
  """Extends the live beams by the logits `[B * N, V]` of the position `beams.position`."""
  rows, decodes = beams.live_log_probs.shape
  vocab_size = logits.shape[-1]

  # The 2N best candidates, [B, 2 * N].
  log_probs = jax.nn.log_softmax(logits).reshape(rows, decodes, vocab_size)
  log_probs += beams.live_log_probs[:, :, None]
  log_probs, flat_index = lax.top_k(log_probs.reshape(rows, -1), 2 * decodes)
  parents, tokens = flat_index // vocab_size, flat_index % vocab_size
  sequences = _gather(beams.live_sequences, parents).at[:, :, beams.position].set(tokens)
  # A vocabulary of N tokens or fewer leaves dead beams among the candidates. They may
  # not end: the length penalty would lift their score above IMPOSSIBLE.
  ended = (tokens == eos_id) & (log_probs > IMPOSSIBLE / 2)

  # The N best that live on.
  live_log_probs, live = lax.top_k(jnp.where(ended, IMPOSSIBLE, log_probs), decodes)

  # The N best that have ended, now or before.
  new_scores = log_probs / length_penalty(beams.position + 1, alpha)
  new_scores = jnp.where(ended, new_scores, IMPOSSIBLE)
  scores = jnp.concatenate([beams.finished_scores, new_scores], axis=1)
  finished_scores, finished = lax.top_k(scores, decodes)
  all_sequences = jnp.concatenate([beams.finished_sequences, sequences], axis=1)

  return _Beams(
    position=beams.position + 1,
    state=_gather_state(state, _gather(parents, live), batch_axis),
    live_tokens=_gather(tokens, live),
    live_sequences=_gather(sequences, live),
    live_log_probs=live_log_probs,
    finished_sequences=_gather(all_sequences, finished),
    finished_scores=finished_scores,
  )


def _gather_state(state: PyTree, beams: jax.Array, batch_axis: int) -> PyTree:
  """Puts the row of beam `[B, N]` in each beam's place, in every example."""

  def gather(leaf: jax.Array) -> jax.Array:
    # The batch stays an axis of its own, so that its shards need not exchange rows.
    split = (*leaf.shape[:batch_axis], *beams.shape, *leaf.shape[batch_axis + 1 :])
    return _gather(leaf.reshape(split), beams, batch_axis).reshape(leaf.shape)

  return jax.tree.map(gather, state)


def _gather(array: jax.Array, beams: jax.Array, batch_axis: int = 0) -> jax.Array:
  """Picks beams, each by its number, of an array with axes B, N at `batch_axis`."""
  take = lambda x, i: jnp.take(x, i, axis=batch_axis, mode='clip')
  return jax.vmap(take, in_axes=(batch_axis, 0), out_axes=batch_axis)(array, beams)
