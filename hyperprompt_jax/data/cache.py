"""The folder of materialised examples: entries that are built once and shared.

An entry is a folder `TASK/SPLIT-KEY` of `examples.bin`, the columns, and `info.json`, which
describes them. The key is a digest of everything that the examples depend on, so that
an entry never changes: it appears whole, by a rename, and is used until it is pruned.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from hyperprompt_jax.data.columns import CHECKED_BYTES, Columns, Layout, Writer, digest_of
from hyperprompt_jax.errors import UserError

DIRECTORY_VARIABLE = 'HYPERPROMPT_DATA_CACHE'
DEFAULT_BYTES = 50 * 10**9
_EXAMPLES, _INFO, _FILES = 'examples.bin', 'info.json', 'files.json'
_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Info:
  """The description of an entry.

  Attributes:
    task: names the SeqIO task.
    split: names its split.
    identity: holds digests of all that the examples depend on (`digests.Identity`).
    rules: gives the rule by which each token feature is cut: see `examples.CUT`.
    layout: gives the places of the arrays in the file, and the digest of the file.
    seconds: is the time that the entry took to build.
  """

  task: str
  split: str
  identity: Mapping[str, str]
  rules: Mapping[str, str]
  layout: Layout
  seconds: float

  def to_json(self) -> dict[str, Any]:
    """The record as JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Any) -> Self:
    """The inverse of `to_json`.

    Raises:
      TypeError, ValueError, KeyError: if the value does not describe an entry.
    """
    return cls(**{**value, 'layout': Layout.from_json(value['layout'])})


@dataclasses.dataclass(frozen=True)
class Entry:
  """One materialised split of a task.

  Attributes:
    path: names its folder.
    info: describes it.
  """

  path: str
  info: Info

  def columns(self) -> Columns:
    """The examples, by index.

    Raises:
      UserError: if the file is not what the entry says.
    """
    try:
      return Columns(os.path.join(self.path, _EXAMPLES), self.info.layout)
    except (OSError, ValueError) as error:
      raise UserError(
        f'the cached examples of {self.info.task} cannot be read: {error}; '
        '`hyperprompt data verify` removes what is damaged'
      ) from error

  def is_intact(self) -> bool:
    """Whether the file has the bytes that were written, all of which are read."""
    try:
      return digest_of(os.path.join(self.path, _EXAMPLES)) == self.info.layout.digest
    except OSError:
      return False

  def last_used(self) -> float:
    """Returns the time at which it was last opened, in seconds since the epoch."""
    with contextlib.suppress(OSError):
      return os.stat(os.path.join(self.path, _INFO)).st_mtime
    return 0.0

  def remove(self) -> None:
    """Removes the entry; a process that has opened it can read on."""
    shutil.rmtree(self.path, ignore_errors=True)
    with contextlib.suppress(OSError):
      os.rmdir(os.path.dirname(self.path))


class TooLarge(Exception):
  """Examples that take more room than the cache may have."""


class Cache:
  """The folder, which any number of processes use at a time.

  Args:
    directory: holds the entries; it is made when the first is built.
    max_bytes: bounds the room that they take. The entries that were used longest ago make
      room for new ones.
  """

  def __init__(self, directory: str, max_bytes: int = DEFAULT_BYTES):
    self.directory = os.path.abspath(directory)
    self.max_bytes = max_bytes

  @property
  def files(self) -> str:
    """The path of the digests of the files that have been read."""
    return os.path.join(self.directory, _FILES)

  def make(self) -> None:
    """Makes the folder.

    Raises:
      UserError: if it cannot be written.
    """
    trial = os.path.join(self.directory, f'.trial-{uuid.uuid4().hex}')
    try:
      os.makedirs(self.directory, exist_ok=True)
      os.mkdir(trial)
      os.rmdir(trial)
    except OSError as error:
      raise UserError(
        f'the data cache {self.directory} cannot be written ({error.strerror}): set '
        f'DATA_CACHE or {DIRECTORY_VARIABLE} to another folder'
      ) from error

  def find(self, task: str, split: str, key: str) -> Entry | None:
    """Returns an entry, which counts as used now, or None where there is none."""
    entry = _read(self._path(task, split, key))
    if entry:
      with contextlib.suppress(OSError):  # the cache may be somebody else's
        os.utime(os.path.join(entry.path, _INFO))
    return entry

  @contextlib.contextmanager
  def building(self, task: str, split: str, key: str, *, wait: bool) -> Iterator[bool]:
    """Keeps other processes from building an entry while active.

    Args:
      task: names the task of the entry.
      split: names the split of the entry.
      key: is the key of the entry.
      wait: tells whether to wait for a process that is building it.

    Yields:
      Whether no other process is building it. On a system without such locks, two processes
      may build at a time, and one of the equal entries stays.
    """
    path = f'{self._path(task, split, key)}.lock'
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'ab') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        yield False
        return
      except OSError:
        yield True
        return
      try:
        yield True
      finally:
        # A process that waits here then locks a file without a name, which keeps out
        # nobody. It finds the entry, or builds it at the same time as another process.
        with contextlib.suppress(OSError):
          os.unlink(path)

  def add(self, info: Info, key: str, writer: Writer) -> Entry:
    """Writes an entry.

    Args:
      info: describes it, but for its layout.
      key: is the key of the entry.
      writer: holds the examples.

    Raises:
      TooLarge: if it is larger than the cache may be.
      OSError: if it cannot be written.
    """
    path = self._path(info.task, info.split, key)
    temporary = f'{path}.{uuid.uuid4().hex[:12]}.tmp'
    os.mkdir(temporary)
    try:
      layout = writer.write(os.path.join(temporary, _EXAMPLES))
      if layout.size > self.max_bytes:
        raise TooLarge
      info = dataclasses.replace(info, layout=layout)
      with open(os.path.join(temporary, _INFO), 'x', encoding='utf-8') as file:
        json.dump(info.to_json(), file, ensure_ascii=False)
        if layout.size > CHECKED_BYTES:
          file.flush()
          os.fsync(file.fileno())
      try:
        os.rename(temporary, path)
      except OSError:
        # Another process has built the entry, or a damaged one is in the way.
        if built := _read(path):
          return built
        shutil.rmtree(path, ignore_errors=True)
        os.rename(temporary, path)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    return Entry(path, info)

  def entries(self) -> list[Entry]:
    """All entries, by task and split."""
    entries = []
    with contextlib.suppress(FileNotFoundError):
      for task in sorted(os.listdir(self.directory)):
        folder = os.path.join(self.directory, task)
        if os.path.isdir(folder):
          entries += [
            _read(os.path.join(folder, name)) for name in sorted(os.listdir(folder))
          ]
    return [entry for entry in entries if entry]

  def prune(self, max_bytes: int | None = None, keep: Iterable[Entry] = ()) -> list[Entry]:
    """Removes the folders of killed writers, and entries, those used longest ago first.

    Args:
      max_bytes: bounds the room of the rest; None is for the cache's own bound.
      keep: stay, whatever room they take.

    Returns:
      The entries that were removed.
    """
    self._remove_leftovers()
    room = self.max_bytes if max_bytes is None else max_bytes
    kept = {entry.path for entry in keep}
    # False sorts before True.
    entries = sorted(
      self.entries(), key=lambda entry: (entry.path not in kept, -entry.last_used())
    )
    removed = []
    for entry in entries:
      room -= entry.info.layout.size
      if room < 0 and entry.path not in kept:
        entry.remove()
        removed.append(entry)
    return removed

  def _remove_leftovers(self) -> None:
    """Removes the folders of killed writers, which nobody has touched for an hour."""
    with contextlib.suppress(OSError):
      for task in os.listdir(self.directory):
        folder = os.path.join(self.directory, task)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
          path = os.path.join(folder, name)
          if name.endswith('.tmp') and time.time() - os.stat(path).st_mtime > _HOUR:
            shutil.rmtree(path, ignore_errors=True)

  def _path(self, task: str, split: str, key: str) -> str:
    name = re.sub(r'[^\w.-]', '_', f'{split}-{key[:16]}')
    return os.path.join(self.directory, re.sub(r'[^\w.-]', '_', task)[:200], name)


def default_directory() -> str:
  """The folder that HYPERPROMPT_DATA_CACHE names, or one in the user's cache folder."""
  own = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return os.environ.get(DIRECTORY_VARIABLE) or os.path.join(own, 'hyperprompt_jax', 'data')


def _read(path: str) -> Entry | None:
  """The entry in a folder; None if it is damaged, or is of another version."""
  try:
    with open(os.path.join(path, _INFO), encoding='utf-8') as file:
      info = Info.from_json(json.load(file))
    if os.path.getsize(os.path.join(path, _EXAMPLES)) != info.layout.size:
      return None
  except (OSError, ValueError, TypeError, KeyError):
    return None
  return Entry(path, info)
