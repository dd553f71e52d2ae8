"""Several hosts: here processes of this machine, with four CPU devices each."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.data.indexed import IndexedBatches
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import distributed, libtpu, reporting, run_lock
from tests import tiny_run

STEPS, SAVED, BATCH_SIZE = 12, 4, 16
# Sizes of the mesh axes other than `data`.
ONE_DEVICE = {}
THREE_AXES = {'num_partitions': 2, 'fsdp': 2}


def arguments(folder, mesh, **macros):
  return tiny_run.train_arguments(
    folder,
    *(f'--gin.partitioning.Partitioner.{axis}={size}' for axis, size in mesh.items()),
    network={**tiny_run.NETWORK, **tiny_run.UNROLLED},
    **{
      'MIXTURE_OR_TASK_NAME': tiny_run.TWO_TASKS,
      'TRAIN_STEPS': STEPS,
      'BATCH_SIZE': BATCH_SIZE,
      'EVAL_PERIOD': STEPS,
      'CHECKPOINT_PERIOD': SAVED,
      'NUM_DATA_SHARDS': 2,
      **macros,
    },
  )


START = """
from hyperprompt_jax.cli import command
from hyperprompt_jax.runtime import workarounds
command._quieten_libraries()  # before anything else is imported, as the command does
with workarounds.without_tensorflow_notes(), workarounds.without_keras():
  from tests.runtime import test_distributed as t
"""


@dataclasses.dataclass
class Ended:
  """The status and the output of a process that has ended."""

  status: int
  stdout: str
  stderr: str


def run(code, devices, compiled, *argv):
  """`start_two` as Slurm starts two tasks of a step, with this module at hand as `t`."""
  return start_two(START + code, devices, compiled, *argv, slurm=True)


def start_two(code, devices, compiled, *argv, slurm=False):
  """Runs code in two processes at once, which get `argv` and the flags to meet by.

  Under Slurm they get its variables in place of the flags.
  """
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} '
    f'--xla_force_host_platform_device_count={devices}',
  }
  started = []
  for index in range(2):
    meet = [
      f'--coordinator_address=127.0.0.1:{port}',
      '--process_count=2',
      f'--process_index={index}',
    ]
    variables = {
      'SLURM_JOB_ID': '4711',
      'SLURM_NTASKS': '2',
      'SLURM_STEP_NODELIST': 'localhost',
      'SLURM_STEP_NUM_NODES': '1',
      'SLURM_PROCID': str(index),
      'SLURM_LOCALID': str(index),
      'JAX_COORDINATOR_PORT': str(port),
    }
    command = [sys.executable, '-c', code, *map(str, argv), *([] if slurm else meet)]
    started.append(
      subprocess.Popen(
        command,
        env={**environment, **(variables if slurm else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  with_output = [(process, *process.communicate()) for process in started]
  return [Ended(process.returncode, out, err) for process, out, err in with_output]


def train_and_be_stopped(stopped, held, disagreed):
  """Runs on each host: a run that a signal ends, and one with a seed of the host's."""
  host = int(os.environ['SLURM_PROCID'])
  take = IndexedBatches.__next__

  def take_slowly(batches):
    time.sleep(0.5)  # JAX checks for the signal once in a second
    return take(batches)

  IndexedBatches.__next__ = take_slowly
  if host == 1:
    threading.Thread(target=_stop_after, args=(stopped, SAVED + 2), daemon=True).start()
  status = cli.main(arguments(stopped, THREE_AXES))
  pathlib.Path(held, f'status of host {host}').write_text(str(status))
  with pytest.raises(UserError) as refused, run_lock.held(held):
    pass
  pathlib.Path(held, f'told to host {host}').write_text(str(refused.value))
  command = arguments(disagreed, ONE_DEVICE, RANDOM_SEED=host)
  with (
    open(f'{held}/out of host {host}', 'w') as out,
    open(f'{held}/err of host {host}', 'w') as err,
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    cli.main(command)  # it ends the process


def _stop_after(folder, step):
  path = pathlib.Path(folder) / reporting.METRICS_FILE
  there = lambda: any(record['step'] >= step for record in reporting.read_metrics(path))
  while there():  # the resumed run has not yet dropped its later records
    time.sleep(0.05)
  while not there():
    time.sleep(0.05)
  os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope='module')
def one_device(tmp_path_factory, compile_once):
  folder = tmp_path_factory.mktemp('one_device')
  assert cli.main(arguments(folder, ONE_DEVICE)) == 0
  return folder


def back_to(folder, step, copy):
  """Copies a run as it was at a step."""
  shutil.copytree(folder, copy)
  for checkpoint in (copy / 'checkpoints').iterdir():
    if int(checkpoint.name) > step:
      shutil.rmtree(checkpoint)
  return copy


@pytest.fixture(scope='module')
def two_hosts(tmp_path_factory, compile_once, one_device):
  """The folders of runs of two hosts, and how the hosts ended.

  The first run resumes one of a device, and is stopped. The second is refused, because
  another run holds the folder; so is the third, in which the hosts disagree.
  """
  stopped = back_to(one_device, SAVED, tmp_path_factory.mktemp('back') / 'stopped')
  held = tmp_path_factory.mktemp('held')
  with run_lock.held(str(held)):
    folders = (stopped, held, held / 'disagreed')
    ended = run('t.train_and_be_stopped(*t.sys.argv[1:])', 4, compile_once, *folders)
  return *folders, ended


def records(folder):
  return [
    {name: x for name, x in record.items() if 'per_second' not in name}
    for record in reporting.read_metrics(folder / reporting.METRICS_FILE)
  ]


def assert_same_run(folder, other):
  """Checks that two runs have the same losses by step and task, and the same evaluation."""
  actual, expected = records(folder), records(other)
  assert [r['step'] for r in actual] == [*range(1, STEPS + 1), STEPS]
  for record, wanted in zip(actual, expected, strict=True):
    assert record == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.slow(held_by='test_one_device_goes_on_where_two_hosts_were_stopped')
def test_two_hosts_train_and_evaluate_as_one_device(compile_once, one_device, tmp_path):
  code = 'sys.exit(t.cli.main(t.arguments(t.pathlib.Path(sys.argv[1]), t.THREE_AXES)))'
  first, second = run(f'import sys; {code}', 4, compile_once, tmp_path / 'whole')
  assert (first.status, second.status) == (0, 0)
  assert_same_run(tmp_path / 'whole', one_device)
  assert first.stdout.startswith('Validation scores')
  assert f'step {STEPS}/{STEPS}' in first.stderr
  assert second.stdout == '' and second.stderr == ''


def test_another_run_is_told_to_all_hosts(two_hosts):
  _, held, *_ = two_hosts
  for host in range(2):
    message = (held / f'told to host {host}').read_text()
    assert message.startswith(
      f'MODEL_DIR {held} is in use by another run (process {os.getpid()}'
    )


def test_each_host_saves_its_part_and_one_the_position(two_hosts):
  stopped, *_ = two_hosts
  checkpoint = max((stopped / 'checkpoints').glob('*'), key=lambda path: int(path.name))
  step = int(checkpoint.name)
  position = json.loads((checkpoint / 'data' / 'position.json').read_text())
  assert (position['batches'], position['draws']) == (step, step * BATCH_SIZE)
  assert (checkpoint / 'params' / 'ocdbt.process_1').is_dir()


def test_one_host_prints(two_hosts):
  *_, (first, second) = two_hosts
  assert f'step {SAVED + 1}/{STEPS}' in first.stderr
  assert second.stdout == '' and second.stderr == ''


def test_a_signal_to_one_host_stops_all_at_the_same_step(two_hosts):
  stopped, held, _, (first, _) = two_hosts
  for host in range(2):
    assert (held / f'status of host {host}').read_text() == '143'
  assert f'resuming from step {SAVED} of {stopped}' in first.stderr
  (saved,) = re.findall(r'SIGTERM: saved step (\d+)', first.stderr)
  assert SAVED + 2 <= int(saved) < STEPS
  assert (stopped / 'checkpoints' / saved).is_dir()


def test_one_device_goes_on_where_two_hosts_were_stopped(two_hosts, one_device):
  """The position in the data also moves from one device to two hosts, and back."""
  stopped, *_ = two_hosts
  assert cli.main(arguments(stopped, ONE_DEVICE, NUM_DATA_SHARDS=None)) == 0
  assert_same_run(stopped, one_device)
  losses = {record['train/loss'] for record in records(stopped)[:STEPS]}
  assert len(losses) == STEPS


def test_hosts_that_disagree_end_at_once_and_say_in_what(two_hosts):
  _, held, disagreed, ended = two_hosts
  for host, one in enumerate(ended):
    assert one.status == 2
    assert (held / f'out of host {host}').read_text() == ''
    assert (held / f'err of host {host}').read_text() == (
      f"hyperprompt: host {host} of 2: hosts disagree: host 1 has 'RANDOM_SEED = 1', "
      "host 0 has 'RANDOM_SEED = 0'; start the same command, of the same installation, "
      'on all\n'
    )
  assert not disagreed.exists()


@pytest.mark.parametrize(
  ('error', 'lost'),
  [
    (ValueError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer'), True),
    (RuntimeError('UNAVAILABLE: Task 1 heartbeat timeout'), True),
    (ValueError('shapes differ'), False),
    (UserError('the barrier reef is no task'), False),
  ],
)
def test_a_host_that_loses_another_ends_at_once_and_says_so(
  monkeypatch, capsys, error, lost
):
  ended = []
  monkeypatch.setattr(distributed, '_is_one_of_several', lambda: True)
  monkeypatch.setattr(distributed, 'leave', ended.append)
  distributed.end_if_lost(error)
  assert ended == ([1] if lost else [])
  assert ('another host is lost' in capsys.readouterr().err) == lost


@pytest.mark.parametrize(
  ('when', 'message'),
  [
    ('the start', r'2 hosts have not met at \S+ within 4 seconds, .*; start the same .*'),
    ('a save', 'host 0 of 2: another host is lost .*; start the same command on all .*'),
    ('the end', 'host 0 of 2: another host is lost .*; start the same command on all .*'),
  ],
)
def test_where_one_host_is_killed_the_other_ends_with_one_line(compile_once, when, message):
  code = 'import sys\nfrom tests.runtime import lost_host\nlost_host.run(*sys.argv[1:])'
  first, second = start_two(code, 1, compile_once, when)
  assert (first.status, second.status) == (1, -signal.SIGKILL)
  assert re.fullmatch(f'hyperprompt: {message}\n', first.stderr) and first.stdout == ''


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--process_count=2'], 'give all three, or --process_count=1 where'),
    (['--coordinator_address=h:1', '--process_count=2'], 'go together'),
    (
      ['--coordinator_address=h', '--process_count=2', '--process_index=0'],
      '--coordinator_address=h must be like 10.0.0.1:8476',
    ),
    (
      ['--coordinator_address=h:1', '--process_count=2', '--process_index=2'],
      '--process_index=2 of --process_count=2: hosts count from 0',
    ),
    (['--device_count=8'], '--device_count=8: there are 1 device(s), on 1 host(s)'),
  ],
)
def test_flags_that_cannot_be(tmp_path, capsys, flags, message):
  assert cli.main([*arguments(tmp_path / 'run', ONE_DEVICE), *flags]) == 2
  out, err = capsys.readouterr()
  assert out == '' and message in err and len(err.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('vendor', 'device', 'is_tpu'), [
  ('0x1ae0', '0x0063', True),
  ('0x1ae0', '0x0042', False),  # a network card of Google's
  ('0x10de', '0x0063', False),
])  # fmt: skip
def test_a_tpu_is_told_from_other_devices(tmp_path, vendor, device, is_tpu):
  assert not libtpu.has_tpu(tmp_path)
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one' / 'vendor').write_text(f'{vendor}\n')
  (tmp_path / 'one' / 'device').write_text(f'{device}\n')
  assert libtpu.has_tpu(tmp_path) == is_tpu


def test_on_a_tpu_hosts_meet_without_flags(tmp_path, capsys, monkeypatch):
  met = []

  def initialize(**flags):
    met.append(flags)
    raise RuntimeError('no metadata\nand a long story')

  monkeypatch.setattr(libtpu, 'has_tpu', lambda: True)
  monkeypatch.setattr('jax.distributed.initialize', initialize)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  command = arguments(tmp_path / 'run', ONE_DEVICE)
  assert cli.main(command) == 2
  message = 'the hosts do not find each other: no metadata; where there is but this one'
  assert message in capsys.readouterr().err
  assert len(met) == 1 and 'coordinator_address' not in met[0]
  assert cli.main([*command, '--process_count=1', '--device_count=2']) == 2
  assert len(met) == 1


@pytest.mark.slow(held_by='test_one_device_goes_on_where_two_hosts_were_stopped')
def test_a_run_needs_no_shards_of_its_data(one_device, tmp_path):
  copy = back_to(one_device, SAVED, tmp_path / 'copy')
  assert cli.main(arguments(copy, ONE_DEVICE, NUM_DATA_SHARDS=1)) == 0
  assert_same_run(copy, one_device)
