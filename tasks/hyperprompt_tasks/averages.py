"""Scores of tasks and of a benchmark, from the metrics of its SeqIO tasks.

A score ranks checkpoints, so higher is better. Section 7 of
docs/reference/task_specification.md defines the averages.
"""

import math
from collections.abc import Mapping, Sequence

from hyperprompt_tasks import task_lists

# {SeqIO task: {metric: value}}, as seqio.Evaluator returns it.
AllMetrics = Mapping[str, Mapping[str, float]]

# A score counts these with a minus sign, and only where a task has no other metrics.
_LOWER_IS_BETTER = frozenset({'mean_absolute_error'})


def groups(name: str) -> dict[str, task_lists.Metrics]:
  """Returns the metrics that score each conditioned task of a SeqIO task or mixture.

  Conditioned tasks whose scoring SeqIO tasks are not members are left out.

  Args:
    name: is the name of a registered SeqIO task or mixture.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
  """
  members = set(task_lists.seqio_tasks(name))
  scores = task_lists.resolve(name).scores
  return {
    group: metrics
    for group, metrics in scores.items()
    if members.issuperset(task for task, _ in metrics)
  }


def task_scores(name: str, metrics: AllMetrics) -> dict[str, float]:
  """Returns the score of each conditioned task: the mean of its metrics.

  Args:
    name: is the name of a registered SeqIO task or mixture.
    metrics: are the metrics of its SeqIO tasks, x 100. A conditioned task that lacks
      one of its metrics gets no score. A metric that is not a number, such as the
      correlation of equal predictions, counts as 0.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
  """
  scores = {}
  for group, pairs in groups(name).items():
    scored = expanded(pairs, metrics)
    if scored and all(metric in metrics.get(task, {}) for task, metric in scored):
      scores[group] = _mean(
        [_value(metric, metrics[task][metric]) for task, metric in scored]
      )
  return scores


def expanded(pairs: Sequence[tuple[str, str]], metrics: AllMetrics) -> task_lists.Metrics:
  """Returns pairs of a SeqIO task and a metric, with ALL replaced by the metrics.

  ALL stands for every metric of a task of which higher is better, or, if it has no such
  metric, for its errors.

  Args:
    pairs: are the pairs that `groups` returns.
    metrics: ALL stands for nothing where a task has no metrics in here.
  """
  return tuple(
    (task, name)
    for task, metric in pairs
    for name in (_scoring(metrics.get(task, {})) if metric == task_lists.ALL else (metric,))
  )


def average(name: str, metrics: AllMetrics) -> float | None:
  """Returns the mean over the task scores of `name`, None unless all are there.

  Args:
    name: is the name of a registered SeqIO task or mixture.
    metrics: are the metrics of its SeqIO tasks, x 100.

  Raises:
    UnknownNameError: if nothing is registered under the name, or it has no task list.
  """
  scores = task_scores(name, metrics)
  if not scores or scores.keys() != groups(name).keys():
    return None
  return _mean(list(scores.values()))


def _scoring(metrics: Mapping[str, float]) -> list[str]:
  return [name for name in metrics if name not in _LOWER_IS_BETTER] or list(metrics)


def _value(metric: str, value: float) -> float:
  if math.isnan(value):  # it would put checkpoints in no order
    return 0.0
  return -float(value) if metric in _LOWER_IS_BETTER else float(value)


def _mean(values: list[float]) -> float:
  return sum(values) / len(values)
