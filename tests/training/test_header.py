"""The lines before anything slow, and the phases that are named when they take long."""

import time

from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training import header, settings
from tests import tiny


def lines(method, **optimisation):
  model = tiny.model(tiny.METHODS[method])
  return model, header.lines(
    model,
    Partitioner(),
    settings.DataSettings('a_mixture', {'inputs': 8, 'targets': 4}, 'bytes', batch_size=6),
    settings.OptimisationSettings(**optimisation),
    settings.EvaluationSettings(period=10),
    settings.CheckpointSettings('/nowhere/run', period=20),
  )


def test_a_run_says_what_it_is_about_to_do():
  model, told = lines('hyperprompt_global', total_steps=30)
  method, network, devices, tasks, steps, folder = told
  assert method.startswith('method   HyperPromptGlobal, which adds ')
  assert f'width {model.config.emb_dim}' in network and 'float32' in network
  assert '(cpu); mesh data 1 x fsdp 1 x model 1' in devices
  assert all(task in tasks for task in model.task_list) and 'a_mixture' in tasks
  assert 'to 30, 6 rows of 8 + 4 tokens; evaluates every 10, saves every 20' in steps
  assert folder == 'folder   /nowhere/run, from random parameters'


def test_a_method_without_parameters_adds_none():
  assert (
    'MultiTaskLearning, which adds 0 parameters to ' in lines('mtl', total_steps=1)[1][0]
  )


def test_steps_of_this_run_alone_are_told_as_such():
  assert 'steps    5 from the start' in lines('mtl', relative_steps=5)[1][4]


def test_a_phase_is_named_when_it_takes_long_and_timed_at_its_end(monkeypatch):
  monkeypatch.setattr(terminal, '_QUIET_SECONDS', 0.02)
  told = []
  with terminal.phase('a short phase', told.append):
    pass
  assert told == []
  with terminal.phase('a long phase', told.append):
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
      time.sleep(0.01)
    assert told == ['a long phase …']
  assert told[1].startswith('a long phase: ') and told[1].endswith(' s')
