"""Tries non-finite numbers, a second run in one folder, and deleted older checkpoints.

A number of the state becomes NaN or infinite before a step: the run must end at that step
and save nothing of it. A second run starts in the folder of another: it must be refused.
Files of older checkpoints are deleted, as by an interrupted cleanup: the run must resume.
In the end each run must equal the undisturbed one.
"""

import dataclasses
import functools
import math
import pathlib
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import TrainState
from tools.reliability import small_run, subject
from tools.reliability.small_run import SAVED, STEPS

# How often each is tried; the first counts for each of `POISONS`.
NUMBERS, SECOND_RUNS, HALF_DELETED = 2, 2, 3
# A part of the state and a value. (An infinite second moment only makes an update zero.)
POISONS = (('params', math.nan), ('params', math.inf), ('opt_state', math.nan))


def _poison(
  part: str, value: float, rng: random.Random
) -> Callable[[TrainState], TrainState]:
  """Puts a value at a random place of the parameters or of the optimizer's state."""

  def put(state: TrainState) -> TrainState:
    leaves, structure = jax.tree.flatten(getattr(state, part))
    # Leaves of one number are placeholders and counts.
    used = [i for i, x in enumerate(leaves) if x.size > 1 and x.dtype == jnp.float32]
    chosen = rng.choice(used)
    place = tuple(rng.randrange(size) for size in leaves[chosen].shape)
    leaves[chosen] = leaves[chosen].at[place].set(value)
    return dataclasses.replace(state, **{part: jax.tree.unflatten(structure, leaves)})

  return put


def _numbers(run: pathlib.Path, step: int, act: Callable) -> Iterator[str]:
  """Yields the faults of a run with a non-finite number from a step on."""
  with small_run.before_step(step, act):
    status, messages = small_run.train_here(run)
  # A checkpoint is good once a later step from it was finite.
  good = max(0, (step - 2) // SAVED * SAVED)
  last = f'last good checkpoint: step {good}' if good else 'no good checkpoint'
  if status != 2 or len(messages) != 1:
    yield f'status {status}: {messages[-3:]}'
  elif not messages[0].startswith(f'hyperprompt: step {step} is not finite ('):
    yield f'it does not name step {step}: {messages[0]}'
  elif 'tasks in its batch: ' not in messages[0] or last not in messages[0]:
    yield f'it does not name tasks and {last!r}: {messages[0]}'
  for saved in (run / 'checkpoints').glob('[0-9]*'):
    for path, array in small_run.arrays(run, int(saved.name)).items():
      if int(saved.name) >= step or not np.isfinite(array.read()).all():
        yield f'{path} of step {saved.name} was saved'


def _second_run(run: pathlib.Path, step: int, compiled: pathlib.Path) -> Iterator[str]:
  """Yields the faults of a run that was started beside another."""
  outcomes = []

  def start_another(state: TrainState) -> None:
    del state
    (host,) = small_run.start(run, 1, compiled)
    host.wait(small_run.HUNG_HERE_SECONDS)
    outcomes.append((host.status, host.complaints))

  with small_run.before_step(step, start_another):
    status, messages = small_run.train_here(run)
  if status or messages:
    yield f'the first run ended with {status}: {messages[-3:]}'
  (status, messages), *_ = outcomes
  refused = f'hyperprompt: MODEL_DIR {run} is in use by another run'
  if status != 2 or len(messages) != 1 or not messages[0].startswith(refused):
    yield f'the second run ended with {status}: {messages[-3:]}'


def _half_deleted(
  run: pathlib.Path, unbroken: pathlib.Path, rng: random.Random
) -> Iterable[str]:
  """Deletes the last checkpoint, and some files of all but the one before it."""
  shutil.copytree(unbroken, run)
  *older, _, last = sorted((run / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  shutil.rmtree(last)
  for step in older:
    for file in sorted(p for p in step.rglob('*') if p.is_file()):
      if rng.random() < 0.5:
        file.unlink()
  return ()  # the run itself shows the faults


def campaign(folder: pathlib.Path, compiled: pathlib.Path, seed: int) -> dict[str, Any]:
  """Runs the campaign.

  Args:
    folder: is empty, and receives the runs.
    compiled: is JAX's compilation cache.
    seed: determines steps, places and files.

  Returns:
    `tried`: the number of tries of each kind; `wrong`: the faults.
  """
  subject.add_mixture()
  hyperprompt_tasks.use_vocabulary('bytes')  # to compare positions in the data
  rng = random.Random(f'{seed} guards')
  unbroken = folder / 'unbroken'
  status, messages = small_run.train_here(unbroken)
  assert status == 0, messages
  tried: dict[str, int] = {}
  wrong: list[str] = []

  def try_it(kind: str, case: str, problems: Callable[[pathlib.Path], Iterable[str]]):
    run = folder / f'{kind} {tried.get(kind, 0)}'
    problems_of_run = [*problems(run)]
    status, messages = small_run.train_here(run)
    if status or messages:
      problems_of_run.append(f'afterwards the command ended with {status}: {messages[-3:]}')
    else:
      problems_of_run += small_run.differences(run, unbroken)
    tried[kind] = tried.get(kind, 0) + 1
    wrong.extend(f'{case}: {problem}' for problem in problems_of_run)
    print(f'{case}: {problems_of_run or "right"}', flush=True)

  for part, value in POISONS * NUMBERS:
    step, act = rng.randint(1, STEPS), _poison(part, value, rng)
    case = f'{value} in {part} before step {step}'
    try_it('numbers', case, functools.partial(_numbers, step=step, act=act))
  for _ in range(SECOND_RUNS):
    step = rng.randint(1, STEPS)
    another = functools.partial(_second_run, step=step, compiled=compiled)
    try_it('second runs', f'a second run before step {step}', another)
  for _ in range(HALF_DELETED):
    half_deleted = functools.partial(_half_deleted, unbroken=unbroken, rng=rng)
    try_it('half deleted', 'older steps deleted in part', half_deleted)
  return {'tried': tried, 'wrong': wrong}
