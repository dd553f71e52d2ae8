"""Metric functions, all x 100 (spec 6).

SeqIO takes a function of exactly `(targets, predictions)`: sequences of what a task's
postprocessor returns. Each returns {metric: value}.
"""

import collections
import re
import string
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

_PUNCTUATION = str.maketrans('', '', string.punctuation)


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns `accuracy`: the share of predictions that equal their target."""
  equal = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'accuracy': 100 * float(np.mean(equal))}


def matthews_corrcoef(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns `matthews_corrcoef` over all values that occur, -1 among them.

  So one invalid prediction makes it the generalization to three classes. Where all
  predictions are equal it is 0.
  """
  value = sklearn_metrics.matthews_corrcoef(targets, predictions)
  return {'matthews_corrcoef': 100 * float(value)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `f1`: F1 of class 1; a prediction that is no class counts as the wrong one."""
  target, predicted = np.asarray(targets), np.asarray(predictions)
  predicted = np.where(np.isin(predicted, (0, 1)), predicted, 1 - target)
  return {'f1': 100 * _class_f1(target, predicted, 1)}


def pearson_corrcoef(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns `pearson_corrcoef`: not a number where all predictions are equal."""
  return {'pearson_corrcoef': _correlation(stats.pearsonr, targets, predictions)}


def spearman_corrcoef(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns `spearman_corrcoef`: not a number where all predictions are equal."""
  return {'spearman_corrcoef': _correlation(stats.spearmanr, targets, predictions)}


def _correlation(
  of: Callable[..., Any], targets: Sequence[float], predictions: Sequence[float]
) -> float:
  if len(targets) < 2:  # at which SciPy raises
    return float('nan')
  return 100 * float(of(targets, predictions).statistic)


def mean_3class_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `mean_3class_f1`: the plain mean of the F1 of classes 0, 1 and 2.

  A class that neither side has counts as 0; an invalid prediction is in no class.
  """
  scores = [_class_f1(np.asarray(targets), np.asarray(predictions), c) for c in (0, 1, 2)]
  return {'mean_3class_f1': 100 * float(np.mean(scores))}


def multirc_f1(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns `f1`: F1 of class 1 over all answers (F1a of MultiRC).

  A prediction that is no class counts as the wrong one.
  """
  return f1([t['value'] for t in targets], [p['value'] for p in predictions])


def multirc_exact_match(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns `exact_match`: the share of questions with every answer judged right."""
  right: dict[Hashable, bool] = collections.defaultdict(lambda: True)
  for target, predicted in zip(targets, predictions, strict=True):
    right[target['group']] &= target['value'] == predicted['value']
  return {'exact_match': 100 * float(np.mean(list(right.values())))}


def record_em_and_f1(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns ReCoRD's `em` and `f1`: the best over a query's answers, mean of queries.

  A query has one example per answer, all with the same inputs; the first one counts.

  Raises:
    ValueError: a query has no answers, as in the test split.
  """
  queries: dict[Hashable, tuple[list[str], str]] = {}
  for target, predicted in zip(targets, predictions, strict=True):
    queries.setdefault(target['group'], (target['value'], predicted['value']))
  exact = [_best(_exact_match, *query) for query in queries.values()]
  overlap = [_best(_token_f1, *query) for query in queries.values()]
  return {'em': 100 * float(np.mean(exact)), 'f1': 100 * float(np.mean(overlap))}


def _class_f1(target: np.ndarray, predicted: np.ndarray, class_id: int) -> float:
  hits = np.sum((target == class_id) & (predicted == class_id))
  total = np.sum(target == class_id) + np.sum(predicted == class_id)
  return float(2 * hits / total) if total else 0.0


def _best(score: Callable[[str, str], float], answers: list[str], predicted: str) -> float:
  if not answers:
    raise ValueError('a ReCoRD query without answers (the test split) has no score')
  return max(score(_normalize(a), _normalize(predicted)) for a in answers)


def _exact_match(answer: str, predicted: str) -> float:
  return float(answer == predicted)


def _token_f1(answer: str, predicted: str) -> float:
  words, others = answer.split(), predicted.split()
  shared = sum((collections.Counter(words) & collections.Counter(others)).values())
  return 2 * shared / (len(words) + len(others)) if shared else 0.0


def _normalize(text: str) -> str:
  # Punctuation goes before articles: SQuAD's order, which makes `a.` an article.
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())
