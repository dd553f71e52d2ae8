"""Damages every file of a checkpoint in every way, and checks what is restored.

Each file of a small run's last checkpoint is removed, truncated at several points, and has
one bit flipped, in each of its bytes or in random ones. Then the run resumes
(`restore_latest`), the checkpoint is evaluated (`restore_params`), and another run starts
from it (`open_source`). Each must end in one of three ways: the checkpoint is refused by
name; or it has the saved bits; or a resumed run uses the checkpoint before it, with the
saved bits and a warning that names both.

A run of two hosts never returns to an earlier checkpoint. Both hosts refuse within a minute
and move nothing, or end as an undisturbed run does.
"""

import collections
import contextlib
import dataclasses
import io
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import Checkpointer, TrainState
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.lazy import arranged
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.data import stream
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.training.settings import ALL, TASK, Retention
from hyperprompt_jax.training.trainable import TrainableParameters
from tools.reliability import small_run

TASKS = ('copy', 'reverse')
STEPS = (1, 2, 3)
# The permitted outcomes of a damage.
REFUSED, RESTORED, WENT_BACK = 'refused by name', 'restored right', 'went back, and said so'


@dataclasses.dataclass
class Data:
  """Shuffled training data in two shards, in place of a run's own."""

  num_shards: int = 2

  def __post_init__(self):
    self.readers = {shard: self._read(shard) for shard in range(self.num_shards)}
    self.number = None

  def record(self) -> dict[str, Any]:
    """Returns nothing that runs must share."""
    return {}

  def save(self, directory: epath.Path) -> None:
    """Writes the position."""
    stream.save_states(self.readers, directory)

  def restore(self, directory: epath.Path) -> None:
    """Reads the position."""
    stream.restore_states(self.readers, directory)

  def _read(self, shard: int) -> Iterator:
    numbers = tf.data.Dataset.range(1000).shard(self.num_shards, shard)
    return iter(numbers.shuffle(20, seed=5).repeat().batch(4))

  def next(self, count: int = 1) -> list[list[int]]:
    """Returns the next batches of all shards."""
    readers = self.readers.values()
    return [next(reader).numpy().tolist() for _ in range(count) for reader in readers]


def made_state(step: int) -> TrainState:
  """Returns a state with the kinds of arrays that a run has: stacks, vectors, counts."""
  rng = np.random.default_rng(step)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {
    'token_embedder': {'embedding': make(24, 8)},
    'encoder': {
      'layers': {'mlp': {'wi': {'kernel': make(2, 8, 6)}}},
      'encoder_norm': {'scale': make(8)},
    },
    'method': {'prompts': make(2, 3, 8)},
  }
  updates = optax.adam(1e-3).init(params)
  moments = jax.tree.map(lambda x: x + make(*x.shape).astype(x.dtype) * 100, updates)
  return TrainState(jnp.int32(step), params, moments)


def _like(state: TrainState) -> TrainState:
  """Returns the shapes, dtypes and shardings of a state."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def _bits(tree: Any) -> dict[str, tuple[Any, ...]]:
  return {
    path: (np.asarray(x).dtype.name, np.shape(x), np.asarray(x).tobytes())
    for path, x in by_path(tree).items()
  }


class Run:
  """A run with three checkpoints, copied anew for each damage.

  Args:
    folder: is empty, and receives the run and its copies.
    frozen: whether all but the method is frozen, so that there is a base.
  """

  def __init__(self, folder: pathlib.Path, frozen: bool = False):
    self._whole, self.copy = folder / 'whole', folder / 'run'
    self._trainable = TrainableParameters(TASK if frozen else ALL)
    data = Data()
    self._states = {step: made_state(step) for step in STEPS}
    if frozen:  # as it is in every step
      for state in self._states.values():
        method = {'method': state.params['method']}
        state.params.update({**self._states[1].params, **method})
    self._next = {}
    with contextlib.closing(self._checkpointer(self._whole)) as checkpointer:
      checkpointer.start(dataclasses.replace(self._states[1], step=0), None)
      for state in self._states.values():
        data.next(3)
        checkpointer.save(state, data)
      checkpointer.wait()
    for step in STEPS:
      state, batches, warned = self._restore(self._whole, step)
      assert not warned and self._is(step, state), 'what is whole is not restored'
      self._next[step] = batches
    shutil.copytree(self._whole, self.copy)

  def _checkpointer(self, folder: pathlib.Path, keep: int | None = None) -> Checkpointer:
    data = {'SEED': 0}
    return Checkpointer(str(folder), TASKS, Retention(keep=keep), {}, data, self._trainable)

  def renew(self) -> pathlib.Path:
    """Makes a fresh copy of the run."""
    shutil.rmtree(self.copy, ignore_errors=True)
    shutil.copytree(self._whole, self.copy)
    return self.copy

  def files(self, part: str) -> list[str]:
    """Returns the paths of the files of a checkpoint or of the base, inside the run."""
    inside = (self._whole / part).rglob('*')
    return sorted(str(p.relative_to(self._whole)) for p in inside if p.is_file())

  def _restore(
    self, folder: pathlib.Path, only: int | None = None
  ) -> tuple[TrainState, Any, str]:
    errors, data = io.StringIO(), Data()
    like = _like(self._states[1])
    with (
      contextlib.closing(self._checkpointer(folder)) as checkpointer,
      contextlib.redirect_stderr(errors),
    ):
      if only:
        state = checkpointer.restore(only, like, data)
      else:
        state = checkpointer.restore_latest(like, data)
    return state, data.next(4), errors.getvalue()

  def _is(self, step: int, state: TrainState) -> bool:
    return int(state.step) == step and _bits(state) == _bits(self._states[step])

  def go_on(self) -> str:
    """Resumes the copy, and returns the outcome."""
    last, before = self.copy / f'checkpoints/{STEPS[-1]}', STEPS[-2]
    try:
      state, batches, warned = self._restore(self.copy)
    except UserError as error:
      return _refusal(error, self.copy)
    step = int(state.step)
    if not self._is(step, state) or batches != self._next[step]:
      return f'DIFFERENT at step {step}'
    if step == STEPS[-1] and not warned:
      return RESTORED
    one_line = re.fullmatch(rf'WARNING: .*{last} is damaged.*step {before}, .*\n', warned)
    aside = [*(self.copy / 'damaged').glob(f'{STEPS[-1]}-*')]
    if step == before and one_line and aside and not last.exists():
      return WENT_BACK
    return f'SILENT at step {step}: {warned!r}'

  def save_again(self, step: int, keep: int | None = None) -> str:
    """Saves one more step, as a resumed run does, and restores it."""
    state = dataclasses.replace(self._states[STEPS[-1]], step=jnp.int32(step))
    data = Data()
    with contextlib.closing(self._checkpointer(self.copy, keep)) as checkpointer:
      checkpointer.save(state, data)
    restored, batches, warned = self._restore(self.copy)
    same = _bits(restored) == _bits(state) and batches == data.next(4)
    return RESTORED if same and not warned else 'DIFFERENT'

  def evaluate(self) -> str:
    """Restores the parameters of the copy's last checkpoint, as `eval` and `infer` do."""
    step = STEPS[-1]
    try:
      with contextlib.closing(Checkpointer(str(self.copy), TASKS)) as checkpointer:
        params = checkpointer.restore_params(step, _like(self._states[step]).params)
    except UserError as error:
      return _refusal(error, self.copy)
    same = _bits(params) == _bits(self._states[step].params)
    return RESTORED if same else 'DIFFERENT'

  def start_from(self) -> str:
    """Reads the parameters of the copy's last checkpoint as another run's start."""
    params = self._states[STEPS[-1]].params
    try:
      source = open_source(str(self.copy / f'checkpoints/{STEPS[-1]}'))
      loaded = arranged(source.arrays, by_path(params))
      same = _bits({p: a.read() for p, a in loaded.items()}) == _bits(params)
    except UserError as error:
      return _refusal(error, self.copy)
    return RESTORED if same and source.task_list == TASKS else 'DIFFERENT'


def _refusal(error: UserError, folder: pathlib.Path) -> str:
  first = str(error).splitlines()[0]
  return REFUSED if str(folder) in first else f'REFUSED WITHOUT A NAME: {first}'


# ---- Damages ----


def _cut(size: int) -> Callable[[pathlib.Path], object]:
  return lambda path: path.write_bytes(path.read_bytes()[:size])


def _flip(place: int, bit: int) -> Callable[[pathlib.Path], None]:
  def flip(path: pathlib.Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[place] ^= 1 << bit
    path.write_bytes(contents)

  return flip


def damages(size: int, rng: random.Random, flips: int) -> dict[str, Callable]:
  """Returns the damages to a file, by name.

  Args:
    size: is the size of the file in bytes.
    rng: chooses bits.
    flips: limits the number of bytes that are changed, one in each case.
  """
  cases: dict[str, Callable[[pathlib.Path], object]] = {'removed': pathlib.Path.unlink}
  cases |= {f'cut to {n}': _cut(n) for n in sorted({0, 1, size // 2, size - 1}) if n < size}
  places = sorted(rng.sample(range(size), min(size, flips)))
  cases |= {f'a bit of byte {n}': _flip(n, rng.randrange(8)) for n in places}
  return cases


def campaign(folder: pathlib.Path, seed: int, flips: int) -> dict[str, Any]:
  """Tries all damages to all files of a checkpoint, of an older one, and of a base.

  Args:
    folder: is empty, and receives the runs.
    seed: determines the flipped bits.
    flips: limits the number of bytes of each file that are changed, one in each case.

  Returns:
    `counts` of outcomes by the damaged part and its reader; `wrong`, the cases with an
    outcome that is not permitted.
  """
  rng = random.Random(seed)
  counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  wrong: list[str] = []
  whole, frozen = Run(folder / 'whole'), Run(folder / 'frozen', frozen=True)
  last, first = f'checkpoints/{STEPS[-1]}', f'checkpoints/{STEPS[0]}'
  for run, part, name, may in (
    (whole, last, 'the last checkpoint', {REFUSED, RESTORED, WENT_BACK}),
    # Nothing is read from checkpoints before the last.
    (whole, first, 'the first of three checkpoints', {RESTORED}),
    # All checkpoints need the base.
    (frozen, 'base', 'the frozen parameters', {REFUSED, RESTORED}),
  ):
    for file in run.files(part):
      size = (run.renew() / file).stat().st_size
      for case, damage in damages(size, rng, flips).items():
        damage(run.renew() / file)
        for reader in (run.evaluate, run.start_from, run.go_on):
          try:
            ended = reader()
          except Exception as error:  # a traceback, where there should be one line
            ended = f'{type(error).__name__}: {str(error)[:200]}'
          right = ended in may
          counts[f'{name}: {reader.__name__}'][ended if right else 'wrong'] += 1
          if not right:
            wrong.append(f'{file}, {case}: {reader.__name__}: {ended[:300]}')
  return {
    'counts': {name: dict(counter) for name, counter in counts.items()},
    'wrong': wrong,
  }


# ---- Two hosts ----


def campaign_on_two_hosts(
  folder: pathlib.Path, compiled: pathlib.Path, seed: int
) -> dict[str, Any]:
  """Damages files of each item of a checkpoint that two hosts wrote, in three ways.

  Args:
    folder: is empty, and receives the runs.
    compiled: is JAX's compilation cache.
    seed: determines the files and the bits.

  Returns:
    `counts` of outcomes; `wrong`, the cases with an outcome that is not permitted; `apart`,
    the most seconds between the ends of two hosts that refuse.
  """
  hyperprompt_tasks.use_vocabulary('bytes')  # to compare positions in the data
  rng = random.Random(f'{seed} two hosts')
  counts: collections.Counter = collections.Counter()
  wrong: list[str] = []
  apart = 0.0
  whole, copy = folder / 'whole', folder / 'run'
  for host in small_run.start(whole, 2, compiled):
    assert host.wait(small_run.HUNG_SECONDS) and host.status == 0, host.messages
  last = f'checkpoints/{small_run.STEPS - small_run.SAVED}'
  for file, case, damage in _some_damages(whole / last, rng):
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / f'checkpoints/{small_run.STEPS}')
    damage(copy / last / file)
    hosts = small_run.start(copy, 2, compiled)
    for host in hosts:
      host.wait(small_run.HUNG_SECONDS)
    ended = _ended(hosts, copy, copy / last, whole)
    if ended == REFUSED:
      apart = max(apart, abs(hosts[0].ended - hosts[1].ended))
    counts[ended if ended in (REFUSED, RESTORED) else 'wrong'] += 1
    print(f'2 host(s): {file}, {case}: {ended}', flush=True)
    if ended not in (REFUSED, RESTORED):
      wrong.append(f'{last}/{file}, {case}: on two hosts: {ended}')
  return {'counts': dict(counts), 'wrong': wrong, 'apart': apart}


def _some_damages(
  checkpoint: pathlib.Path, rng: random.Random
) -> Iterator[tuple[pathlib.Path, str, Callable]]:
  """Yields three damages for each item of a checkpoint: removed, cut, one bit flipped."""
  for item in sorted(p for p in checkpoint.iterdir() if p.is_dir()):
    files = sorted(p for p in item.rglob('*') if p.is_file())
    for kind in ('removed', 'cut', 'a bit'):
      file = rng.choice(files)
      cases = damages(file.stat().st_size, rng, flips=1).items()
      case, damage = rng.choice([(c, d) for c, d in cases if c.startswith(kind)])
      yield file.relative_to(checkpoint), case, damage


def _ended(
  hosts: list[small_run.Host],
  run: pathlib.Path,
  damaged: pathlib.Path,
  whole: pathlib.Path,
) -> str:
  """Returns the outcome of two hosts that resumed from a damaged checkpoint."""
  statuses = [host.status for host in hosts]
  if not any(statuses):
    return '; '.join(small_run.differences(run, whole)) or RESTORED
  apart = abs(hosts[0].ended - hosts[1].ended)
  named = any(f'checkpoint {damaged} ' in line for host in hosts for line in host.messages)
  silent = not all(host.complaints for host in hosts)
  if not all(statuses) or not named or silent or apart > small_run.LOST_SECONDS:
    return f'{statuses}, {apart:.0f} s apart: {[host.messages[-2:] for host in hosts]}'
  was_moved = not damaged.exists() or (run / 'damaged').exists()
  return 'MOVED' if was_moved else REFUSED
