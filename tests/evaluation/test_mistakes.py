"""The tables of mistakes: what is confused, and of what the model is surest."""

import types

from hyperprompt_jax.evaluation import mistakes
from hyperprompt_jax.inference.answers import Answer, Score


def answer(text, log_likelihood=-1.0):
  return Answer(text, log_likelihood, (), True, False)


def test_confusion_counts_answers_by_target_and_prediction():
  targets = ['yes', 'yes', 'no', 'no', 'no']
  answers = [answer(text) for text in ('yes', 'no', 'no', 'maybe', 'no')]
  # A row for each target, and a last column for answers that are no label.
  assert mistakes._confusion(('no', 'yes'), targets, answers) == [[2, 0, 1], [1, 1, 0]]


def test_the_wrongest_answers_are_those_the_model_is_surest_of():
  likelihoods = {'a': -9.0, 'b': -2.0, 'c': -5.0}
  predictor = types.SimpleNamespace(
    score=lambda task, inputs, targets: [Score(likelihoods[x], 1, False) for x in inputs]
  )
  wrong = [(x, 'right', answer('wrong', -1.0)) for x in likelihoods]
  listed = mistakes._wrongest(predictor, 'task', wrong, 2)
  assert [m.inputs for m in listed] == ['a', 'c']
  assert (listed[0].log_likelihood, listed[0].target_log_likelihood) == (-1.0, -9.0)
  assert mistakes._wrongest(predictor, 'task', wrong, 0) == []
