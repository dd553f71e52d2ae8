"""The batch script for Slurm, with stand-ins for Slurm's commands and variables."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
SCRIPT = HERE.parents[1] / 'launch/slurm.sh'
# The start of each verb, and the places that the processes have got.
MEET = """
import argparse, os, sys
from hyperprompt_jax.cli import arguments
from hyperprompt_jax.runtime import distributed
parser = argparse.ArgumentParser()
arguments.add_hosts(parser)
distributed.start(parser.parse_args(sys.argv[2:]))
import jax
place = f'{jax.process_index()} of {jax.process_count()}: {jax.local_device_count()}'
open(os.environ['PLACE'] + os.environ['SLURM_PROCID'], 'w').write(place)
distributed.wait_for_all('places are written')
"""


@pytest.fixture
def submit(tmp_path):
  """Runs the batch script as Slurm does; `hyperprompt` is a shell script."""

  def run(hyperprompt, *flags, **environment):
    for name in ('srun', 'squeue', 'scontrol'):
      (tmp_path / name).symlink_to(HERE / 'slurm_stand_in.sh')
    (tmp_path / 'hyperprompt').write_text(f'#!/bin/bash\n{hyperprompt}\n')
    (tmp_path / 'hyperprompt').chmod(0o755)
    (tmp_path / 'calls').touch()
    return subprocess.run(
      [SCRIPT, *flags],
      env={
        'PATH': f'{tmp_path}:{os.defpath}',
        'SLURM_JOB_ID': '4711',
        'STATE': 'RUNNING',
        'TASKS': '2',
        **environment,
      },
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )

  return run


def requeued(tmp_path):
  return 'scontrol requeue 4711\n' in (tmp_path / 'calls').read_text()


def test_the_tasks_of_slurm_meet_without_a_flag(submit, tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  done = submit(
    f'exec {sys.executable} -c "$MEET" "$@"',
    '--device_count=2',
    MEET=MEET,
    PLACE=str(tmp_path / 'place'),
    PYTHONPATH=os.pathsep.join(sys.path),
    JAX_PLATFORMS='cpu',
    JAX_COORDINATOR_PORT=str(port),
  )
  assert done.returncode == 0, done.stderr
  places = [(tmp_path / f'place{task}').read_text() for task in range(2)]
  assert places == ['0 of 2: 1', '1 of 2: 1']


def test_the_flags_arrive_unchanged(submit, tmp_path):
  flags = ["--gin.MODEL_DIR='/a b'", '--x=$(touch evil)', '']
  done = submit(f'printf "%s\\n" "$@" >"{tmp_path}/given$SLURM_PROCID"', *flags)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'given1').read_text().split('\n') == [
    'train',
    '--meet_seconds=600',
    *flags,
    '',
  ]
  assert not requeued(tmp_path)


@pytest.mark.parametrize('status', [1, 130, 134, 137, 143])
def test_a_job_that_may_succeed_is_put_into_the_queue_again(submit, tmp_path, status):
  done = submit(f'exit {status}', '--x')
  assert done.returncode == status
  assert 'is put into the queue again' in done.stderr and requeued(tmp_path)


def test_a_mistake_ends_the_job_although_others_end_too(submit, tmp_path):
  done = submit('exit $((SLURM_PROCID == 1 ? 2 : 1))', '--x')
  assert done.returncode == 2
  assert 'a mistake that would happen again' in done.stderr
  assert not requeued(tmp_path)


def test_restarts_are_bounded(submit, tmp_path):
  done = submit('exit 1', '--x', SLURM_RESTART_COUNT='20')
  assert done.returncode == 1
  assert 'status 1 after 20 restarts: the job ends' in done.stderr
  assert not requeued(tmp_path)


def test_a_cancelled_job_stays_cancelled(submit, tmp_path):
  done = submit('exit 143', '--x', STATE='COMPLETING')
  assert done.returncode == 143
  assert 'the job is in COMPLETING, and ends' in done.stderr
  assert not requeued(tmp_path)


@pytest.mark.parametrize(
  ('flags', 'job', 'status'), [((), '1', 2), (('--x',), '', 2), (('--help',), '', 0)]
)
def test_it_explains_itself(submit, tmp_path, flags, job, status):
  done = submit('exit 0', *flags, SLURM_JOB_ID=job)
  assert done.returncode == status
  assert 'usage: sbatch ' in (done.stderr if status else done.stdout)
  assert (tmp_path / 'calls').read_text() == ''
