"""Early stopping: training ends once a validation metric no longer improves."""

import math
from collections.abc import Mapping, Sequence

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import AVERAGE
from hyperprompt_jax.errors import UserError, nearest
from hyperprompt_jax.evaluation.scores import EVAL
from hyperprompt_jax.training.settings import EarlyStopping


def check(rule: EarlyStopping, mixture: str) -> None:
  """Checks that a mixture's evaluations can have the metric that is watched.

  Args:
    rule: names the metric.
    mixture: names the mixture that is evaluated.

  Raises:
    UserError: if the metric belongs to no task of the mixture.
  """
  if rule.metric is None:
    return
  tasks = hyperprompt_tasks.short_names(mixture, 'validation').values()
  known = [AVERAGE, *(f'score/{task}' for task in hyperprompt_tasks.groups(mixture))]
  known += [f'{task}/loss' for task in tasks]
  task, _, own_metric = rule.metric.rpartition('/')
  if rule.metric not in known and not (task in tasks and own_metric):
    raise UserError(
      f'EARLY_STOPPING_METRIC {rule.metric!r} is no metric of {mixture}'
      f'{nearest(rule.metric, known)}; there are {", ".join(known)}, and TASK/METRIC'
    )


class Watch:
  """Watches one metric over the evaluations of a run.

  The decision at a step depends on the evaluations up to that step alone, so a run that is
  interrupted and resumed stops where an uninterrupted one does.

  Args:
    rule: names the metric, the patience, and whether higher or lower values are better.
    records: are the records of the run's `metrics.jsonl` so far.
  """

  def __init__(self, rule: EarlyStopping, records: Sequence[Mapping[str, float]] = ()):
    self._rule = rule
    self._values: dict[int, float] = {}
    prefix = f'{EVAL}/'
    for record in records:
      self.add(
        int(record['step']),
        {
          name.removeprefix(prefix): value
          for name, value in record.items()
          if name.startswith(prefix)
        },
      )

  def add(self, step: int, values: Mapping[str, float]) -> bool:
    """Takes up an evaluation; returns whether it has the metric.

    An evaluation without the metric, such as one in which it failed, does not count.

    Args:
      step: is the step that was evaluated.
      values: are the values of the evaluation, by name.
    """
    metric = self._rule.metric
    if metric is None:
      return True
    if metric in values:
      self._values[step] = values[metric]
    return metric in values

  def reason_to_stop(self) -> str | None:
    """Returns why training ends after the last evaluation, or None if it goes on."""
    if not self._values:
      return None
    steps = sorted(self._values)
    best = max(steps, key=lambda step: (self._goodness(step), -step))
    since = sum(step > best for step in steps)
    if since < self._rule.patience:
      return None
    return (
      f'{self._rule.metric} was best at step {best} ({self._values[best]:.4g}), '
      f'{since} evaluations ago: training ends here, by EARLY_STOPPING_PATIENCE='
      f'{self._rule.patience}'
    )

  def _goodness(self, step: int) -> float:
    """Returns a value of which higher is better; a value that is no number is worst."""
    value = self._values[step]
    if math.isnan(value):
      return -math.inf
    return value if self._rule.mode == 'max' else -value
