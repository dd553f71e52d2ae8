"""Answers of a loaded model: they depend on the question, and not on its batch."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest

from hyperprompt_jax import model
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference import batches
from hyperprompt_jax.inference.tokenizer import ByteTokenizer
from hyperprompt_jax.methods import SingleTask
from tests import slow, tiny
from tests.inference import made

METHODS = {**tiny.METHODS, 'single_task': SingleTask()}
# The last one is longer than the others, and is cut.
QUESTIONS = [('a', 'abc'), ('c', 'abc'), ('d', 'a longer one'), ('b', 'x' * 40)]


@pytest.fixture(scope='module')
def predictor():
  return made.predictor()


def same(one, other):
  assert (one.text, one.tokens, one.finished) == (other.text, other.tokens, other.finished)
  assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)
  for left, right in zip(one.alternatives, other.alternatives, strict=True):
    same(left, right)


# That each method answers the same once it is folded is shown in tests/methods.
@pytest.mark.parametrize('method', slow.all_but(['hyperprompt_global'], METHODS))
def test_a_mixed_batch_answers_as_one_question_at_a_time_does(method):
  model = made.predictor(METHODS[method])
  for options in ({}, {'num_decodes': 3}):
    together = model.predict(QUESTIONS, **options)
    assert [a.truncated_inputs for a in together] == [False, False, False, True]
    alone = [model.predict([question], **options)[0] for question in QUESTIONS[:3]]
    for one, other in zip(together[:3], alone, strict=True):
      same(one, other)
    # The first two differ in their task alone.
    differ = abs(together[0].log_likelihood - together[1].log_likelihood) > 1e-3
    assert differ == (method not in ('mtl', 'single_task'))


# No beam of the first input has ended, and one of the second, which leaves out the others.
@pytest.mark.parametrize(('text', 'number'), [('hello', 4), ('abc', 1)])
def test_candidates_have_the_likelihood_of_their_tokens(predictor, text, number):
  (greedy,) = predictor.predict('a', [text])
  (beams,) = predictor.predict('a', [text], num_decodes=4, alpha=0.0)
  candidates = [beams, *beams.alternatives]
  likelihoods = [c.log_likelihood for c in candidates]
  assert likelihoods == sorted(likelihoods, reverse=True)
  assert len(likelihoods) == len({*likelihoods}) == number
  assert likelihoods[0] >= greedy.log_likelihood - 1e-5
  # Texts that bytes can say are scored by the other program, which sees all tokens at once.
  exact = [c for c in candidates if made_of(c.text) == c.tokens]
  assert bool(exact) == beams.finished
  for candidate in exact:
    (score,) = predictor.score('a', [text], [candidate.text])
    assert score.log_likelihood == pytest.approx(candidate.log_likelihood, abs=1e-4)
    assert score.num_tokens == len(candidate.tokens)


def made_of(text):
  return (*ByteTokenizer().encode(text), 1)


def test_ranking_takes_the_likeliest_label(predictor):
  texts = ['abc', 'is it?', 'x' * 40]
  ranked = predictor.rank('a', texts)
  for text, answer in zip(texts, ranked, strict=True):
    scores = predictor.score('a', [text] * 3, made.LABELS)
    expected = {
      label: score.log_likelihood for label, score in zip(made.LABELS, scores, strict=True)
    }
    likelihoods = {a.text: a.log_likelihood for a in (answer, *answer.alternatives)}
    assert likelihoods == pytest.approx(expected, abs=1e-5)
    assert answer.text == max(expected, key=expected.__getitem__)
    assert answer.tokens == made_of(answer.text) and answer.finished
  assert [a.truncated_inputs for a in ranked] == [False, False, True]
  assert predictor.labels('a') == tuple(made.LABELS) and predictor.labels('b') is None
  (own,) = predictor.rank('b', ['abc'], ['left', 'right'])
  assert {own.text, own.alternatives[0].text} == {'left', 'right'}
  with pytest.raises(UserError, match='task b has no labels of its own'):
    predictor.rank('b', ['abc'])


def test_samples_depend_on_seed_and_place_alone(predictor):
  options = {'temperature': 1.5, 'top_k': 50, 'top_p': 0.95, 'num_decodes': 2}
  first = predictor.predict(QUESTIONS[:3], seed=3, **options)
  again = predictor.predict([*QUESTIONS[:3], ('b', 'another')], seed=3, **options)
  assert [a.tokens for a in first] == [a.tokens for a in again[:3]]
  other = predictor.predict(QUESTIONS[:3], seed=4, **options)
  assert [a.tokens for a in first] != [a.tokens for a in other]
  assert first[0].tokens != first[0].alternatives[0].tokens
  # Cold draws are the greedy answer, and the likelihood is the model's own.
  cold = predictor.predict(QUESTIONS[:3], **{**options, 'temperature': 1e-5})
  for one, greedy in zip(cold, predictor.predict(QUESTIONS[:3]), strict=True):
    same(dataclasses.replace(one, alternatives=()), greedy)


def test_an_answer_has_no_more_tokens_than_asked(predictor):
  (whole,) = predictor.predict('a', ['abc'])
  (cut,) = predictor.predict('a', ['abc'], max_length=3)
  assert cut.tokens == whole.tokens[:3] and len(whole.tokens) <= 6
  assert cut.finished == (1 in cut.tokens)
  (longer,) = predictor.predict('a', ['abc'], max_length=9)
  assert longer.tokens[: len(whole.tokens)] == whole.tokens


def test_a_sequence_gives_a_list_and_an_iterable_is_read_as_it_is_answered(predictor):
  read = []

  def texts():
    for number in range(1000):
      read.append(number)
      yield f'n {number}'

  answers = predictor.predict('a', texts())
  assert read == [] and next(answers).text is not None
  assert len(read) < 100
  listed = predictor.predict('a', (f'n {number}' for number in range(1)))
  assert not isinstance(listed, list)
  assert predictor.predict('a', []) == []
  assert isinstance(predictor.predict('a', ('x',)), list)


def test_threads_do_not_disturb_each_other(predictor):
  calls = [[(task, f'{task} {n}') for task in predictor.tasks] for n in range(6)]
  expected = [predictor.predict(questions) for questions in calls]
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    answered = list(pool.map(predictor.predict, calls))
  for one, other in zip(answered, expected, strict=True):
    assert [a.tokens for a in one] == [a.tokens for a in other]


def test_the_encoding_of_a_text_depends_on_the_task_alone(predictor):
  (alone,) = predictor.encode('a', ['abc'])
  together = predictor.encode('a', ['abc', 'a longer one'])
  assert alone.shape == (4, 16) and alone.dtype == np.float32
  assert together[1].shape == (13, 16)
  np.testing.assert_allclose(alone, together[0], atol=1e-5)
  (other,) = predictor.encode('b', ['abc'])
  assert np.abs(alone - other).max() > 1e-3


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda m: m.predict('z', ['x']), "task 'z' is not one of this model"),
    (lambda m: m.predict('z', []), "task 'z' is not one of this model"),
    (lambda m: m.predict('a', 'x'), 'give the texts in a list'),
    (lambda m: m.predict('a'), 'give the texts in a list'),
    (lambda m: m.predict('a', [3]), 'an input must be a text, not 3'),
    (lambda m: m.predict(['a', 'b']), "pairs of a task and a text, not 'a'"),
    (lambda m: m.predict('a', ['x'], num_decodes=0), 'num_decodes must be an integer from'),
    (lambda m: m.predict('a', ['x'], temperature=-1), 'temperature must be a number from'),
    (lambda m: m.predict('a', ['x'], top_k=3), 'give a temperature above 0, too'),
    (lambda m: m.predict('a', ['x'], max_length=0), 'max_length must be an integer from 1'),
    (lambda m: m.predict('a', ['x'], beams=3), 'predict has no such option'),
    (lambda m: m.score('a', ['x'], []), 'there are 1 inputs and 0 targets'),
    (lambda m: m.score('a', ['x'], [None]), 'a target must be a text'),
    (lambda m: m.encode('z', ['x']), "task 'z' is not one"),
  ],
)
def test_mistakes_are_one_line(predictor, call, message):
  with pytest.raises(UserError, match=message) as error:
    call(predictor)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('number', 'most', 'least', 'expected'),
  [(1, 24, 16, 16), (17, 24, 16, 24), (17, 512, 16, 32), (64, 512, 16, 64), (5, 6, 1, 6)],
)
def test_sizes_are_powers_of_two_up_to_the_largest(number, most, least, expected):
  assert batches.size(number, most, least) == expected


def test_a_batch_is_as_large_as_what_is_asked():
  question = batches.Question(0, [5] * 20)
  shapes = {n: batches.inputs_of([question] * n, 24) for n in (1, 2, 3, 5)}
  assert [x['encoder_input_tokens'].shape for x in shapes.values()] == [
    (1, 24),
    (2, 24),
    (4, 24),
    (8, 24),
  ]
  assert batches.inputs_of([question], 24, least_rows=4)['task_ids'].shape == (4, 1)


def test_prompts_that_are_too_large_to_keep_are_made_for_each_batch(predictor, monkeypatch):
  monkeypatch.setattr(model, 'LARGEST_FOLDED', 0)
  other = made.predictor()
  assert other.engine._conditioning is None
  texts = ['abc', 'a longer one']
  for one, kept in zip(other.encode('c', texts), predictor.encode('c', texts), strict=True):
    np.testing.assert_allclose(one, kept, atol=1e-5)
  (mass,) = other.attention([other.question('c', 'abc')])
  (kept,) = predictor.attention([predictor.question('c', 'abc')])
  np.testing.assert_allclose(mass, kept, atol=1e-5)
  same(other.predict('c', texts)[1], predictor.predict('c', texts)[1])


def test_rows_of_about_the_same_length_share_a_batch():
  assert [*batches.by_length([3, 9, 1, 7, 8], 2)] == [[1, 4], [3, 0], [2]]
  assert [*batches.by_length([], 2)] == []
