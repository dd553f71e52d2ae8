"""Early stopping: training ends once a validation metric no longer improves."""

import math
from collections.abc import Mapping, Sequence

from hyperprompt_jax.evaluation.summary import EVAL
from hyperprompt_jax.training.settings import EarlyStopping


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
