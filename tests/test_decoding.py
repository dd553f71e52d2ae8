"""Decoding, compared with searches and models that keep no state."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax import decoding

EOS = 1
LAYERS = 2
HIDDEN = 6


class Rnn(NamedTuple):
  """A two-layer recurrent network, whose output depends on all earlier tokens."""

  embedding: np.ndarray  # [V, HIDDEN]
  recurrence: np.ndarray  # [LAYERS, HIDDEN, HIDDEN]
  readout: np.ndarray  # [HIDDEN, V]
  bias: np.ndarray  # [V]
  start: np.ndarray  # [B, LAYERS, HIDDEN], different for each row


def random_rnn(seed, vocab_size, batch_size, eos_bias=0.0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  bias = normal(vocab_size)
  bias[EOS] += eos_bias
  return Rnn(
    embedding=normal(vocab_size, HIDDEN),
    recurrence=normal(LAYERS, HIDDEN, HIDDEN),
    readout=normal(HIDDEN, vocab_size),
    bias=bias,
    start=normal(batch_size, LAYERS, HIDDEN),
  )


def rnn_step_fn(rnn, batch_axis, on_step=lambda index: None):
  def step_fn(tokens, state, index):
    jax.debug.callback(on_step, index)
    layers = jnp.moveaxis(state['layers']['hidden'], batch_axis, 0)
    below = jnp.asarray(rnn.embedding)[tokens]
    hidden = []
    for i in range(LAYERS):
      below = jnp.tanh(layers[:, i] @ rnn.recurrence[i] + below)
      hidden.append(below)
    hidden = jnp.moveaxis(jnp.stack(hidden, axis=1), 0, batch_axis)
    return below @ rnn.readout + rnn.bias, {'layers': {'hidden': hidden}, 'none': {}}

  return step_fn


def rnn_state(rnn, batch_axis):
  return {
    'layers': {'hidden': jnp.moveaxis(jnp.asarray(rnn.start), 0, batch_axis)},
    'none': {},
  }


def next_log_probs(rnn, example, prefix):
  """Returns the next token's log probabilities `[V]`, computed from the prefix's start."""
  hidden = rnn.start[example].astype(np.float64)
  for token in (0, *prefix):
    below = rnn.embedding[token]
    for i in range(LAYERS):
      hidden[i] = below = np.tanh(hidden[i] @ rnn.recurrence[i] + below)
  logits = hidden[-1] @ rnn.readout + rnn.bias
  return logits - np.log(np.sum(np.exp(logits)))


def sum_log_probs(rnn, example, sequence):
  """Sums the log probabilities of a sequence's tokens, up to EOS, by teacher forcing."""
  total = 0.0
  for i, token in enumerate(sequence):
    total += next_log_probs(rnn, example, sequence[:i])[token]
    if token == EOS:
      break
  return total


def penalty(length, alpha):
  return ((5 + length) / 6) ** alpha


def assert_close(scores, expected):
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def padded(sequence, max_decode_len):
  return [*sequence, *[0] * (max_decode_len - len(sequence))]


def naive_greedy(rnn, example, max_decode_len):
  prefix = ()
  while len(prefix) < max_decode_len and EOS not in prefix:
    prefix = (*prefix, int(np.argmax(next_log_probs(rnn, example, prefix))))
  return padded(prefix, max_decode_len)


def naive_beam_search(rnn, example, num_decodes, max_decode_len, alpha):
  """Returns the best (sequence, score) pairs, and the step that makes them final."""
  live, finished, steps = {(): 0.0}, {}, None
  for length in range(1, max_decode_len + 1):
    candidates = {
      (*prefix, token): log_prob + next_log_prob
      for prefix, log_prob in live.items()
      for token, next_log_prob in enumerate(next_log_probs(rnn, example, prefix))
    }
    candidates = best(candidates, 2 * num_decodes)
    for sequence, log_prob in candidates.items():
      if sequence[-1] == EOS:
        finished[sequence] = log_prob / penalty(length, alpha)
    finished = best(finished, num_decodes)
    live = {s: log_prob for s, log_prob in candidates.items() if s[-1] != EOS}
    live = best(live, num_decodes)
    best_to_come = max(live.values()) / penalty(max_decode_len, alpha)
    full = len(finished) == num_decodes
    if steps is None and full and min(finished.values()) > best_to_come:
      steps = length
  return list((finished or live).items()), steps or max_decode_len


def best(scores, n):
  return dict(sorted(scores.items(), key=lambda item: -item[1])[:n])


@functools.cache
def jitted(decoder, batch_size, batch_axis=0, *, max_decode_len, **kwargs):
  """Compiles a decoder of Rnns of one shape once: weights and state are traced."""
  settings = decoding.DecodeSettings(batch_size, max_decode_len, EOS, batch_axis)

  def decode(rnn, **traced):
    return decoder(
      rnn_step_fn(rnn, batch_axis),
      rnn_state(rnn, batch_axis),
      settings,
      **kwargs,
      **traced,
    )

  return jax.jit(decode)


@pytest.mark.parametrize('batch_axis', [0, 1])
def test_greedy_equals_a_loop_over_prefixes(batch_axis):
  decode = jitted(decoding.greedy, 3, batch_axis, max_decode_len=8)
  num_ended = 0
  for seed in range(10):
    rnn = random_rnn(seed, vocab_size=7, batch_size=3, eos_bias=1.0)
    tokens, scores = decode(rnn)
    assert tokens.dtype == jnp.int32
    assert scores.dtype == jnp.float32
    for i in range(3):
      expected = naive_greedy(rnn, i, 8)
      num_ended += EOS in expected
      assert tokens[i].tolist() == expected
      assert_close(scores[i], sum_log_probs(rnn, i, expected))
  assert 0 < num_ended < 30


def test_greedy_stops_when_the_last_row_has_ended():
  # The first seed is taken whose rows end at different positions.
  rnn = next(
    rnn
    for rnn in (random_rnn(seed, 7, 3, eos_bias=2.0) for seed in range(100))
    if len({(*naive_greedy(rnn, i, 12), EOS).index(EOS) for i in range(3)}) == 3
  )
  lengths = [(*naive_greedy(rnn, i, 12), EOS).index(EOS) + 1 for i in range(3)]
  steps = []
  decoding.greedy(
    rnn_step_fn(rnn, 0, lambda index: steps.append(int(index))),
    rnn_state(rnn, 0),
    decoding.DecodeSettings(batch_size=3, max_decode_len=40, eos_id=EOS),
  )
  jax.effects_barrier()
  assert max(lengths) <= 12
  assert sorted(steps) == list(range(max(lengths)))


def decoded_beside_padding(decode, rnn):
  """Returns the tokens of a row beside two rows of padding, and the number of steps."""
  steps = []
  step_fn = rnn_step_fn(rnn, 0, lambda index: steps.append(int(index)))
  padding = jnp.asarray([False, True, True])
  tokens, _ = decode(
    decoding.end_at_once(step_fn, padding, EOS),
    rnn_state(rnn, 0),
    decoding.DecodeSettings(batch_size=3, max_decode_len=20, eos_id=EOS),
  )
  jax.effects_barrier()
  tokens = tokens.reshape(3, -1, 20)[:, 0].tolist()
  assert tokens[1:] == [padded((EOS,), 20)] * 2
  return tokens[0], len(steps)


def test_padding_does_not_hold_up_greedy_decoding():
  # The first seed is taken whose first row ends before another.
  ends = lambda rnn: [(*naive_greedy(rnn, i, 20), EOS).index(EOS) + 1 for i in range(3)]
  rnns = (random_rnn(seed, 7, 3, eos_bias=2.0) for seed in range(100))
  rnn = next(rnn for rnn in rnns if 1 < ends(rnn)[0] < max(ends(rnn)))
  tokens, steps = decoded_beside_padding(decoding.greedy, rnn)
  assert tokens == naive_greedy(rnn, 0, 20)
  assert steps == ends(rnn)[0]


def test_padding_does_not_hold_up_beam_search():
  rnn = random_rnn(seed=1, vocab_size=9, batch_size=3, eos_bias=5.0)
  sequences, needed = naive_beam_search(rnn, 0, 3, 20, 0.6)
  search = functools.partial(decoding.beam_search, num_decodes=3, alpha=0.6)
  tokens, steps = decoded_beside_padding(search, rnn)
  assert tokens == padded(sequences[0][0], 20)
  assert steps == needed < 20


BEAM_CASES = [
  # num_decodes, max_decode_len, alpha, batch_axis, batch_size
  (1, 6, 0.6, 0, 1),
  (2, 6, 0.0, 1, 3),
  (4, 7, 0.6, 0, 3),
  (4, 7, 0.6, 1, 3),
  (3, 8, 2.0, 1, 1),
]


@pytest.mark.parametrize('k, max_decode_len, alpha, batch_axis, batch_size', BEAM_CASES)
def test_beam_search_equals_a_search_over_prefixes(
  k, max_decode_len, alpha, batch_axis, batch_size
):
  decode = jitted(
    decoding.beam_search,
    batch_size,
    batch_axis,
    max_decode_len=max_decode_len,
    num_decodes=k,
    alpha=alpha,
  )
  # The biases range from an EOS that never comes to one that comes almost at once.
  for seed, eos_bias in enumerate([-20, -5, -3, -1, 0, 1, 2, 3, 4, 6]):
    rnn = random_rnn(seed, 9, batch_size, eos_bias)
    sequences, scores = decode(rnn)
    for i in range(batch_size):
      expected, _ = naive_beam_search(rnn, i, k, max_decode_len, alpha)
      missing = k - len(expected)
      expected_sequences = [padded(s, max_decode_len) for s, _ in expected]
      expected_sequences += [padded((), max_decode_len)] * missing
      expected_scores = [score for _, score in expected] + [-1e7] * missing
      assert sequences[i].tolist() == expected_sequences
      assert_close(scores[i], expected_scores)


def test_beam_search_wide_enough_is_exhaustive():
  rnn = random_rnn(seed=5, vocab_size=3, batch_size=2)
  decode = jitted(decoding.beam_search, 2, max_decode_len=3, num_decodes=8)
  sequences, scores = decode(rnn)
  every = [
    (*prefix, EOS) for n in range(3) for prefix in itertools.product([0, 2], repeat=n)
  ]
  for i in range(2):
    expected = {s: sum_log_probs(rnn, i, s) / penalty(len(s), 0.6) for s in every}
    expected = best(expected, 8)
    # Seven sequences exist, so that the eighth beam is empty.
    assert sequences[i].tolist() == [*(padded(s, 3) for s in expected), [0, 0, 0]]
    assert_close(scores[i], [*expected.values(), -1e7])


def test_a_single_beam_without_eos_is_greedy():
  rnn = random_rnn(seed=0, vocab_size=9, batch_size=3, eos_bias=-20.0)
  beam_search = jitted(decoding.beam_search, 3, max_decode_len=6, num_decodes=1)
  sequences, scores = beam_search(rnn)
  for i in range(3):
    expected = naive_greedy(rnn, i, 6)
    assert sequences[i, 0].tolist() == expected
    assert_close(scores[i, 0], sum_log_probs(rnn, i, expected))


@pytest.mark.parametrize('batch_axis', [0, 1])
def test_beam_scores_are_penalised_log_probs_and_fall(batch_axis):
  decode = jitted(
    decoding.beam_search, 3, batch_axis, max_decode_len=7, num_decodes=4, alpha=0.6
  )
  rnn = random_rnn(seed=3, vocab_size=9, batch_size=3, eos_bias=3.0)
  sequences, scores = decode(rnn)
  assert sequences.shape == (3, 4, 7)
  assert sequences.dtype == jnp.int32
  assert scores.dtype == jnp.float32
  for i, j in itertools.product(range(3), range(4)):
    sequence = sequences[i, j].tolist()
    length = sequence.index(EOS) + 1
    assert not any(sequence[length:])
    expected = sum_log_probs(rnn, i, sequence) / penalty(length, 0.6)
    assert_close(scores[i, j], expected)
  assert (np.diff(scores, axis=1) <= 0).all()


def test_beam_search_stops_when_no_live_beam_can_improve():
  rnn = random_rnn(seed=1, vocab_size=9, batch_size=2, eos_bias=5.0)
  steps = []
  decoding.beam_search(
    rnn_step_fn(rnn, 0, lambda index: steps.append(int(index))),
    rnn_state(rnn, 0),
    decoding.DecodeSettings(batch_size=2, max_decode_len=20, eos_id=EOS),
    num_decodes=3,
    alpha=0.6,
  )
  jax.effects_barrier()
  needed = [naive_beam_search(rnn, i, 3, 20, 0.6)[1] for i in range(2)]
  assert 3 < max(needed) < 20
  assert sorted(steps) == list(range(max(needed)))


@pytest.mark.parametrize(
  'narrowing',
  [
    {'temperature': 0.0},
    {'temperature': 1e-6},
    {'temperature': 2e-4},
    {'top_k': 1},
    {'top_p': 1e-6},
    {'top_k': 3, 'top_p': 1e-6, 'temperature': 5.0},
  ],
)
def test_sampling_from_the_top_token_alone_is_greedy(narrowing):
  rnn = random_rnn(seed=2, vocab_size=7, batch_size=3, eos_bias=1.0)
  narrow = decoding.Narrowing(**narrowing)
  decode = jitted(decoding.sample, 3, 1, max_decode_len=8, num_decodes=2, narrowing=narrow)
  tokens, scores = decode(rnn, rng=jax.random.key(0))
  for i, j in itertools.product(range(3), range(2)):
    expected = naive_greedy(rnn, i, 8)
    assert tokens[i, j].tolist() == expected
    assert_close(scores[i, j], sum_log_probs(rnn, i, expected))


@pytest.mark.parametrize('batch_axis', [0, 1])
def test_sample_scores_are_the_models_log_probs(batch_axis):
  rnn = random_rnn(seed=6, vocab_size=7, batch_size=3, eos_bias=1.0)
  decode = jitted(
    decoding.sample,
    3,
    batch_axis,
    max_decode_len=8,
    num_decodes=4,
    narrowing=decoding.Narrowing(temperature=2.0, top_k=5, top_p=0.9),
  )
  tokens, scores = decode(rnn, rng=jax.random.key(0))
  assert tokens.shape == (3, 4, 8)
  assert tokens.dtype == jnp.int32
  assert scores.dtype == jnp.float32
  for i, j in itertools.product(range(3), range(4)):
    sequence = tokens[i, j].tolist()
    expected = sum_log_probs(rnn, i, sequence)
    assert_close(scores[i, j], expected)
    assert not any(itertools.islice(sequence, (*sequence, EOS).index(EOS) + 1, None))


def test_sampling_is_a_function_of_the_key():
  rnn = random_rnn(seed=6, vocab_size=7, batch_size=3, eos_bias=-20.0)
  decode = jitted(decoding.sample, 3, max_decode_len=8, num_decodes=4)
  tokens, _ = decode(rnn, rng=jax.random.key(0))
  again, _ = decode(rnn, rng=jax.random.key(0))
  other, _ = decode(rnn, rng=jax.random.key(1))
  np.testing.assert_array_equal(tokens, again)
  assert (tokens != other).any()
  # The samples of one row are not copies of each other.
  assert len({tuple(row) for row in tokens[0].tolist()}) == 4


PROBS = np.array([0.05, 0.05, 0.1, 0.2, 0.25, 0.35])


def draw_fixed(batch_size, max_decode_len=1, rng=None, num_decodes=1, **narrowing):
  """Samples from PROBS at every position, without a state and without an EOS."""
  settings = decoding.DecodeSettings(batch_size, max_decode_len, eos_id=-1)
  step_fn = lambda tokens, state, index: (
    jnp.broadcast_to(jnp.log(PROBS), (*tokens.shape, 6)).astype(jnp.float32),
    state,
  )
  rng = jax.random.key(0) if rng is None else rng
  narrow = decoding.Narrowing(**narrowing)
  tokens, _ = decoding.sample(
    step_fn, {}, settings, rng=rng, narrowing=narrow, num_decodes=num_decodes
  )
  return np.asarray(tokens)


def assert_frequencies(draws, probs):
  """Checks that counts are within five standard deviations of their expectation."""
  draws = draws.ravel()
  frequencies = np.bincount(draws, minlength=len(probs)) / draws.size
  bound = 5 * np.sqrt(probs * (1 - probs) / draws.size)
  assert (np.abs(frequencies - probs) <= bound).all(), (frequencies, probs)


@pytest.mark.parametrize(
  'kwargs, weights',
  [
    ({}, PROBS),
    ({'temperature': 0.5}, PROBS**2),
    ({'top_k': 2}, [0, 0, 0, 0, 0.25, 0.35]),
    ({'top_k': 100}, PROBS),
    ({'top_p': 1.0}, PROBS),
    # The smallest set of at least 0.7: 0.35 + 0.25 falls short.
    ({'top_p': 0.7}, [0, 0, 0, 0.2, 0.25, 0.35]),
    # 0.35 is 0.583 of the remaining 0.6, so one token is enough.
    ({'top_k': 2, 'top_p': 0.5}, [0, 0, 0, 0, 0, 1]),
    # At temperature 0.5, 0.35² is 0.49 of the sum and 0.25² a further 0.25.
    ({'temperature': 0.5, 'top_p': 0.7}, [0, 0, 0, 0, 0.25**2, 0.35**2]),
  ],
)
def test_sample_frequencies_are_the_distribution(kwargs, weights):
  weights = np.asarray(weights)
  draws = draw_fixed(batch_size=4, num_decodes=2500, rng=jax.random.key(0), **kwargs)
  assert_frequencies(draws, weights / weights.sum())


@pytest.mark.parametrize(
  'narrowing',
  [
    {'temperature': 0.5, 'top_k': 0, 'top_p': 0.0},
    {'temperature': 0.7, 'top_k': 3, 'top_p': 0.0},
    {'temperature': 2.0, 'top_k': 0, 'top_p': 0.7},
    {'temperature': 1.0, 'top_k': 4, 'top_p': 0.8},
  ],
)
def test_one_program_serves_all_settings_of_sampling(narrowing):
  traced = {k: jnp.asarray(value) if value else value for k, value in narrowing.items()}
  common = {'batch_size': 2, 'num_decodes': 500, 'rng': jax.random.key(1)}
  np.testing.assert_array_equal(
    draw_fixed(**common, **traced, most=6 if narrowing['top_p'] else 0),
    draw_fixed(**common, **narrowing, most=6 if narrowing['top_p'] else 0),
  )


def test_a_row_with_a_key_of_its_own_draws_the_same_in_any_batch():
  keys = jax.random.split(jax.random.key(3), 4)
  together = draw_fixed(4, 5, rng=keys, num_decodes=3)
  alone = [draw_fixed(1, 5, rng=keys[row : row + 1], num_decodes=3) for row in range(4)]
  np.testing.assert_array_equal(together, np.concatenate(alone))
  assert len({row.tobytes() for row in together}) == 4


def test_a_traced_limit_ends_decoding_as_a_shorter_batch_does():
  rnn = random_rnn(seed=6, vocab_size=7, batch_size=3, eos_bias=-1.0)

  @jax.jit
  def searched(rnn, limit):
    settings = decoding.DecodeSettings(3, 8, EOS, limit=limit)
    return decoding.beam_search(rnn_step_fn(rnn, 0), rnn_state(rnn, 0), settings)

  expected = jitted(decoding.beam_search, 3, max_decode_len=5)(rnn)
  tokens, scores = searched(rnn, jnp.int32(5))
  np.testing.assert_array_equal(tokens[..., :5], expected[0])
  assert not tokens[..., 5:].any()
  assert_close(scores, expected[1])


def test_draws_of_decodes_and_of_positions_are_independent():
  draws = draw_fixed(
    max_decode_len=2, batch_size=5000, num_decodes=2, rng=jax.random.key(0)
  )
  joint = np.outer(PROBS, PROBS).ravel()
  assert_frequencies(draws[:, 0, 0] * 6 + draws[:, 1, 0], joint)
  assert_frequencies(draws[:, 0, 0] * 6 + draws[:, 0, 1], joint)
  assert_frequencies(draws[:-1, 0, 0] * 6 + draws[1:, 0, 0], joint)


@pytest.mark.parametrize('batch_axis', [0, 1])
def test_expand_beams_puts_an_examples_decodes_side_by_side(batch_axis):
  examples = np.arange(24).reshape(2, 3, 4)
  leaf = np.moveaxis(examples, 0, batch_axis)
  expanded = decoding.expand_beams({'leaf': leaf, 'none': {}}, 3, batch_axis)
  assert expanded['none'] == {}
  rows = np.moveaxis(np.asarray(expanded['leaf']), batch_axis, 0)
  assert rows.shape == (6, 3, 4)
  for i, j in itertools.product(range(2), range(3)):
    np.testing.assert_array_equal(rows[i * 3 + j], examples[i])


def test_length_penalty_is_gnmts():
  lengths = jnp.array([1, 7, 13])
  expected = [1.0, 2**0.6, 3**0.6]
  np.testing.assert_allclose(decoding.length_penalty(lengths, 0.6), expected, rtol=1e-6)


@pytest.mark.parametrize(
  'kwargs', [{'temperature': -1.0}, {'top_k': -1}, {'top_p': 1.1}, {'top_p': -0.1}]
)
def test_sample_refuses_what_is_out_of_range(kwargs):
  with pytest.raises(ValueError, match='negative'):
    draw_fixed(batch_size=1, **kwargs)


def test_beam_search_refuses_a_negative_alpha():
  step_fn = rnn_step_fn(random_rnn(0, 5, 1), 0)
  with pytest.raises(ValueError, match='alpha'):
    decoding.beam_search(step_fn, {}, decoding.DecodeSettings(1, 2, EOS), alpha=-0.6)
