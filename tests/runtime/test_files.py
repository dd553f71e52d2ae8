"""Files are written whole, or into pipes and devices, also beside other writers."""

import os
import stat
import threading

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime.files import (
  whole_file,
  whole_folder,
  write_whole,
  writing_output,
)


def test_a_file_takes_its_name_at_the_end(tmp_path):
  path = tmp_path / 'answers.jsonl'
  path.write_text('old')
  with whole_file(path) as file:
    file.write('new')
    assert path.read_text() == 'old'
  assert path.read_text() == 'new' and os.listdir(tmp_path) == ['answers.jsonl']


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'answers.jsonl'
  path.write_text('old')
  with pytest.raises(ZeroDivisionError), whole_file(path) as file:
    file.write('half')
    raise ZeroDivisionError
  assert path.read_text() == 'old' and os.listdir(tmp_path) == ['answers.jsonl']


def test_a_users_own_file_named_tmp_is_left_alone(tmp_path):
  (tmp_path / 'ans.jsonl.tmp').write_text('of the user')
  write_whole(tmp_path / 'ans.jsonl', 'x')
  assert (tmp_path / 'ans.jsonl.tmp').read_text() == 'of the user'


def test_two_writers_of_one_file_do_not_mix(tmp_path):
  path = tmp_path / 'answers'
  with whole_file(path) as one, whole_file(path) as other:
    one.write('1' * 5)
    other.write('2' * 9)
  assert path.read_text() == '1' * 5  # the block of the first ends last
  assert os.listdir(tmp_path) == ['answers']


def test_a_link_is_followed_and_stays_one(tmp_path):
  (tmp_path / 'real').write_text('old')
  (tmp_path / 'link').symlink_to('real')
  write_whole(tmp_path / 'link', 'new')
  assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real').read_text() == 'new'


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  received = []
  reader = threading.Thread(target=lambda: received.append(path.read_text()))
  reader.start()
  write_whole(path, 'through')
  reader.join(timeout=30)
  assert received == ['through'] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_to_and_not_replaced(tmp_path):
  # A link to it: as root, replacing /dev/null itself would break this machine.
  (tmp_path / 'null').symlink_to('/dev/null')
  write_whole(tmp_path / 'null', 'away')
  assert stat.S_ISCHR(os.stat('/dev/null').st_mode) and (tmp_path / 'null').is_symlink()


def test_a_full_device_is_one_line():
  with (
    pytest.raises(UserError, match=r'^--output x cannot be written: No space left'),
    writing_output('--output x'),
    whole_file('/dev/full') as file,
  ):
    file.write('x')


def test_new_files_follow_the_umask_and_old_ones_keep_their_mode(tmp_path):
  before = os.umask(0o027)
  try:
    write_whole(tmp_path / 'new', '')
    with whole_folder(tmp_path / 'folder') as folder:
      (folder / 'inside').write_text('')
      os.chmod(folder / 'inside', 0o600)  # as safetensors writes its files
  finally:
    os.umask(before)
  (tmp_path / 'old').write_text('')
  (tmp_path / 'old').chmod(0o604)
  write_whole(tmp_path / 'old', '')
  modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('new', 'old')}
  assert modes == {'new': 0o640, 'old': 0o604}
  assert stat.S_IMODE((tmp_path / 'folder').stat().st_mode) == 0o750
  assert stat.S_IMODE((tmp_path / 'folder/inside').stat().st_mode) == 0o640


def test_a_folder_appears_whole_and_never_over_another(tmp_path):
  with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / 'out') as folder:
    (folder / 'part').write_text('')
    raise ZeroDivisionError
  assert os.listdir(tmp_path) == []
  with (
    pytest.raises(UserError, match='exists already: name a new folder'),
    whole_folder(tmp_path / 'out'),
  ):
    (tmp_path / 'out').mkdir()  # of another process, meanwhile
  assert os.listdir(tmp_path) == ['out'] and os.listdir(tmp_path / 'out') == []
