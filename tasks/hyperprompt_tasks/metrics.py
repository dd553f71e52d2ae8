"""Metrics of classes, numbers and groups, all x 100 but for errors.

Section 6 of docs/reference/task_specification.md defines those of SuperGLUE and GLUE,
which are T5's. SeqIO takes a function of exactly `(targets, predictions)`, sequences of the
values that a task's postprocessor returns. Each function returns `{metric: value}`.
"""

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperprompt_tasks import text_metrics


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns `accuracy`: the share of predictions that equal their target."""
  equal = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'accuracy': 100 * float(np.mean(equal))}


def matthews_corrcoef(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns `matthews_corrcoef` over all values that occur, -1 among them.

  One invalid prediction therefore makes it the generalization to three classes. It is 0
  where all predictions are equal.
  """
  from sklearn import metrics  # here, as it takes a second and few tasks need it

  value = metrics.matthews_corrcoef(targets, predictions)
  return {'matthews_corrcoef': 100 * float(value)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `f1`: F1 of class 1; a prediction that is no class counts as the wrong one."""
  target, predicted = np.asarray(targets), np.asarray(predictions)
  predicted = np.where(np.isin(predicted, (0, 1)), predicted, 1 - target)
  return {'f1': 100 * _class_f1(target, predicted, 1)}


def pearson_corrcoef(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns `pearson_corrcoef`, which is not a number where all predictions are equal."""
  return {'pearson_corrcoef': _correlation('pearsonr', targets, predictions)}


def spearman_corrcoef(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns `spearman_corrcoef`, which is not a number where all predictions are equal."""
  return {'spearman_corrcoef': _correlation('spearmanr', targets, predictions)}


def mean_absolute_error(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns `mean_absolute_error` in the unit of the targets: lower is better."""
  errors = np.abs(np.asarray(targets) - np.asarray(predictions))
  return {'mean_absolute_error': float(np.mean(errors))}


def _correlation(
  name: str, targets: Sequence[float], predictions: Sequence[float]
) -> float:
  from scipy import stats  # here, as it takes a second and few tasks need it

  if len(targets) < 2:  # SciPy raises
    return float('nan')
  return 100 * float(getattr(stats, name)(targets, predictions).statistic)


def mean_class_f1(
  targets: Sequence[int], predictions: Sequence[int], num_classes: int
) -> float:
  """Returns the plain mean, x 100, of the F1 of classes 0 to `num_classes` - 1.

  A class that occurs on neither side counts as 0; an invalid prediction is in no class.
  """
  target, predicted = np.asarray(targets), np.asarray(predictions)
  scores = [_class_f1(target, predicted, c) for c in range(num_classes)]
  return 100 * float(np.mean(scores))


def mean_3class_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `mean_3class_f1`: `mean_class_f1` of three classes."""
  return {'mean_3class_f1': mean_class_f1(targets, predictions, 3)}


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
    ValueError: if a query has no answers, as in the test split.
  """
  queries: dict[Hashable, tuple[list[str], str]] = {}
  for target, predicted in zip(targets, predictions, strict=True):
    queries.setdefault(target['group'], (target['value'], predicted['value']))
  if not all(answers for answers, _ in queries.values()):
    raise ValueError('a ReCoRD query without answers (the test split) has no score')
  answers = [query[0] for query in queries.values()]
  predicted_texts = [query[1] for query in queries.values()]
  return {
    'em': text_metrics.exact_match(answers, predicted_texts)['exact_match'],
    'f1': text_metrics.f1(answers, predicted_texts)['f1'],
  }


def _class_f1(target: np.ndarray, predicted: np.ndarray, class_id: int) -> float:
  hits = np.sum((target == class_id) & (predicted == class_id))
  total = np.sum(target == class_id) + np.sum(predicted == class_id)
  return float(2 * hits / total) if total else 0.0
