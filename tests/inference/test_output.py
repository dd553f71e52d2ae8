"""The file of answers: whole at the end, continued after a kill, never in the way."""

import json
import os
import threading

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.output import opened

REQUEST = {'input': 'q.jsonl', 'step': 4}


class Killed(BaseException):
  """Stands for a signal: nothing of ours may catch it."""


def write(path, answers, request=REQUEST, killed=False):
  """Writes answers as `infer` does; returns how many were there already."""
  with opened(str(path), request) as output:
    for number in answers[output.done :]:
      output.write({'prediction': number})
    output.flush()
    if killed:
      raise Killed
    return output.done


def read(path):
  return [json.loads(line)['prediction'] for line in path.read_text().splitlines()]


def test_a_killed_process_leaves_its_answers_to_the_next_one(tmp_path):
  path = tmp_path / 'answers.jsonl'
  with pytest.raises(Killed):
    write(path, [1, 2], killed=True)
  assert not path.exists()
  (partial,) = tmp_path.iterdir()
  with partial.open('a') as file:
    file.write('{"prediction": 3')  # what a kill in the middle of a write leaves
  # Another request begins anew, and leaves the first one's answers where they are.
  assert write(tmp_path / 'answers.jsonl', [9], {'step': 5}) == 0
  assert read(path) == [9] and partial.exists()
  assert write(path, [1, 2, 3, 4]) == 2
  assert read(path) == [1, 2, 3, 4]
  assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_request_without_answers(tmp_path):
  with pytest.raises(Killed):
    write(tmp_path / 'answers.jsonl', [], killed=True)
  assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_the_same_answers(tmp_path):
  path = tmp_path / 'answers.jsonl'
  with opened(str(path), REQUEST) as first:
    first.write({'prediction': 1})
    with pytest.raises(UserError, match='another process is writing these answers'):
      write(path, [1])
  assert read(path) == [1]


def test_a_link_is_followed_and_permissions_are_kept(tmp_path):
  path, link = tmp_path / 'mine.jsonl', tmp_path / 'link.jsonl'
  path.write_text('old')
  path.chmod(0o640)
  link.symlink_to(path)
  write(link, [1])
  assert link.is_symlink() and read(path) == [1]
  assert path.stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  lines = []
  reader = threading.Thread(target=lambda: lines.extend(path.read_text().splitlines()))
  reader.start()
  write(path, [1, 2])
  reader.join()
  assert [json.loads(line)['prediction'] for line in lines] == [1, 2]
  assert path.is_fifo()


def test_a_dash_is_standard_output(capfd):
  write('-', [1, 2])
  assert capfd.readouterr().out == '{"prediction": 1}\n{"prediction": 2}\n'


def test_a_folder_is_no_output(tmp_path):
  with pytest.raises(IsADirectoryError):
    write(tmp_path, [1])
