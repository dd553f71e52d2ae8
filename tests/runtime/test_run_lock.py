"""A MODEL_DIR admits one run at a time."""

import errno
import fcntl
import os
import re
import resource
import socket

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import run_lock


def test_a_second_run_is_told_who_is_there(tmp_path):
  with run_lock.held(str(tmp_path)):
    with pytest.raises(UserError) as refused, run_lock.held(str(tmp_path)):
      pass
    # The first run still holds the lock.
    with pytest.raises(UserError), run_lock.held(str(tmp_path)):
      pass
  who = f'process {os.getpid()} on host {re.escape(socket.gethostname())}'
  assert re.fullmatch(
    rf'MODEL_DIR {tmp_path} is in use by another run \({who}, since '
    r'20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\): end it, or name another folder',
    str(refused.value),
  )


def test_a_run_that_has_ended_leaves_no_trace_in_the_file(tmp_path):
  with pytest.raises(ZeroDivisionError), run_lock.held(str(tmp_path)):
    assert (tmp_path / run_lock.FILE).read_text()
    raise ZeroDivisionError
  assert (tmp_path / run_lock.FILE).read_text() == ''
  with run_lock.held(str(tmp_path)):
    pass


def test_what_a_killed_run_has_written_locks_nothing(tmp_path):
  (tmp_path / run_lock.FILE).write_text('process 1 on host elsewhere, since yesterday\n')
  with run_lock.held(str(tmp_path)):
    assert 'elsewhere' not in (tmp_path / run_lock.FILE).read_text()


def test_other_folders_are_free(tmp_path):
  for name in ('copy', 'first'):
    (tmp_path / name).mkdir()
  with run_lock.held(str(tmp_path / 'copy')), run_lock.held(str(tmp_path / 'first')):
    pass


def test_a_bucket_is_not_checked():
  with run_lock.held('gs://bucket/run'), run_lock.held('gs://bucket/run'):
    pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', flock)
  with run_lock.held(str(tmp_path)):
    pass
  output = capsys.readouterr().err
  assert (
    f'{tmp_path}/run.lock cannot be locked (No locks available): a second run' in output
  )


def test_a_disk_that_takes_nothing_is_told_in_one_line(tmp_path):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
  try:
    with (
      pytest.raises(UserError, match=rf'^MODEL_DIR {tmp_path} cannot be written: .*large'),
      run_lock.held(str(tmp_path)),
    ):
      pass
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
