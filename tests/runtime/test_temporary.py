"""Temporary files of a killed process are removed by the next one, and by no other."""

import os
import subprocess
import sys

import pytest

MAKE = """
import os, sys, tempfile
from hyperprompt_jax.runtime import temporary
temporary.use_own_folder()
tempfile.mkstemp(), tempfile.mkdtemp()
print(tempfile.gettempdir(), os.environ['TMPDIR'], flush=True)
"""


def start(place, then):
  return subprocess.Popen(
    [sys.executable, '-c', MAKE + then],
    env={**os.environ, 'TMPDIR': str(place)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_process_removes_its_own_files_and_those_of_killed_ones(tmp_path):
  other = tmp_path / 'hyperprompt-of-somebody'
  other.mkdir()
  with start(tmp_path, 'sys.stdin.read()') as running:
    folder, variable = running.stdout.readline().split()
    assert folder == variable and os.path.dirname(folder) == str(tmp_path)
    with start(tmp_path, 'os.kill(os.getpid(), 9)') as killed:
      left, _ = killed.stdout.readline().split()
    assert killed.returncode == -9 and len(os.listdir(left)) == 2
    last = start(tmp_path, '')
    last.communicate()
    assert last.returncode == 0
    # The running process and strangers keep their files.
    assert {*tmp_path.iterdir()} == {other, tmp_path / os.path.basename(folder)}
    assert len(os.listdir(folder)) == 2
    running.stdin.close()
  assert running.returncode == 0 and {*tmp_path.iterdir()} == {other}


@pytest.mark.parametrize('place', ['/proc', '/nowhere'])
def test_without_a_folder_for_temporary_files_everything_stays(place, monkeypatch):
  from hyperprompt_jax.runtime import temporary

  monkeypatch.setattr(temporary.tempfile, 'tempdir', place)
  temporary.use_own_folder()
  assert temporary.tempfile.tempdir == place
