"""The loop of training saves and evaluates nothing that is not finite.

Steps, evaluations and checkpoints are stand-ins, so that any step can go wrong.
"""

import itertools
import math
import pathlib
import re
from types import SimpleNamespace

import numpy as np
import pytest

from hyperprompt_jax.checkpoints import TrainState
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime.interrupts import Interrupted
from hyperprompt_jax.training.early_stopping import Watch
from hyperprompt_jax.training.loop import TrainingLoop
from hyperprompt_jax.training.schedule import Schedule
from hyperprompt_jax.training.settings import EarlyStopping

TASKS = ('copy', 'first', 'last')
NUMBERS = ('loss', 'grad_norm', 'param_norm')
STEPS = 7
# Periods of reports, evaluations and checkpoints.
PERIODS = list(itertools.product((1, 3, 50), (2, 7), (1, 2, 7)))


def sums(step, **changed):
  """Returns a step's sums: four tokens of `copy` and two of `last`, in two examples."""
  return {
    'loss': 6.0 * step,
    'z_loss': 0.0,
    'correct': 3.0,
    'tokens': 6.0,
    'examples': 2.0,
    'task_loss': np.array([4.0, 0.0, 2.0]),
    'task_tokens': np.array([4.0, 0.0, 2.0]),
    'grad_norm': 1.0,
    'param_norm': 10.0,
    **changed,
  }


class Run:
  """A loop whose steps return the numbers of `changed`; it records its actions."""

  def __init__(
    self, changed, periods=(1, STEPS, STEPS), step=0, stop_before=None, averages=None
  ):
    self.saved, self.evaluated, self.messages, self.written = [], [], [], []
    self.changed, self.stop_before = changed, stop_before
    log_period, eval_period, checkpoint_period = periods
    self.loop = TrainingLoop(
      train_step=self.train_step,
      evaluator=SimpleNamespace(evaluate=self.evaluate),
      partitioner=SimpleNamespace(put=lambda batch: batch),
      checkpointer=SimpleNamespace(
        steps=lambda: self.saved,
        save=lambda state, batches: self.saved.append(state.step),
        wait=lambda: None,
        directory=pathlib.Path('run/checkpoints'),
      ),
      metrics=SimpleNamespace(write=self.write),
      progress=SimpleNamespace(
        restart=lambda step: None,
        pause=lambda: None,
        resume=lambda: None,
        message=self.messages.append,
        report=lambda step, loss, examples, skipped: {'shown': skipped},
      ),
      scores={},
      task_list=TASKS,
      interrupts=SimpleNamespace(check=self.check),
      batches=itertools.repeat({'task_ids': np.zeros((2, 1), np.int32)}),
      schedule=Schedule(0, STEPS, eval_period, checkpoint_period, log_period),
      watch=Watch(EarlyStopping('average' if averages else None, patience=2)),
    )
    self.averages = averages or {}
    self.step = step

  failures = ()

  def train_step(self, state, batch):
    self.step = state.step + 1
    return TrainState(self.step, {}, {}), sums(self.step, **self.changed.get(self.step, {}))

  def evaluate(self, params, step):
    self.evaluated.append(step)
    average = self.averages.get(step)
    scalars = {} if average is None else {'average': average}
    return SimpleNamespace(
      scalars=lambda: scalars, ranking=dict, average=None, failures=self.failures
    )

  def write(self, step, kind, scalars):
    if kind == 'train':
      self.written.append((step, scalars))

  def check(self):
    if self.step + 1 == self.stop_before:
      raise Interrupted(15)

  def __call__(self):
    self.loop.run(TrainState(self.step, {}, {}))

  def refused(self):
    """Runs into an error; returns its message."""
    with pytest.raises(UserError) as raised:
      self()
    return str(raised.value)


@pytest.mark.parametrize('name', NUMBERS)
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_step_that_is_not_finite_ends_the_run_before_it_is_saved(name, value):
  for periods, bad in itertools.product(PERIODS, range(1, STEPS + 1)):
    # All later steps are not finite, either.
    worse = {step: dict.fromkeys(NUMBERS, math.nan) for step in range(bad + 1, STEPS + 1)}
    run = Run({bad: {name: value}, **worse}, periods)
    assert run.refused().startswith(f'step {bad} is not finite (')
    for done in (run.saved, run.evaluated):
      assert all(step < bad for step in done), (periods, bad)
    # The same command resumes from the last checkpoint.
    again = Run(run.changed, periods, step=max(run.saved, default=0))
    again.saved = list(run.saved)
    assert again.refused().startswith(f'step {bad} is not finite (')
    assert again.saved == run.saved


@pytest.mark.parametrize('name', NUMBERS)
def test_a_signal_does_not_save_what_is_not_finite(name):
  run = Run({4: {name: math.nan}}, (50, STEPS, 3), stop_before=5)
  assert run.refused().startswith('step 4 is not finite')
  assert run.saved == [3]
  unhurt = Run({}, (50, STEPS, 3), stop_before=5)
  with pytest.raises(Interrupted):
    unhurt()
  assert unhurt.saved == [3, 4]


def test_the_error_names_the_numbers_the_tasks_and_the_checkpoints():
  task_loss = np.array([4.0, 0.0, math.nan])
  run = Run({6: {'loss': math.nan, 'task_loss': task_loss}}, (50, STEPS, 2))
  refusal = run.refused()
  numbers = 'loss nan, gradient norm 1, parameter norm 10'
  assert f'step 6 is not finite ({numbers}; tasks in its batch: copy, last' in refusal
  assert 'not finite: last)' in refusal
  # Step 5 was trained from the checkpoint of step 4. Step 6 has no checkpoint.
  assert 'the last good checkpoint: step 4' in refusal and 'delete' not in refusal


@pytest.mark.parametrize(
  ('bad', 'refusal'),
  [
    (1, 'no good checkpoint'),
    (2, 'no good checkpoint; if run/checkpoints/1 leads here again, delete it'),
    (4, 'good checkpoint: step 2; if run/checkpoints/3 leads here again, delete it'),
  ],
)
def test_a_checkpoint_that_no_step_has_come_from_may_be_the_cause(bad, refusal):
  run = Run({bad: {'loss': math.inf}}, (50, STEPS, 1))
  assert run.refused().endswith(refusal)


def test_steps_that_are_skipped_are_told_and_counted_and_in_no_mean():
  taken = {'skipped': 0, 'skipped_steps': 0}
  one, two = {'skipped': 1, 'skipped_steps': 1}, {'skipped': 1, 'skipped_steps': 2}
  nan = dict.fromkeys(('loss', 'grad_norm'), math.nan)
  changed = dict.fromkeys(range(1, STEPS + 1), taken)
  changed |= {2: {**one, **nan}, 3: {**two, 'grad_norm': 99.0}}
  changed |= {step: {**two, 'skipped': 0} for step in range(4, STEPS + 1)}
  run = Run(changed, (4, STEPS, 1))
  run()
  assert run.saved == [*range(1, STEPS + 1)]
  assert [re.match(r'step \d skipped: loss \S+,', m)[0] for m in run.messages[:2]] == [
    'step 2 skipped: loss nan,',
    'step 3 skipped: loss 3,',
  ]
  by_step = dict(run.written)
  assert [metrics.get('loss') for metrics in by_step.values()] == [
    1,
    None,
    None,
    4,
    5,
    6,
    7,
  ]
  assert [metrics['skipped_steps'] for metrics in by_step.values()] == [0, 1, 2, 2, 2, 2, 2]
  assert [metrics['shown'] for metrics in by_step.values()] == [0, 1, 2, 2, 2, 2, 2]
  assert by_step[4]['loss/copy'] == 1 and 'loss/first' not in by_step[4]


def test_a_mean_is_over_the_steps_that_were_taken():
  changed = {step: {'skipped': 0, 'skipped_steps': 1} for step in range(1, STEPS + 1)}
  changed[2] = {'skipped': 1, 'skipped_steps': 1, 'loss': math.nan}
  run = Run(changed, (3, STEPS, STEPS))
  run()
  step, scalars = run.written[0]
  assert step == 3 and scalars['loss'] == (1 + 3) / 2 and scalars['grad_norm'] == 1


def test_a_step_is_saved_before_it_is_evaluated():
  run = Run({}, periods=(1, 2, 2))

  def evaluate(params, step):
    raise RuntimeError('a fault of the evaluation')

  run.loop.evaluator.evaluate = evaluate
  with pytest.raises(RuntimeError, match='a fault'):
    run.loop.run(TrainState(0, {}, {}))
  assert run.saved == [2]


def test_a_run_that_stops_early_is_saved_there_and_does_not_go_on():
  averages = {1: 60.0, 2: 70.0, 3: 65.0, 4: 69.0, 5: 99.0}
  run = Run({}, periods=(1, 1, STEPS), averages=averages)
  run()
  assert run.evaluated == [1, 2, 3, 4] and run.saved == [4]
  assert 'step 4: average was best at step 2' in run.messages[-1]
  again = Run({}, periods=(1, 1, STEPS), step=4, averages=averages)
  again.loop.watch, again.saved = run.loop.watch, [4]
  again.loop.scores.update({step: {} for step in run.evaluated})
  again()
  assert again.evaluated == [] and again.written == []


def test_a_failing_metric_ends_the_run_where_that_is_asked_for():
  run = Run({}, periods=(1, 2, STEPS))
  run.failures = ('task mood: rouge fails: ZeroDivisionError',)
  run.loop.failing_metrics = 'end'
  assert run.refused().startswith('step 2: task mood: rouge fails')
  assert run.saved == [2]
  run = Run({}, periods=(1, 2, STEPS))
  run.failures = ('task mood: rouge fails: ZeroDivisionError',)
  run()
  assert run.saved == [STEPS]
