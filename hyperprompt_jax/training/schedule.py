"""The steps at which a run reports, is evaluated and is saved."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The periods of a run; whatever has a period is due at the last step, too.

  Nothing is due at the first step, which is that of the checkpoint that a run starts from.

  Attributes:
    first_step: is the step before the run's own first one.
    last_step: is the step at which the run ends.
    eval_period: is the number of steps between evaluations.
    checkpoint_period: is the number of steps between checkpoints.
    log_period: is the number of steps between reports.
  """

  first_step: int
  last_step: int
  eval_period: int
  checkpoint_period: int
  log_period: int

  def evaluates_at(self, step: int) -> bool:
    """Returns whether an evaluation is due."""
    return self._due(step, self.eval_period)

  def saves_at(self, step: int) -> bool:
    """Returns whether a checkpoint is due."""
    return self._due(step, self.checkpoint_period)

  def reports_at(self, step: int) -> bool:
    """Returns whether a report is due, as it also is before a checkpoint or evaluation."""
    is_due = self._due(step, self.log_period)
    return is_due or self.evaluates_at(step) or self.saves_at(step)

  def _due(self, step: int, period: int) -> bool:
    return step > self.first_step and (step % period == 0 or step == self.last_step)
