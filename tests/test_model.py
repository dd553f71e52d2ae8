"""Sums of the loss, and predictions, compared with scores."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from hyperprompt_jax import decoding
from hyperprompt_jax.data import features
from tests import slow, tiny


def test_loss_counts_target_tokens_only_and_splits_by_task():
  m, batch = tiny.model(), tiny.batch(rows=6)
  params = tiny.init(m)
  loss, sums = jax.jit(lambda b: m.loss(params, b, None))(batch)
  assert sums['tokens'] == (batch['decoder_target_tokens'] > 0).sum()
  assert sums['examples'] == 6
  np.testing.assert_allclose(sums['task_loss'].sum(), loss, rtol=1e-6)
  for task in range(len(tiny.TASKS)):
    rows = np.asarray(batch['task_ids'])[:, 0] == task
    part = {name: x[rows] for name, x in batch.items()}
    np.testing.assert_allclose(
      sums['task_loss'][task], tiny.loss(m, params, part), rtol=1e-5
    )
    assert sums['task_tokens'][task] == (part['decoder_target_tokens'] > 0).sum()


def test_score_is_the_log_likelihood_of_the_targets():
  m, batch = tiny.model(), tiny.batch()
  params = tiny.init(m)
  scores = jax.jit(m.score)(params, tiny.condition(m, params), batch)
  log_probs = jax.nn.log_softmax(tiny.logits(m, params, batch))
  for row in range(4):
    want = sum(
      float(log_probs[row, i, token])
      for i, token in enumerate(batch['decoder_target_tokens'][row])
      if token > 0
    )
    np.testing.assert_allclose(scores[row], want, rtol=1e-5)


def _predict(m, params, batch, length):
  predict = jax.jit(m.predict, static_argnums=3)
  return np.asarray(predict(params, tiny.condition(m, params), batch, length))


SEARCHES = {
  'greedy': decoding.greedy,
  'beams': functools.partial(decoding.beam_search, num_decodes=3),
  'samples': functools.partial(decoding.sample, rng=jax.random.key(3), num_decodes=2),
}


@pytest.mark.parametrize('scan_layers', slow.all_but([True], [True, False]))
@pytest.mark.parametrize('name', SEARCHES)
def test_searches_on_tpus_find_what_those_on_cpus_do(monkeypatch, name, scan_layers):
  """On TPUs layers are in a loop, and candidates share the cache of their row."""
  m = tiny.model(tiny.VARIANTS['lengths_and_offsets'], scan_layers=scan_layers)
  params, batch = tiny.init(m, 4), tiny.batch()
  conditioning, results = tiny.condition(m, params), {}
  for platform in ('cpu', 'tpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda platform=platform: platform)
    settings = decoding.DecodeSettings(4, 7, m.config.eos_id, m.cache_batch_axis)

    def search(platform=platform, settings=settings):
      step, state = m.start_search(params, conditioning, batch, 7)
      assert isinstance(state, decoding.InPlace) == (platform == 'tpu')
      return SEARCHES[name](step, state, settings)

    results[platform] = jax.jit(search)()
  np.testing.assert_array_equal(results['tpu'][0], results['cpu'][0])
  np.testing.assert_allclose(results['tpu'][1], results['cpu'][1], atol=1e-4)
  assert len({*np.ravel(results['cpu'][0])}) > 5  # different tokens


def test_greedy_predictions_are_the_argmax_of_teacher_forcing():
  m = tiny.model(tiny.hyperprompt(stacks='both'))
  # With this seed no row predicts padding, whose place the targets would take.
  params, batch = tiny.init(m, 4), tiny.batch()
  predicted = _predict(m, params, batch, 7)
  targets = np.where(predicted == 0, 5, predicted)
  forced = {
    **batch,
    'decoder_target_tokens': jnp.asarray(targets),
    'decoder_input_tokens': jnp.pad(jnp.asarray(targets), ((0, 0), (1, 0)))[:, :-1],
  }
  best = np.asarray(jnp.argmax(tiny.logits(m, params, forced), axis=-1))
  for row in range(4):
    ends = np.flatnonzero(predicted[row] == m.config.eos_id)
    length = ends[0] + 1 if len(ends) else 7
    np.testing.assert_array_equal(predicted[row, :length], best[row, :length])
    assert (predicted[row, length:] == 0).all()


def test_rows_of_padding_are_predicted_to_end_at_once():
  first_tokens = lambda step, cache, settings: (
    jnp.argmax(step(jnp.zeros(settings.batch_size, jnp.int32), cache, jnp.int32(0))[0], -1)[
      :, None
    ],
    jnp.zeros(settings.batch_size),
  )
  m, batch = tiny.model(), tiny.batch(rows=2)
  params = tiny.init(m)
  m = dataclasses.replace(m, decode_fn=first_tokens)
  want = _predict(m, params, batch, 1)
  filled = _predict(m, params, features.fill_rows(batch, 4), 1)
  np.testing.assert_array_equal(filled[:2], want)
  assert filled[2:].tolist() == [[m.config.eos_id]] * 2


def test_beam_search_finds_predictions_at_least_as_likely_as_greedy():
  m = tiny.model()
  beam = functools.partial(decoding.beam_search, num_decodes=4, alpha=0.0)
  searching = dataclasses.replace(m, decode_fn=beam)
  params, batch = tiny.init(m, 2), tiny.batch()
  score = jax.jit(m.score)

  def likelihood(tokens):
    forced = {
      **batch,
      'decoder_target_tokens': jnp.asarray(tokens),
      'decoder_input_tokens': jnp.pad(jnp.asarray(tokens), ((0, 0), (1, 0)))[:, :-1],
      'decoder_loss_weights': jnp.asarray(tokens > 0, jnp.int32),
    }
    return np.asarray(score(params, tiny.condition(m, params), forced))

  greedy = likelihood(_predict(m, params, batch, 3))
  beams = likelihood(_predict(searching, params, batch, 3))
  assert (beams >= greedy - 1e-5).all()


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_each_beam_of_a_row_has_the_logits_of_teacher_forcing(monkeypatch, platform):
  """The caches and layers have different layouts on CPUs and on other devices."""
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  m, beams, length = tiny.model(tiny.hyperprompt(stacks='both')), 3, 5
  assert (m.cache_batch_axis == 0) == (platform == 'cpu')
  params, batch = tiny.init(m), tiny.batch()
  rng = np.random.default_rng(0)
  targets = jnp.asarray(rng.integers(2, tiny.VOCAB_SIZE, (4 * beams, length)), jnp.int32)
  inputs = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  forced = {name: jnp.repeat(x, beams, axis=0) for name, x in batch.items()}
  forced |= {'decoder_target_tokens': targets, 'decoder_input_tokens': inputs}
  conditioning = tiny.condition(m, params)

  @jax.jit
  def decoded():
    step, cache = m.start_decoding(params, conditioning, batch, length)
    cache = decoding.expand_beams(cache, beams, m.cache_batch_axis)
    take = lambda cache, given: step(given[0], cache, given[1])[::-1]
    _, results = jax.lax.scan(take, cache, (inputs.T, jnp.arange(length)))
    return jnp.swapaxes(results, 0, 1)

  np.testing.assert_allclose(decoded(), tiny.logits(m, params, forced), atol=1e-4)


def test_a_vocabulary_larger_than_the_embedding_is_named():
  with pytest.raises(ValueError, match=r'259 ids but Config\.vocab_size is 48'):
    tiny.config().check_vocabulary(seqio.ByteVocabulary())


@pytest.mark.parametrize('method', ['hyperprompt_global', 'prompt_tuning'])
def test_ranks_are_the_scores_of_every_label(method):
  model = tiny.model(tiny.METHODS[method])
  params, batch = tiny.init(model), tiny.batch()
  conditioning = tiny.condition(model, params)
  labels = np.array([[7, 3, 1, 0], [5, 1, 0, 0], [7, 3, 9, 1]], np.int32)
  inputs = {name: batch[name] for name in ('encoder_input_tokens', 'task_ids')}
  ranks = jax.jit(model.rank)(params, conditioning, inputs, labels)
  assert ranks.shape == (4, 3) and ranks.dtype == jnp.float32
  score = jax.jit(model.score)
  for column, label in enumerate(labels):
    targets = np.tile(label, (4, 1))
    rows = {
      **inputs,
      'decoder_target_tokens': targets,
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_loss_weights': (targets > 0).astype(np.int32),
    }
    np.testing.assert_allclose(
      ranks[:, column], score(params, conditioning, rows), rtol=1e-5
    )


def test_padding_that_is_cut_changes_no_score():
  m, batch = tiny.model(tiny.hyperprompt(stacks='both')), tiny.batch()
  params = tiny.init(m)
  inputs = batch['encoder_input_tokens']
  padded = {**batch, 'encoder_input_tokens': jnp.pad(inputs, ((0, 0), (0, 64)))}
  cut = features.cut_padding({name: np.asarray(x) for name, x in padded.items()})
  assert inputs.shape[1] <= cut['encoder_input_tokens'].shape[1] == 64
  score = jax.jit(m.score)
  scores = [
    score(params, tiny.condition(m, params), inputs_variant)
    for inputs_variant in (padded, cut)
  ]
  np.testing.assert_allclose(*scores, rtol=1e-5)
