"""Chooses the checkpoints of a run that are kept."""

import dataclasses
from collections.abc import Mapping, Sequence

from hyperprompt_jax.training.settings import Retention

# The score by which the best single checkpoint is chosen; the others bear tasks' names.
AVERAGE = 'average'
Scores = Mapping[str, float]


def preserved(
  retention: Retention, steps: Sequence[int], scores: Mapping[int, Scores]
) -> list[bool]:
  """Whether each of some steps is kept.

  Args:
    retention: holds the rules; a step that any of them keeps is kept.
    steps: are in ascending order.
    scores: maps steps to the scores of each task and of `AVERAGE`.
  """
  latest = steps if retention.keep is None else steps[max(0, len(steps) - retention.keep) :]
  kept = set(latest)
  names = {name for step in steps for name in scores.get(step, ())}
  for name in names:
    scored = [step for step in steps if name in scores.get(step, ())]
    best_first = sorted(scored, key=lambda s: (-scores[s][name], s))
    number = retention.keep_best if name == AVERAGE else int(retention.keep_best_per_task)
    kept.update(best_first[:number])
  return [step in kept for step in steps]


@dataclasses.dataclass(frozen=True)
class Policy:
  """A `Retention` as one of Orbax's preservation policies.

  Attributes:
    retention: selects the checkpoints that are kept.
    scores: maps steps to the scores of each task and of `AVERAGE`.
  """

  retention: Retention
  scores: Mapping[int, Scores]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Returns whether each checkpoint is kept; Orbax calls it."""
    del context
    return preserved(self.retention, [c.step for c in checkpoints], self.scores)
