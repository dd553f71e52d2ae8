"""Takes a run's disk away from it, at its start and in its midst, and gives it back.

A disk that is full, one that may only be read, files that are refused, a folder that is not
there any more: the run must end with one line that names it. Once the disk is back, the
same command must go on, and end as the run does that was not disturbed.
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

# The disk that is filled.
DISK_BYTES = 16 * 2**20
# After which step it is taken away: between two checkpoints.
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
  """Lets nothing be made, changed or removed in the folder, by root either."""
  subprocess.run(['chattr', '-R', '+i', model_dir], check=True)
  try:
    yield
  finally:
    subprocess.run(['chattr', '-R', '-i', model_dir], check=True)


@contextlib.contextmanager
def _read_only_mount(model_dir: pathlib.Path) -> Iterator[None]:
  """Mounts the disk anew, for reading alone."""
  disk = model_dir.parent
  subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
  try:
    yield
  finally:
    subprocess.run(['mount', '-o', 'remount,rw', disk], check=True)


@contextlib.contextmanager
def _not_allowed(model_dir: pathlib.Path) -> Iterator[None]:
  """Makes the process that of a user who may not write there."""
  os.seteuid(NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


@contextlib.contextmanager
def _gone(model_dir: pathlib.Path) -> Iterator[None]:
  """Takes the folder away, as when a network's disk is unmounted."""
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
# What is done, by name; whether at the start, in the midst or both; on a small disk or not.
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
  """Runs the command here, under a condition from a step on; from the start, at 0."""
  with contextlib.ExitStack() as until_it_ends:
    take_away = lambda: until_it_ends.enter_context(condition(model_dir))
    if condition and at:
      until_it_ends.enter_context(small_run.before_step(at + 1, lambda _: take_away()))
    elif condition:
      take_away()
    return small_run.train_here(model_dir)


def _problems(
  model_dir: pathlib.Path, unbroken: pathlib.Path, status: int, said: list[str]
) -> Iterator[str]:
  """What is wrong with how a run ended without its disk, and with it again."""
  if status != 2:
    yield f'status {status}'
  if len(said) != 1 or not said[0].startswith('hyperprompt: '):
    yield f'it said {said[-5:]}'
  elif str(model_dir) not in said[0]:
    yield f'it named no folder: {said[0]}'
  status, said = _train(model_dir)
  if status:
    yield f'with its disk again, status {status}: {said[-3:]}'
  else:
    yield from small_run.differences(model_dir, unbroken)


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path) -> Iterator[None]:
  """A disk of its own, in memory."""
  size = f'size={DISK_BYTES}'
  subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', folder], check=True)
  try:
    yield
  finally:
    subprocess.run(['umount', '--lazy', folder], check=True)


def campaign(folder: pathlib.Path) -> dict[str, Any]:
  """All conditions, at the start and in the midst.

  Returns:
    `tried`: what each run said, by what was done; `wrong`: what must not be; `not done`:
    what this machine does not let us do, with the reason.
  """
  subject.add_mixture()
  # Where standard error is a file, a limit on files makes logging complain of itself, too.
  logging.raiseExceptions = False
  unbroken = folder / 'unbroken'
  status, said = _train(unbroken)
  assert status == 0, said
  tried, wrong, not_done = {}, [], {}
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
          status, said = _train(model_dir, condition, at)
          problems = [*_problems(model_dir, unbroken, status, said)]
      except subprocess.CalledProcessError as error:
        not_done[case] = str(error)
        continue
      tried[case] = next((line for line in said if line.startswith('hyperprompt:')), '')
      wrong += [f'{case}: {problem}' for problem in problems]
      print(
        f'{case} ({time.monotonic() - start:.0f} s): {tried[case]}', *problems, sep='\n  '
      )
  return {'tried': tried, 'wrong': wrong, 'not done': not_done}
