"""Takes a run's disk away at its start or in its middle, and gives it back.

The disk may be full, read-only or limited by a quota, or the folder may be gone. The run
must end with one line that names the folder. Once the disk works again, the same command
must resume, and end as the undisturbed run does.
"""

import contextlib
import logging
import os
import pathlib
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from tools.reliability import small_run, subject

# The size of the disk that is filled.
DISK_BYTES = 16 * 2**20
# The disk is taken away after this step, which is between two checkpoints.
TAKEN_AT = 6
NOBODY = 65534


@contextlib.contextmanager
def _full(model_dir: pathlib.Path) -> Iterator[None]:
  """Fills the disk to its last byte."""
  ballast = model_dir.parent / 'ballast'
  with ballast.open('wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(4096))
  try:
    yield
  finally:
    ballast.unlink()


@contextlib.contextmanager
def _too_large(model_dir: pathlib.Path) -> Iterator[None]:
  """Refuses files of more than 100 bytes, as a quota does."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _read_only(model_dir: pathlib.Path) -> Iterator[None]:
  """Makes the folder immutable, for root too."""
  subprocess.run(['chattr', '-R', '+i', model_dir], check=True)
  try:
    yield
  finally:
    subprocess.run(['chattr', '-R', '-i', model_dir], check=True)


@contextlib.contextmanager
def _read_only_mount(model_dir: pathlib.Path) -> Iterator[None]:
  """Remounts the disk read-only."""
  disk = model_dir.parent
  subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
  try:
    yield
  finally:
    subprocess.run(['mount', '-o', 'remount,rw', disk], check=True)


@contextlib.contextmanager
def _not_allowed(model_dir: pathlib.Path) -> Iterator[None]:
  """Turns the process into one of a user without write permission."""
  os.seteuid(NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


@contextlib.contextmanager
def _gone(model_dir: pathlib.Path) -> Iterator[None]:
  """Takes the folder away, as when a network disk is unmounted."""
  away = model_dir.with_name('away')
  model_dir.rename(away)
  try:
    yield
  finally:
    if model_dir.exists():  # what was being written may have made its folder again
      left = [path.name for path in model_dir.glob('checkpoints/*')]
      assert all('tmp' in name for name in left), f'a new run in its place: {left}'
      shutil.rmtree(model_dir)
    away.rename(model_dir)


Condition = Callable[[pathlib.Path], contextlib.AbstractContextManager[None]]
# Conditions by name; whether they are tried at the start, in the middle, on a small disk.
CONDITIONS: dict[str, tuple[Condition, bool, bool, bool]] = {
  'disk full': (_full, True, True, True),
  'mounted for reading alone': (_read_only_mount, True, False, True),
  'folder made immutable': (_read_only, True, True, False),
  'another user without permission': (_not_allowed, True, True, False),
  'files limited in size (as by a quota)': (_too_large, True, True, False),
  'folder gone': (_gone, False, True, False),
}


def _train(
  model_dir: pathlib.Path, condition: Condition | None = None, at: int = 0
) -> tuple[int, list[str]]:
  """Runs the command here, under a condition from step `at` on, or from the start (0)."""
  if condition is None:
    return small_run.train_here(model_dir)
  with contextlib.ExitStack() as until_it_ends:
    take_away = lambda: until_it_ends.enter_context(condition(model_dir))
    if at:
      until_it_ends.enter_context(small_run.before_step(at + 1, lambda _: take_away()))
    else:
      take_away()
    return small_run.train_here(model_dir)


def _problems(
  model_dir: pathlib.Path, unbroken: pathlib.Path, status: int, messages: list[str]
) -> Iterator[str]:
  """Yields the faults in how a run ended without its disk, and once it had it again."""
  if status != 2:
    yield f'status {status}'
  if len(messages) != 1 or not messages[0].startswith('hyperprompt: '):
    yield f'it said {messages[-5:]}'
  elif str(model_dir) not in messages[0]:
    yield f'it named no folder: {messages[0]}'
  status, messages = _train(model_dir)
  if status:
    yield f'with its disk again, status {status}: {messages[-3:]}'
  else:
    yield from small_run.differences(model_dir, unbroken)


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path) -> Iterator[None]:
  """Mounts a small disk in memory."""
  size = f'size={DISK_BYTES}'
  subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', folder], check=True)
  try:
    yield
  finally:
    subprocess.run(['umount', '--lazy', folder], check=True)


def campaign(folder: pathlib.Path) -> dict[str, Any]:
  """Tries all conditions, at the start and in the middle.

  Returns:
    `tried`: the message of each run, by condition; `wrong`: the faults; `not done`: the
    conditions that this machine does not permit, with the reason.
  """
  subject.add_mixture()
  # Where standard error is a file, a limit on files makes logging complain of itself, too.
  logging.raiseExceptions = False
  unbroken = folder / 'unbroken'
  status, messages = _train(unbroken)
  assert status == 0, messages
  tried: dict[str, str] = {}
  wrong: list[str] = []
  not_done: dict[str, str] = {}
  for name, (condition, at_start, in_midst, on_small_disk) in CONDITIONS.items():
    moments = [('from the start', 0)] * at_start + [('in its midst', TAKEN_AT)] * in_midst
    for moment, at in moments:
      case = f'{name}, {moment}'
      disk = folder / f'{len(tried) + len(not_done)}'
      disk.mkdir()
      model_dir = disk / 'run'
      disk_of_its_own = _small_disk(disk) if on_small_disk else contextlib.nullcontext()
      start = time.monotonic()
      try:
        with disk_of_its_own:
          model_dir.mkdir()
          status, messages = _train(model_dir, condition, at)
          problems = [*_problems(model_dir, unbroken, status, messages)]
      except subprocess.CalledProcessError as error:
        not_done[case] = str(error)
        continue
      tried[case] = next((line for line in messages if line.startswith('hyperprompt:')), '')
      wrong += [f'{case}: {problem}' for problem in problems]
      print(
        f'{case} ({time.monotonic() - start:.0f} s): {tried[case]}', *problems, sep='\n  '
      )
  return {'tried': tried, 'wrong': wrong, 'not done': not_done}
