"""Scores of tasks and of a benchmark from the metrics of its SeqIO tasks (spec 7)."""

import math
from collections.abc import Mapping, Sequence

from hyperprompt_tasks import task_lists

# {SeqIO task: {metric: value}}, as seqio.Evaluator gives it.
AllMetrics = Mapping[str, Mapping[str, float]]


def groups(name: str) -> dict[str, task_lists.Metrics]:
  """Returns what scores each conditioned task of the SeqIO task or mixture `name`.

  Conditioned tasks whose scoring SeqIO tasks are not in `name` are left out.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
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
    name: a registered SeqIO task or mixture.
    metrics: its metrics, x 100. A task that lacks one of its metrics gets no score. One
      that is not a number, the correlation of equal predictions, counts as 0.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
  """
  scores = {}
  for group, pairs in groups(name).items():
    found = expanded(pairs, metrics)
    if found and all(metric in metrics.get(task, {}) for task, metric in found):
      scores[group] = _mean([_value(metrics[task][metric]) for task, metric in found])
  return scores


def expanded(pairs: Sequence[tuple[str, str]], metrics: AllMetrics) -> task_lists.Metrics:
  """Returns the pairs with what ALL stands for in its place: nothing if it is not there."""
  return tuple(
    (task, name)
    for task, metric in pairs
    for name in (metrics.get(task, {}) if metric == task_lists.ALL else (metric,))
  )


def average(name: str, metrics: AllMetrics) -> float | None:
  """Returns the mean over the task scores of `name`, None unless all are there.

  Args:
    name: a registered SeqIO task or mixture.
    metrics: its metrics, x 100.

  Raises:
    UnknownNameError: nothing of that name is registered, or it has no task list.
  """
  scores = task_scores(name, metrics)
  if not scores or scores.keys() != groups(name).keys():
    return None
  return _mean(list(scores.values()))


def _value(metric: float) -> float:
  # Scores rank checkpoints, which not-a-number would put in no order.
  return 0.0 if math.isnan(metric) else float(metric)


def _mean(values: list[float]) -> float:
  return sum(values) / len(values)
