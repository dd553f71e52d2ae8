"""The folder of materialised examples: shared, bounded, and damaged."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest

import hyperprompt_tasks
from hyperprompt_jax.data import build
from hyperprompt_jax.data.cache import Cache
from hyperprompt_jax.errors import UserError
from tests.data.built import LENGTHS, TEXTS, identity, loud, made, task


@pytest.fixture(autouse=True)
def _bytes():
  hyperprompt_tasks.use_vocabulary('bytes')


def test_two_that_want_the_same_build_it_once(tmp_path, monkeypatch):
  built, real = [], build._batches

  def slow(plan):
    built.append(plan.task.name)
    time.sleep(0.5)
    return real(plan)

  monkeypatch.setattr(build, '_batches', slow)
  tasks = [task(name=f'hp_test_{n}') for n in range(3)]
  request = build.Request('train', LENGTHS)
  results = []
  threads = [
    threading.Thread(
      target=lambda: results.append(build.materialise(tasks, request, Cache(str(tmp_path))))
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(built) == [of_task.name for of_task in tasks]
  assert [len(entries) for entries in results] == [3, 3]
  assert not [path for path in tmp_path.rglob('*') if path.suffix in ('.tmp', '.lock')]


def build_slowly(folder):
  """Builds six tasks, of which other processes may take some; names those built here."""
  built, real = [], build._batches

  def slow(plan):
    built.append(plan.task.name)
    time.sleep(0.3)
    return real(plan)

  hyperprompt_tasks.use_vocabulary('bytes')
  tasks = [task(name=f'hp_test_{n}') for n in range(6)]
  with mock.patch.object(build, '_batches', slow):
    entries = build.materialise(tasks, build.Request('train', LENGTHS), Cache(folder))
  assert all(entry.is_intact() for entry in entries.values())
  return built, {name: entry.info.layout.digest for name, entry in entries.items()}


OTHER_HOST = """
import json, pathlib, sys
import hyperprompt_tasks
from tests.data import built
from tests.data.test_cache import build_slowly
hyperprompt_tasks.use_vocabulary('bytes')
print(built.identity(built.task(built.loud), pathlib.Path(sys.argv[1])).key, flush=True)
sys.stdin.readline()
print(json.dumps(build_slowly(sys.argv[2])))
"""


# Only processes show that the locks hold between them; the other one takes five seconds to
# start.
def test_processes_agree_on_identities_and_build_a_part_of_a_shared_folder_each(tmp_path):
  folder = str(tmp_path / 'shared')
  with subprocess.Popen(
    [sys.executable, '-c', OTHER_HOST, str(tmp_path), folder],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    # The hashes of this process have another seed, which is random.
    env={**os.environ, 'PYTHONHASHSEED': '1'},
  ) as other:
    assert other.stdout.readline() == f'{identity(task(loud), tmp_path).key}\n'
    other.stdin.write('\n')
    other.stdin.flush()
    ours, entries = build_slowly(folder)
    theirs, their_entries = json.loads(other.communicate()[0])
  assert entries == their_entries
  assert ours and theirs
  assert sorted([*ours, *theirs]) == sorted(entries)


def test_a_build_that_is_cut_off_leaves_nothing_that_is_used(tmp_path, monkeypatch):
  def cut_off(plan):
    yield from real(plan)
    raise KeyboardInterrupt

  real = build._batches
  monkeypatch.setattr(build, '_batches', cut_off)
  with pytest.raises(KeyboardInterrupt):
    made(task(), tmp_path)
  assert Cache(str(tmp_path)).entries() == []
  monkeypatch.undo()
  assert len(made(task(), tmp_path)) == len(TEXTS)


def test_the_entries_used_longest_ago_make_room(tmp_path):
  cache = Cache(str(tmp_path))
  sizes = []
  for n in range(3):
    entry = made(task(name=f'hp_test_{n}'), tmp_path).entry
    os.utime(pathlib.Path(entry.path) / 'info.json', (n, n))
    sizes.append(entry.info.layout.size)
  assert cache.prune(sum(sizes)) == []
  assert [entry.info.task for entry in cache.prune(sum(sizes) - 1)] == ['hp_test_0']
  last, *_ = cache.entries()[::-1]
  removed = cache.prune(0, keep=[last])
  assert [entry.info.task for entry in removed] == ['hp_test_1']
  assert [entry.path for entry in cache.entries()] == [last.path]


def test_folders_that_kills_left_are_removed_once_they_are_old(tmp_path):
  entry = made(task(), tmp_path).entry
  left = pathlib.Path(f'{entry.path}.0123456789ab.tmp')
  left.mkdir()
  cache = Cache(str(tmp_path))
  cache.prune()
  assert left.exists()
  os.utime(left, (1, 1))
  cache.prune()
  assert not left.exists()
  assert len(cache.entries()) == 1


def test_damage_is_noticed(tmp_path):
  entry = made(task(), tmp_path).entry
  assert entry.is_intact()
  path = pathlib.Path(entry.path) / 'examples.bin'
  contents = bytearray(path.read_bytes())
  contents[len(contents) // 2] ^= 1
  path.write_bytes(contents)
  assert not entry.is_intact()
  with pytest.raises(UserError, match='other bytes than were written'):
    entry.columns()
  path.write_bytes(contents[:-1])
  # What is not whole is built again.
  assert Cache(str(tmp_path)).entries() == []
  assert made(task(), tmp_path).entry.is_intact()


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match=r'data cache .*file/cache cannot be written'):
    made(task(), tmp_path / 'file' / 'cache')
