"""`hyperprompt` that announces its phases, so that kills can be aimed.

    python -m tools.reliability.subject VERB [flags]

Before and after each phase it writes a line `@ begin PHASE` or `@ end PHASE` to standard
error. It also registers a mixture of three small tasks, which `small_tasks` writes: a run
of 40 steps goes through the smallest more than six times.
"""

import functools
import os
import sys
from collections.abc import Callable

MIXTURE = 'hp_chaos_small'


def say(what: str) -> None:
  """Writes a line at once, in one piece."""
  os.write(2, f'@ {what}\n'.encode())


def announced(phase: str, function: Callable) -> Callable:
  """Returns the function with announcements of its begin and end."""

  @functools.wraps(function)
  def call(*args, **kwargs):
    say(f'begin {phase}')
    try:
      return function(*args, **kwargs)
    finally:
      say(f'end {phase}')

  return call


def _first_announced(phase: str, function: Callable) -> Callable:
  """Returns the function with announcements of its first call."""
  calls = iter([announced(phase, function)])
  return lambda *args: next(calls, function)(*args)


def add_mixture() -> None:
  """Registers the mixture."""
  import hyperprompt_tasks

  # Tasks of unequal sizes at equal rates end their epochs at different steps.
  trained = ('cb_v102', 'copa_v102', 'wsc_v102_simple_train')
  rates = {f'hp_super_glue_{task}': 1.0 for task in trained}
  hyperprompt_tasks.add_mixture(MIXTURE, {**rates, 'hp_super_glue_wsc_v102_simple_eval': 0})


def announce_phases() -> None:
  """Adds announcements to the phases of a training run."""
  from hyperprompt_jax.checkpoints import Checkpointer
  from hyperprompt_jax.evaluation.evaluator import Evaluator
  from hyperprompt_jax.training.loop import TrainingLoop

  run = TrainingLoop.run

  def run_announced(loop, state):
    loop.train_step = _first_announced('compile', loop.train_step)
    return run(loop, state)

  TrainingLoop.run = run_announced  # type: ignore[method-assign]
  for owner, name, phase in (
    (Checkpointer, 'restore_latest', 'resume'),
    (Checkpointer, 'save', 'save'),
    (Evaluator, 'evaluate', 'evaluate'),
    (TrainingLoop, 'close', 'close'),
  ):
    setattr(owner, name, announced(phase, getattr(owner, name)))


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from hyperprompt_jax import cli
  from hyperprompt_jax.cli import command

  command._quieten_libraries()  # before they are loaded
  add_mixture()
  announce_phases()
  sys.exit(cli.main())
