"""The loop of training: steps, reports, evaluations, checkpoints, each when it is due."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from hyperprompt_jax.checkpoints import Checkpointer, TrainState
from hyperprompt_jax.data import features
from hyperprompt_jax.data.access import TrainingBatches
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation.evaluator import Evaluator
from hyperprompt_jax.evaluation.scores import EVAL, ScoresByStep
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import distributed, reporting, terminal, workarounds
from hyperprompt_jax.runtime.interrupts import Interrupted, Interrupts
from hyperprompt_jax.training import early_stopping, step_metrics
from hyperprompt_jax.training.schedule import Schedule
from hyperprompt_jax.training.settings import END, WARN
from hyperprompt_jax.training.train_step import StepFn


@dataclasses.dataclass
class TrainingLoop:
  """The training loop, with the objects that it uses; `Setup.loop` makes it.

  Attributes:
    train_step: takes a step.
    batches: gives the batches, and has a position that is saved.
    partitioner: puts batches on the devices.
    task_list: names the tasks by their ids.
    schedule: tells at which steps the run reports, is evaluated and is saved.
    evaluator: evaluates parameters.
    checkpointer: saves states.
    metrics: writes the numbers of steps and evaluations.
    progress: shows them to the user.
    scores: holds the scores of all evaluations, by which checkpoints are ranked.
    watch: ends the run early if the evaluations call for it.
    interrupts: notices the signals that end the run.
    failing_metrics: is WARN or END, for a metric that raises an error.
  """

  train_step: StepFn
  batches: TrainingBatches
  partitioner: Partitioner
  task_list: Sequence[str]
  schedule: Schedule
  evaluator: Evaluator
  checkpointer: Checkpointer
  metrics: reporting.Metrics
  progress: terminal.Progress
  scores: ScoresByStep
  watch: early_stopping.Watch
  interrupts: Interrupts
  failing_metrics: str = WARN

  def run(self, state: TrainState) -> None:
    """Trains from `state` to the last step."""
    step = int(state.step)
    pending: list[Any] = []  # metrics of the steps since the last report
    compiled = False
    try:
      # The last start may have ended during this evaluation.
      self._evaluate_if_due(state, step)
      while step < self.schedule.last_step and not self.watch.reason_to_stop():
        self.interrupts.check()
        if compiled:
          state, sums = self.train_step(state, self._next_batch())
        else:
          state, sums = self._first_step(state)
          self.progress.restart(step + 1)
          compiled = True
        pending.append(sums)
        step += 1
        if self.schedule.reports_at(step):
          self._report(step, pending)
        # Saved first: if an evaluation ends the process, a restart repeats it.
        if self.schedule.saves_at(step):
          self._save(state)
        self._evaluate_if_due(state, step)
      if step < self.schedule.last_step:
        self._save(state)
        self.progress.message(f'step {step}: {self.watch.reason_to_stop()}')
      self.checkpointer.wait()
    except Interrupted as interrupted:
      self._report(step, pending)
      self._save(state)
      self.checkpointer.wait()
      self.progress.message(
        f'{interrupted}: saved step {step}; the same command goes on from there'
      )
      raise
    except Exception as error:
      distributed.end_if_lost(error)
      raise

  def close(self) -> None:
    """Waits for the last checkpoint, and closes files."""
    self.batches.close()
    self.checkpointer.close()
    self.metrics.close()
    self.progress.close()

  def _next_batch(self) -> Any:
    batch = next(self.batches)
    features.check_task_ids(batch, self.task_list)
    return self.partitioner.put(batch)

  def _first_step(self, state: TrainState) -> tuple[TrainState, Any]:
    """Takes the step that reads the first batch and compiles the program."""
    with terminal.phase('reading the first batch', self.progress.message):
      batch = self._next_batch()
    with terminal.phase('compiling the training step', self.progress.message):
      result = jax.block_until_ready(self.train_step(state, batch))
    if jax.default_backend() == 'cpu':
      workarounds.reuse_freed_memory()
    return result

  def _report(self, step: int, pending: list[Any]) -> None:
    """Writes the means over the pending steps; raises UserError if one is not finite."""
    if not pending:
      return
    steps: list[step_metrics.Sums] = jax.device_get(pending)
    pending.clear()
    for number, sums in enumerate(steps, step - len(steps) + 1):
      if not step_metrics.is_finite(sums):
        raise UserError(self._not_finite(number, sums))
      if sums.get('skipped'):
        numbers = step_metrics.describe(sums, self.task_list)
        self.progress.message(f'step {number} skipped: {numbers}')
    taken = [sums for sums in steps if not sums.get('skipped')]
    scalars = step_metrics.means(taken, self.task_list)
    skipped = int(steps[-1].get('skipped_steps', 0))
    if 'skipped_steps' in steps[-1]:
      scalars['skipped_steps'] = skipped
    examples = sum(float(sums['examples']) for sums in steps) / len(steps)
    loss = scalars.get('loss', math.nan)
    scalars |= self.progress.report(step, loss, examples, skipped)
    self.metrics.write(step, 'train', scalars)

  def _not_finite(self, step: int, sums: step_metrics.Sums) -> str:
    """The error that ends a run at a step."""
    saved = [at for at in self.checkpointer.steps() if at < step]
    # A checkpoint is good once a later step, trained from it, was finite.
    good = max((at for at in saved if at < step - 1), default=None)
    rest = (
      'no good checkpoint' if good is None else f'the last good checkpoint: step {good}'
    )
    if step - 1 in saved:
      suspect = self.checkpointer.directory / str(step - 1)
      rest += f'; if {suspect} leads here again, delete it'
    return (
      f'step {step} is not finite ({step_metrics.describe(sums, self.task_list)}), nothing '
      f'of it is saved: lower LEARNING_RATE, or set an OPTIMIZER that skips it; {rest}'
    )

  def _evaluate_if_due(self, state: TrainState, step: int) -> None:
    if not self.schedule.evaluates_at(step) or step in self.scores:
      return
    self.progress.pause()
    results = self.evaluator.evaluate(state.params, step)
    for failure in results.failures:
      if self.failing_metrics == END:
        self._save(state)
        self.checkpointer.wait()
        raise UserError(f'step {step}: {failure} (FAILING_METRICS is {END!r})')
      self.progress.message(f'WARNING: step {step}: {failure}; training goes on')
    scalars = results.scalars()
    self.metrics.write(step, EVAL, scalars)
    self.scores[step] = results.ranking()
    if not self.watch.add(step, scalars):
      self.progress.message(
        f'WARNING: step {step}: this evaluation has no EARLY_STOPPING_METRIC, and does not '
        f'count for it; it has {", ".join(sorted(scalars))}'
      )
    average = '-' if results.average is None else f'{results.average:.2f}'
    self.progress.message(f'step {step}: validation average {average}')
    self.progress.resume()

  def _save(self, state: TrainState) -> None:
    if int(state.step) not in self.checkpointer.steps():
      self.checkpointer.save(state, self.batches)
