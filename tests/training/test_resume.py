"""Runs that a signal or a kill ends, and that resume."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.runtime import reporting
from tests import tiny_run

# Checkpoints are at 3, 6, …, evaluations at 20 and 34; no signal is at a multiple of 3.
STEPS, SAVED, EVALUATED = 34, 3, 20
METRICS = reporting.METRICS_FILE
# The command, in a process that knows the mixture of these tests.
START = """
import sys
from hyperprompt_jax import cli
from hyperprompt_jax.runtime import workarounds
with workarounds.without_tensorflow_notes(), workarounds.without_keras():
  from tests import tiny_run
sys.exit(cli.main(sys.argv[1:]))
"""
# `make chaos` tries many more kills.
KILLED = random.Random(7).choice((7, 8, 10))


# With this limit near the mean, steps are skipped by chance.
SKIPPING = (
  '--gin.OPTIMIZER=@optimizers.skip_step_on_spikes()',
  '--gin.optimizers.skip_step_on_spikes.interval=8',
  '--gin.optimizers.skip_step_on_spikes.scaling_factor=1.2',
  '--gin.RANDOM_SEED=3',
)


def arguments(folder):
  return tiny_run.train_arguments(
    folder,
    *SKIPPING,
    network={**tiny_run.NETWORK, **tiny_run.UNROLLED},
    MIXTURE_OR_TASK_NAME=tiny_run.TWO_TASKS,
    TRAIN_STEPS=STEPS,
    CHECKPOINT_PERIOD=SAVED,
    EVAL_PERIOD=EVALUATED,
    EVAL_STEPS=0,
    EVALUATOR_NUM_EXAMPLES=4,
  )


@dataclasses.dataclass
class Start:
  """One start of the command: the signal that ended it, and its output."""

  sent: int | None
  at: int | None
  status: int
  stdout: str
  stderr: list[str]

  @property
  def steps(self) -> list[int]:
    return self.numbers(r'step (\d+)/')

  def numbers(self, pattern: str) -> list[int]:
    return [int(m[1]) for m in map(re.compile(pattern).match, self.stderr) if m]


def kill(folder, compiled, at) -> Start:
  """Starts a process of the command, and kills it once it has reported a step."""
  environment = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  process = subprocess.Popen(
    [sys.executable, '-c', START, *arguments(folder)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  )
  assert process.stdout
  assert process.stderr
  lines = []
  for line in process.stderr:
    lines.append(line.rstrip('\n'))
    if line.startswith(f'step {at}/'):
      process.kill()
  stdout = process.stdout.read()
  return Start(signal.SIGKILL, at, process.wait(), stdout, lines)


def interrupt(folder, at=None, sent=None, delay=0.0) -> Start:
  """Runs the command in this process, which is faster; sends a signal after a step."""
  ended = threading.Event()

  def send():
    while not any(r['step'] >= at for r in reporting.read_metrics(folder / METRICS)):
      if ended.wait(0.005):
        return
    if not ended.wait(delay):
      os.kill(os.getpid(), sent)

  watch = threading.Thread(target=send)
  out, err = io.StringIO(), io.StringIO()
  if sent:
    watch.start()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    status = cli.main(arguments(folder))
  ended.set()
  if sent:
    watch.join()
  return Start(sent, at, status, out.getvalue(), err.getvalue().splitlines())


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory, compile_once):
  folder = tmp_path_factory.mktemp('unbroken')
  first = interrupt(folder)
  assert first.status == 0, first.stderr
  assert first.steps == [*range(1, STEPS + 1)]
  return folder


@pytest.fixture(scope='module')
def broken(tmp_path_factory, compile_once, unbroken):
  """The run's folder and its starts, of which all but the last are interrupted."""
  folder = tmp_path_factory.mktemp('broken')
  starts = [
    kill(folder, compile_once, KILLED),
    interrupt(folder, 17, signal.SIGTERM),
    # The signal comes a moment after the report of the evaluated step.
    interrupt(folder, EVALUATED, signal.SIGTERM, delay=0.3),
    interrupt(folder, 31, signal.SIGINT),
    interrupt(folder),
  ]
  return folder, starts


def arrays(folder, step):
  """Every array of parameters and optimizer of a checkpoint, by its path."""
  actual = {}
  for item in ('params', 'optimizer'):
    path = folder / 'checkpoints' / str(step) / item
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(path).item_metadata.tree
      plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      restored = checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=plain))
    for keys, leaf in jax.tree_util.tree_leaves_with_path(restored):
      actual[item + jax.tree_util.keystr(keys)] = np.asarray(leaf)
  return actual


def records(folder):
  lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
  return [
    {name: x for name, x in json.loads(line).items() if 'per_second' not in name}
    for line in lines
  ]


@pytest.mark.slow(
  held_by='test_a_run_killed_past_an_epochs_end_ends_with_the_bits_of_the_unbroken_one'
)
def test_a_run_killed_at_random_steps_ends_with_the_parameters_of_the_unbroken_one(
  unbroken, broken
):
  folder, _ = broken
  expected, actual = arrays(unbroken, STEPS), arrays(folder, STEPS)
  assert len(expected) > 40
  assert any(name.startswith('optimizer') and x.size > 1 for name, x in expected.items())
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    assert actual[name].dtype == array.dtype, name
    assert actual[name].tobytes() == array.tobytes(), name


@pytest.mark.slow(held_by='test_one_device_goes_on_where_two_hosts_were_stopped')
def test_each_step_and_each_evaluation_is_recorded_once_and_alike(unbroken, broken):
  folder, _ = broken
  actual = records(folder)
  steps = [r['step'] for r in actual if 'train/skipped_steps' in r]
  assert steps == [*range(1, STEPS + 1)]
  assert [r['step'] for r in actual if 'eval/average' in r] == [EVALUATED, STEPS]
  assert actual == records(unbroken)


@pytest.mark.slow(held_by='test_steps_that_are_skipped_are_told_and_counted_and_in_no_mean')
def test_steps_that_are_skipped_are_counted_over_all_starts(unbroken, broken):
  folder, starts = broken
  counts = {
    r['step']: r['train/skipped_steps']
    for r in records(folder)
    if 'train/skipped_steps' in r
  }
  grown = [step for step in counts if step > 1 and counts[step] > counts[step - 1]]
  assert len(grown) == counts[STEPS] > 2
  # Steps were skipped both before and after the kill.
  assert grown[0] < KILLED < grown[-1]
  told = {step for start in starts for step in start.numbers(r'step (\d+) skipped: loss')}
  assert told == {*grown}
  saved = arrays(folder, STEPS)["optimizer['skipped_steps']"]
  assert saved == counts[STEPS]


def test_a_run_that_skips_nothing_has_nothing_of_it(trained):
  names = [name for name in arrays(trained, 4) if 'skip' in name or 'history' in name]
  assert names == []
  assert not any('skip' in name for record in records(trained) for name in record)


@pytest.mark.slow(held_by='test_one_device_goes_on_where_two_hosts_were_stopped')
def test_steps_depend_on_what_was_before(unbroken):
  """Every step changes all parameters and its loss; otherwise equal ends prove nothing."""
  losses = [r['train/loss'] for r in records(unbroken) if 'train/loss' in r]
  assert len(set(losses)) == len(losses) > STEPS / 2
  before, after = arrays(unbroken, STEPS - 1), arrays(unbroken, STEPS)
  still = [name for name in after if before[name].tobytes() == after[name].tobytes()]
  assert [name for name in still if name.startswith('params')] == []


@pytest.mark.slow(held_by='test_one_device_goes_on_where_two_hosts_were_stopped')
def test_every_start_goes_on_from_the_last_checkpoint(broken):
  _, starts = broken
  for previous, this in itertools.pairwise(starts):
    (resumed,) = this.numbers(r'resuming from step (\d+) ')
    assert this.steps[0] == resumed + 1
    if previous.sent == signal.SIGKILL:
      # The kill may lose the checkpoint that was being saved, and the one before at most.
      assert max(0, previous.steps[-1] - 2 * SAVED - 1) <= resumed <= previous.steps[-1]
    else:
      assert resumed == previous.steps[-1]


@pytest.mark.slow(
  held_by='test_a_run_killed_past_an_epochs_end_ends_with_the_bits_of_the_unbroken_one'
)
def test_the_kill_comes_where_it_should(broken):
  _, starts = broken
  (killed,) = [s for s in starts if s.sent == signal.SIGKILL]
  assert killed.status == -signal.SIGKILL
  assert KILLED == killed.at <= killed.steps[-1] < STEPS


@pytest.mark.slow(held_by='test_a_signal_to_one_host_stops_all_at_the_same_step')
@pytest.mark.parametrize(
  ('sent', 'at', 'status'),
  [
    (signal.SIGTERM, 17, 143),
    (signal.SIGTERM, EVALUATED, 143),
    (signal.SIGINT, 31, 130),
  ],
)
def test_a_signal_saves_before_it_ends_the_run(broken, sent, at, status):
  _, starts = broken
  (ended,) = [s for s in starts if (s.sent, s.at) == (sent, at)]
  assert ended.status == status
  assert ended.stdout == ''
  step, name = ended.steps[-1], signal.Signals(sent).name
  assert (
    ended.stderr[-1] == f'{name}: saved step {step}; the same command goes on from there'
  )
  assert 'Traceback' not in '\n'.join(ended.stderr)


@pytest.mark.slow(held_by='test_a_signal_to_one_host_stops_all_at_the_same_step')
def test_a_signal_does_not_wait_for_the_evaluation_that_it_meets(broken):
  _, starts = broken
  position = [(s.sent, s.at) for s in starts].index((signal.SIGTERM, EVALUATED))
  ended, following = starts[position : position + 2]
  assert ended.steps[-1] == EVALUATED
  assert not any('validation average' in line for line in ended.stderr)
  # The next start first does the evaluation.
  # Between them are the lines of phases that take long.
  lines = [line for line in following.stderr if line.startswith(('resuming ', 'step '))]
  assert lines[0].startswith(f'resuming from step {EVALUATED} ')
  assert lines[1].startswith(f'step {EVALUATED}: validation average')


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file() and 'tfevents' not in p.name
  }


def test_a_finished_run_started_again_does_nothing_but_print_its_table(
  trained, capsys, monkeypatch
):
  before = contents(trained)
  monkeypatch.setenv('NPROC', '7')
  capsys.readouterr()
  assert cli.main(tiny_run.train_arguments(trained)) == 0
  out, err = capsys.readouterr()
  assert out.startswith('Validation scores (x 100), best single checkpoint: step')
  assert 'first' in out
  changed, *others = tiny_run.without_header(err)
  assert re.match(
    r'WARNING: since step 4 threads of XLA was \d+ and is 7: the run', changed
  )
  assert others == [f'resuming from step 4 of {trained}; nothing is left of 4']
  assert contents(trained) == before
