"""Materialising tasks: their examples, as SeqIO defines them, into the cache."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import inspect
import operator
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress
import seqio
import tensorflow as tf

from hyperprompt_jax.data import digests
from hyperprompt_jax.data.cache import Cache, Entry, Info, TooLarge
from hyperprompt_jax.data.columns import Layout, Values, Writer
from hyperprompt_jax.data.examples import CUT, CUT_BEFORE_EOS
from hyperprompt_jax.data.tail import (
  NotFlatError,
  Tensors,
  applied,
  function_of,
  parted,
  values_of,
)
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import distributed, terminal
from hyperprompt_tasks import sources

_ROWS = 1024  # of a batch that is transformed at once
_COMPARED = 16
_TOLD_SECONDS = 5
# SeqIO seeds preprocessors by a global variable while a pipeline is constructed.
_constructing = threading.Lock()


class NotMaterialised(Exception):
  """A task whose examples cannot be written down.

  Args:
    task: names the task.
    reason: is the reason, as the end of a sentence about the task.
  """

  def __init__(self, task: str, reason: str):
    super().__init__(f'{task} {reason}')


@dataclasses.dataclass(frozen=True)
class Request:
  """The part of a task that is wanted.

  Attributes:
    split: names the split.
    lengths: gives the lengths of `inputs` and `targets`, which preprocessors of some tasks
      depend on; it is empty where nothing is cut.
    use_cached: says whether SeqIO's own cache of the task is read in place of its source.
    all_features: says whether every feature is kept, as evaluation needs them, and not
      tokens alone.
  """

  split: str
  lengths: Mapping[str, int]
  use_cached: bool = False
  all_features: bool = False


@dataclasses.dataclass(frozen=True)
class _Plan:
  task: seqio.Task
  request: Request
  identity: digests.Identity

  @property
  def place(self) -> tuple[str, str, str]:
    return self.task.name, self.request.split, self.identity.key


def materialise(
  tasks: Sequence[seqio.Task], request: Request, cache: Cache
) -> dict[str, Entry]:
  """Returns the entries of tasks, and builds those that are not there.

  Several processes that share the folder each build a part. An entry that another process
  is building is left until the rest is done.

  Args:
    tasks: have the split that is wanted.
    request: names the split and the features.
    cache: holds the entries.

  Returns:
    The entries by the name of the task.

  Raises:
    NotMaterialised: a task is endless, random, too large, or has features of other kinds.
    UserError: the cache cannot be written.
  """
  known = digests.FileDigests(cache.files)
  plans = [_plan(task, request, known) for task in tasks]
  entries_by_task = {plan.task.name: cache.find(*plan.place) for plan in plans}
  missing = [plan for plan in plans if not entries_by_task[plan.task.name]]
  if missing:
    cache.make()
    with _progress(len(missing)) as done, _writing(cache):
      workers = max(1, min(len(missing), os.cpu_count() or 1))
      with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        build = functools.partial(_build, cache=cache, wait=False, done=done)
        for plan, entry in zip(missing, pool.map(build, missing), strict=True):
          entries_by_task[plan.task.name] = entry
      for plan in missing:
        if not entries_by_task[plan.task.name]:
          entries_by_task[plan.task.name] = _build(plan, cache=cache, wait=True, done=done)
  known.write()
  entries = {name: entry for name, entry in entries_by_task.items() if entry}
  _check_room(entries, cache, pruned=bool(missing))
  return entries


def depends_on_lengths(task: seqio.Task) -> bool:
  """Whether preprocessors are told the lengths, but for the one that cuts before EOS."""
  return any(
    'sequence_length' in inspect.signature(step).parameters
    for step in task.preprocessors
    if not isinstance(step, seqio.CacheDatasetPlaceholder)
    and function_of(step) is not seqio.preprocessors.append_eos_after_trim
  )


def _plan(task: seqio.Task, request: Request, known: digests.FileDigests) -> _Plan:
  lengths = dict(request.lengths) if depends_on_lengths(task) else None
  use_cached = request.use_cached and task.supports_caching
  return _Plan(
    task,
    dataclasses.replace(request, use_cached=use_cached),
    digests.identity(
      task,
      request.split,
      known,
      use_cached=use_cached,
      also=(task.name, request.all_features, lengths),
    ),
  )


@contextlib.contextmanager
def _writing(cache: Cache) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f'the data cache {cache.directory} cannot be written ({error.strerror or error}): '
      'make room, or set DATA_CACHE to another folder'
    ) from error


def _check_room(entries: Mapping[str, Entry], cache: Cache, *, pruned: bool) -> None:
  sizes = {name: entry.info.layout.size for name, entry in entries.items()}
  if sum(sizes.values()) > cache.max_bytes:
    raise NotMaterialised(max(sizes, key=lambda name: sizes[name]), _too_large(cache))
  if pruned:
    cache.prune(keep=entries.values())


def _too_large(cache: Cache) -> str:
  return (
    f'and the tasks beside it take more than the {cache.max_bytes:,} bytes of the cache'
  )


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int], None]]:
  """Shows how many tasks and examples are written; yields a function that adds some."""
  console = terminal.stderr_console()
  columns = (
    'caching examples',
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    'tasks, {task.fields[examples]:,} examples',
    rich.progress.TimeElapsedColumn(),
  )
  start, count = time.monotonic(), 0
  lock = threading.Lock()
  with rich.progress.Progress(
    *columns, console=console, disable=not console.is_terminal, transient=True
  ) as bar:
    shown = bar.add_task('', total=total, examples=0)

    def more(examples: int, tasks: int) -> None:
      nonlocal count
      with lock:
        count += examples
        bar.update(shown, advance=tasks, examples=count)

    yield more
  if (seconds := time.monotonic() - start) > _TOLD_SECONDS and distributed.is_first():
    console.print(f'cached {count:,} examples of {total} tasks in {seconds:.0f} s')


def _build(
  plan: _Plan, *, cache: Cache, wait: bool, done: Callable[[int, int], None]
) -> Entry | None:
  """Builds an entry, or returns None where another process is about it."""
  with cache.building(*plan.place, wait=wait) as alone:
    if entry := cache.find(*plan.place):
      done(0, 1)
      return entry
    if not alone:
      return None
    start = time.monotonic()
    writer = Writer(cache.directory)
    try:
      for batch in _batches(plan):
        writer.append(batch)
        done(len(next(iter(batch.values()))), 0)
        if writer.size > 4 * cache.max_bytes:  # before integers are narrowed
          raise TooLarge
      if not writer.examples:
        raise NotMaterialised(plan.task.name, f'has no {plan.request.split} examples')
      info = Info(
        task=plan.task.name,
        split=plan.request.split,
        identity=dataclasses.asdict(plan.identity),
        rules=_rules(plan.task),
        layout=Layout(0, '', 0, {}),
        seconds=round(time.monotonic() - start, 3),
      )
      entry = cache.add(info, plan.identity.key, writer)
    except TooLarge:
      raise NotMaterialised(plan.task.name, _too_large(cache)) from None
    except NotFlatError as error:
      reason = f'has a feature {error} that is no scalar or vector'
      raise NotMaterialised(plan.task.name, reason) from None
    finally:
      writer.close()
  done(0, 1)
  return entry


def _rules(task: seqio.Task) -> dict[str, str]:
  """Returns the rule by which each token feature is cut when it is read."""
  before_eos = any(
    function_of(step) is seqio.preprocessors.append_eos_after_trim
    for step in task.preprocessors
  )
  return {
    name: CUT_BEFORE_EOS if before_eos and feature.add_eos else CUT
    for name, feature in task.output_features.items()
  }


def _batches(plan: _Plan) -> Iterator[dict[str, Values]]:
  """The examples, many at a time.

  Tokenizing, what follows it and the texts of most tasks treat every example alike: these
  steps are applied to whole batches, which costs less. Rows in memory that nothing else is
  done to need no pipeline at all.
  """
  task, request = plan.task, plan.request
  front, tail = parted(task, request.use_cached)
  source = None if request.use_cached else task.source
  if not front and isinstance(source, sources.ColumnSource) and source.in_memory:
    batches = _slices(source.columns(request.split))
  else:
    batches = _read(plan, front)
  wanted = None if request.all_features else set(task.output_features)
  for rows in batches:
    yield values_of(applied(tail, rows), wanted)


def _slices(columns: Tensors) -> Iterator[Tensors]:
  size = int(tf.nest.flatten(columns)[0].shape[0])
  if size <= _ROWS:  # cutting tensors costs more than all else that a small task needs
    yield columns
    return
  for start in range(0, size, _ROWS):
    part = slice(start, start + _ROWS)
    yield tf.nest.map_structure(operator.itemgetter(part), columns)


def _read(plan: _Plan, front: Sequence[Any]) -> Iterator[Tensors]:
  """The rows of a task after the preprocessors that see single examples."""
  with _constructing:
    dataset = _pipeline(plan, front, seed=0)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
      raise NotMaterialised(plan.task.name, 'is endless')
    _check_repeatable(plan, front)
    _check_flat(plan, dataset.element_spec)
    options = tf.data.Options()
    options.experimental_optimization.map_fusion = True
    dataset = dataset.ragged_batch(_ROWS).prefetch(2).with_options(options)
  yield from dataset


def _pipeline(plan: _Plan, front: Sequence[Any], seed: int) -> tf.data.Dataset:
  """SeqIO's pipeline without shuffling and without its tail."""
  task, request = plan.task, plan.request
  if len(front) == len(task.preprocessors):
    # Whatever SeqIO checks of a task, it checks here.
    return task.get_dataset(
      _lengths(plan),
      split=request.split,
      shuffle=False,
      seed=seed,
      use_cached=request.use_cached,
      try_in_mem_cache=False,
    )
  source = task._get_cached_source(request.split) if request.use_cached else task.source
  dataset = source.get_dataset(split=request.split, shuffle=False, seed=seed)
  with seqio.utils.map_seed_manager(seed):
    return task._preprocess_dataset(
      dataset,
      [step for step in front if not isinstance(step, seqio.CacheDatasetPlaceholder)],
      sequence_length=_lengths(plan),
    )


def _lengths(plan: _Plan) -> dict[str, int] | None:
  """The lengths, where preprocessors depend on them."""
  return dict(plan.request.lengths) or None if depends_on_lengths(plan.task) else None


def _check_repeatable(plan: _Plan, front: Sequence[Any]) -> None:
  """Refuses examples that differ each epoch: written down, they would be one draw."""
  if all(function_of(step).__module__.startswith('hyperprompt_tasks') for step in front):
    return
  first, second = (
    list(_pipeline(plan, front, seed).take(_COMPARED).as_numpy_iterator())
    for seed in (0, 1)
  )
  same = len(first) == len(second) and all(
    a.keys() == b.keys()
    and all(np.array_equal(np.asarray(a[k]), np.asarray(b[k])) for k in a)
    for a, b in zip(first, second, strict=False)
  )
  if not same:
    raise NotMaterialised(plan.task.name, 'makes other examples each time that it is read')


def _check_flat(plan: _Plan, spec: Mapping[str, Any]) -> None:
  for feature, feature_spec in spec.items():
    if not plan.request.all_features and feature not in plan.task.output_features:
      continue
    rank = getattr(getattr(feature_spec, 'shape', None), 'rank', None)
    if rank is None or rank > 1 or isinstance(feature_spec, tf.RaggedTensorSpec):
      raise NotFlatError(feature)
