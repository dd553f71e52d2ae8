"""Facts about files of examples, kept so that unchanged files need not be read at a start.

They are in a folder that all runs share: `tasks` in the folder that
HYPERPROMPT_DATA_CACHE names, or in the user's own for caches.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from hyperprompt_tasks.text_files import Facts, TextSource

_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


class FileFacts:
  """The facts about the tasks of one mixture.

  Args:
    mixture: is the name of the mixture.
    files: its examples are in these files.
  """

  def __init__(self, mixture: str, files: Sequence[str]):
    place = _digest([mixture, *map(os.path.abspath, files)])
    self._path = os.path.join(_directory(), 'tasks', f'{place}.json')
    self._reader = _reader()
    self._kept = self._read()
    self._now: dict[str, Any] = {}

  def facts(
    self,
    part: str,
    files: Sequence[str],
    reading: str,
    read: Callable[[], Mapping[str, Facts]],
  ) -> dict[str, Facts]:
    """Returns the facts about tasks, which are read where a file is not what it was.

    Args:
      part: this name is that of no other part of the mixture.
      files: the examples are in these files.
      reading: describes how the files are read.
      read: reads the facts of the part's tasks.
    """
    key = _digest([self._reader, reading, [_state(path) for path in files]])
    entry = self._kept.get(part)
    if entry is None or entry[0] != key:
      entry = [
        key,
        {task: dataclasses.asdict(facts) for task, facts in read().items()},
      ]
    self._now[part] = entry
    return {task: Facts(**facts) for task, facts in entry[1].items()}

  def learn(self, task: str, source: TextSource) -> None:
    """Sets the facts of the source of one task, which has files of its own."""
    read = lambda: {task: source.facts}
    source.facts = self.facts(task, source.files, source.reading, read)[task]

  def keep(self) -> None:
    """Writes the facts down; where that cannot be, files are read again."""
    if self._now == self._kept:
      return
    with contextlib.suppress(OSError):
      os.makedirs(os.path.dirname(self._path), exist_ok=True)
      temporary = f'{self._path}.{uuid.uuid4().hex[:12]}.tmp'
      with open(temporary, 'x', encoding='utf-8') as file:
        json.dump(self._now, file)
      os.replace(temporary, self._path)

  def _read(self) -> dict[str, Any]:
    try:
      with open(self._path, encoding='utf-8') as file:
        return dict(json.load(file))
    except (OSError, ValueError):  # there is none yet, or it is damaged
      return {}


def _directory() -> str:
  own = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  shared = os.environ.get('HYPERPROMPT_DATA_CACHE')
  return shared or os.path.join(own, 'hyperprompt_jax', 'data')


def _reader() -> list[Any]:
  """Returns the state of this package's code, which decides how files are read."""
  modules = sorted(name for name in os.listdir(_OWN_FOLDER) if name.endswith('.py'))
  return [_state(os.path.join(_OWN_FOLDER, name)) for name in modules]


def _state(path: str) -> list[Any]:
  """Returns the name of a file, and values that change when it is written."""
  try:
    if '://' in path:
      status = tf.io.gfile.stat(path)
      return [path, status.length, status.mtime_nsec]
    local = os.stat(path)
    return [os.path.abspath(path), local.st_size, local.st_mtime_ns, local.st_ino]
  except (OSError, tf.errors.OpError):  # the reader has an error for this
    return [path]


def _digest(value: Any) -> str:
  return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
