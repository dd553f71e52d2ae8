"""Arrays that programs return, as answers."""

import functools
from collections.abc import Callable

import numpy as np

from hyperprompt_jax.inference.answers import Answer
from hyperprompt_jax.inference.batches import LabelSet, Question
from hyperprompt_jax.inference.tokenizer import Tokenizer

# A candidate below this log likelihood does not exist.
_NONE = -1e6


def generated(
  question: Question,
  tokens: np.ndarray,
  likelihoods: np.ndarray,
  limit: int,
  tokenizer: Tokenizer,
) -> Answer:
  """Returns the first candidate of a question; the others are its alternatives.

  Args:
    question: is the question.
    tokens: are the tokens of its candidates, `[N, P]`.
    likelihoods: are their log likelihoods, `[N]`.
    limit: is the most tokens of an answer.
    tokenizer: is the vocabulary.
  """
  candidates = [
    _candidate(question, row[:limit].tolist(), float(likelihood), tokenizer)
    for row, likelihood in zip(tokens, likelihoods, strict=True)
    if likelihood > _NONE
  ]
  return candidates[0](alternatives=tuple(other() for other in candidates[1:]))


def _candidate(
  question: Question, tokens: list[int], likelihood: float, tokenizer: Tokenizer
) -> Callable[..., Answer]:
  finished = tokenizer.eos_id in tokens
  kept = tokens[: tokens.index(tokenizer.eos_id) + 1] if finished else tokens
  return functools.partial(
    Answer,
    tokenizer.decode(kept),
    likelihood,
    tuple(kept),
    finished,
    question.truncated,
    question.unknown,
  )


def ranked(question: Question, labels: LabelSet, likelihoods: np.ndarray) -> Answer:
  """Returns the likeliest label; the others are its alternatives.

  Args:
    question: is the question.
    labels: are the labels.
    likelihoods: are their log likelihoods, `[N]`.
  """
  make = lambda row, others=(): Answer(
    labels.texts[row],
    float(likelihoods[row]),
    tuple(labels.tokens[row]),
    True,
    question.truncated,
    question.unknown,
    others,
  )
  best, *others = np.argsort(-likelihoods, kind='stable').tolist()
  return make(best, tuple(make(row) for row in others))
