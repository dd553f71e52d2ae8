"""The campaigns tell complaints from what every run says."""

import time

from hyperprompt_jax.runtime import terminal
from tools.reliability import small_run


def test_header_steps_and_phases_are_no_complaints(capsys, monkeypatch):
  monkeypatch.setattr(terminal, '_QUIET_SECONDS', 0.01)
  with terminal.phase('compiling the training step'):
    time.sleep(0.1)
  phases = capsys.readouterr().err.splitlines()
  assert len(phases) == 2
  of_a_run = [
    'network  2 + 2 layers of width 32, 256 rows of vocabulary, float32',
    'folder   /runs/a, which has a run to resume',
    'resuming from step 8',
    'step 10 of 40 loss 6.055',
  ]
  error = 'hyperprompt: step 20 is not finite (loss nan)'
  trace = ['Traceback (most recent call last):', 'ValueError: it took 3 s']
  assert small_run.complaints([*of_a_run, *phases, error, *trace]) == [error, *trace]
