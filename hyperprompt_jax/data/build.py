"""Materialising tasks: their examples, as SeqIO defines them, into the cache."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import inspect
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
from hyperprompt_jax.runtime import terminal
from hyperprompt_tasks import preprocessors, sources

_ROWS = 512  # of a batch that is transformed at once
_COMPARED = 16
# SeqIO seeds preprocessors by a global variable while a pipeline is constructed.
_constructing = threading.Lock()

Tensors = Mapping[str, Any]
Transform = Callable[[Tensors], Tensors]


class NotMaterialised(Exception):
  """A task whose examples cannot be written down.

  Args:
    task: the name of the task.
    reason: says why, as the end of a sentence about it.
  """

  def __init__(self, task: str, reason: str):
    super().__init__(f'{task} {reason}')


@dataclasses.dataclass(frozen=True)
class Request:
  """What of a task is wanted.

  Attributes:
    split: which examples.
    lengths: of `inputs` and `targets`, for tasks whose preprocessors depend on them.
    use_cached: whether SeqIO's own cache of the task is read in place of its source.
    whole: whether every feature is kept, as evaluation needs them, and not tokens alone.
  """

  split: str
  lengths: Mapping[str, int]
  use_cached: bool = False
  whole: bool = False


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

  Several processes that share the folder each build a part: what another is building is
  left until the rest is done.

  Args:
    tasks: have the split that is wanted.
    request: says what of them.
    cache: holds the entries.

  Returns:
    The entries by the name of the task.

  Raises:
    NotMaterialised: a task is endless, random, too large, or has features of other kinds.
    UserError: the cache cannot be written.
  """
  known = digests.FileDigests(cache.files)
  plans = [_plan(task, request, known) for task in tasks]
  found = {plan.task.name: cache.find(*plan.place) for plan in plans}
  missing = [plan for plan in plans if not found[plan.task.name]]
  if missing:
    cache.make()
    with _progress(len(missing)) as done, _writing(cache):
      workers = max(1, min(len(missing), os.cpu_count() or 1))
      with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        build = functools.partial(_build, cache=cache, wait=False, done=done)
        for plan, entry in zip(missing, pool.map(build, missing), strict=True):
          found[plan.task.name] = entry
      for plan in missing:
        if not found[plan.task.name]:
          found[plan.task.name] = _build(plan, cache=cache, wait=True, done=done)
    known.write()
  entries = {name: entry for name, entry in found.items() if entry}
  _check_room(entries, cache, pruned=bool(missing))
  return entries


def depends_on_lengths(task: seqio.Task) -> bool:
  """Whether preprocessors are told the lengths, but for the one that cuts before EOS."""
  return any(
    'sequence_length' in inspect.signature(of).parameters
    for of in task.preprocessors
    if not isinstance(of, seqio.CacheDatasetPlaceholder)
    and _function(of) is not seqio.preprocessors.append_eos_after_trim
  )


def _plan(
  task: seqio.Task, request: Request, known: digests.FileDigests
) -> _Plan:
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
      also=(task.name, request.whole, lengths),
    ),
  )


@contextlib.contextmanager
def _writing(cache: Cache) -> Iterator[None]:
  from hyperprompt_jax.errors import UserError

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
  return f'and the tasks beside it take more than the {cache.max_bytes:,} bytes of the cache'


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, bool], None]]:
  """Shows how many tasks and examples are written; yields what tells it of more."""
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

    def more(examples: int, whole: bool) -> None:
      nonlocal count
      with lock:
        count += examples
        bar.update(shown, advance=int(whole), examples=count)

    yield more
  if (seconds := time.monotonic() - start) > 1:
    console.print(f'cached {count:,} examples of {total} tasks in {seconds:.0f} s')


def _build(
  plan: _Plan, *, cache: Cache, wait: bool, done: Callable[[int, bool], None]
) -> Entry | None:
  """Builds an entry, or returns None where another process is about it."""
  with cache.building(*plan.place, wait=wait) as alone:
    if entry := cache.find(*plan.place):
      done(0, True)
      return entry
    if not alone:
      return None
    start = time.monotonic()
    writer = Writer(cache.directory)
    try:
      for batch in _batches(plan):
        writer.append(batch)
        done(len(next(iter(batch.values()))), False)
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
    finally:
      writer.close()
  done(0, True)
  return entry


def _rules(task: seqio.Task) -> dict[str, str]:
  """How each token feature is cut to a length when it is read."""
  before_eos = any(
    _function(of) is seqio.preprocessors.append_eos_after_trim for of in task.preprocessors
  )
  return {
    name: CUT_BEFORE_EOS if before_eos and feature.add_eos else CUT
    for name, feature in task.output_features.items()
  }


def _batches(plan: _Plan) -> Iterator[dict[str, Values]]:
  """The examples, many at a time.

  Tokenizing and what follows it treats every example alike, and most tasks end so: it is
  applied to whole batches, at a third of the cost. Rows in memory that nothing else is
  done to need no pipeline at all.
  """
  task, request = plan.task, plan.request
  front, tail = _parted(task, request.use_cached)
  wanted = None if request.whole else set(task.output_features)
  if not front and isinstance(task.source, sources.ColumnSource) and task.source.in_memory:
    for rows in _slices(task.source.columns(request.split)):
      yield _values(task.name, _applied(tail, rows), wanted)
    return
  with _constructing:
    dataset = _pipeline(plan, front, seed=0)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
      raise NotMaterialised(task.name, 'is endless')
    _check_repeatable(plan, front)
    if wanted is not None:
      dataset = dataset.map(lambda row: {k: v for k, v in row.items() if k in wanted})
    _check_flat(task.name, dataset.element_spec)
    dataset = dataset.ragged_batch(_ROWS).map(
      functools.partial(_applied, tail), num_parallel_calls=tf.data.AUTOTUNE
    )
    options = tf.data.Options()
    options.experimental_optimization.map_fusion = True
    dataset = dataset.prefetch(2).with_options(options)
  for rows in dataset:
    yield _values(task.name, rows, wanted)


def _slices(columns: Tensors) -> Iterator[Tensors]:
  flat = {
    f'{name}/{k}' if isinstance(of, Mapping) else name: v
    for name, of in columns.items()
    for k, v in (of.items() if isinstance(of, Mapping) else [('', of)])
  }
  size = int(next(iter(flat.values())).shape[0])
  for start in range(0, size, _ROWS):
    yield {name: column[start : start + _ROWS] for name, column in flat.items()}


def _pipeline(plan: _Plan, front: Sequence[Any], seed: int) -> tf.data.Dataset:
  """SeqIO's pipeline without shuffling and without its tail."""
  task, request = plan.task, plan.request
  if len(front) == len(task.preprocessors):
    # Whatever SeqIO checks of a task, it checks here.
    return task.get_dataset(
      dict(request.lengths) if depends_on_lengths(task) else None,
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
      [of for of in front if not isinstance(of, seqio.CacheDatasetPlaceholder)],
      sequence_length=dict(request.lengths) if depends_on_lengths(task) else None,
    )


def _check_repeatable(plan: _Plan, front: Sequence[Any]) -> None:
  """Refuses examples that are drawn anew each epoch: written down, they would be one draw."""
  if all(_function(of).__module__.startswith('hyperprompt_tasks') for of in front):
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


def _check_flat(name: str, spec: Mapping[str, Any]) -> None:
  for feature, of in spec.items():
    rank = getattr(getattr(of, 'shape', None), 'rank', None)
    if rank is None or rank > 1 or isinstance(of, tf.RaggedTensorSpec):
      raise NotMaterialised(name, f'has a feature {feature} that is no scalar or vector')


# ---- The tail: what is applied to batches ----


def _parted(task: seqio.Task, use_cached: bool) -> tuple[list[Any], list[Transform]]:
  """The preprocessors that see single examples, and what is done to batches after them."""
  steps = list(task.preprocessors)
  if use_cached:
    steps = steps[task._cache_step_idx + 1 :]
  tail: list[Transform] = []
  while steps and (transform := _on_batches(steps[-1], task)):
    tail.insert(0, transform)
    steps.pop()
  return steps, tail


def _on_batches(preprocessor: Any, task: seqio.Task) -> Transform | None:
  """What a preprocessor does, done to a batch; None where it may be another thing."""
  function, keywords = _function(preprocessor), _keywords(preprocessor)
  features = task.output_features
  if isinstance(preprocessor, seqio.CacheDatasetPlaceholder):
    return lambda rows: rows
  if function is seqio.preprocessors.tokenize and not keywords.keys() - {
    'copy_pretokenized'
  }:
    return lambda rows: seqio.preprocessors.tokenize_impl(rows, features, **keywords)
  eos = seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim
  if function in eos and not keywords:
    return lambda rows: seqio.preprocessors.append_eos_after_trim_impl(
      dict(rows), features, None
    )
  if function is preprocessors.add_task_ids:
    ids = tf.constant([[keywords['task_id']]], tf.int32)
    return lambda rows: {**rows, 'task_ids': tf.repeat(ids, _num_rows(rows), 0)}
  return None


def _applied(tail: Sequence[Transform], rows: Tensors) -> Tensors:
  for transform in tail:
    rows = transform(rows)
  return rows


def _num_rows(rows: Tensors) -> Any:
  first = next(iter(rows.values()))
  return first.nrows() if isinstance(first, tf.RaggedTensor) else tf.shape(first)[0]


def _function(preprocessor: Any) -> Any:
  while isinstance(preprocessor, functools.partial):
    preprocessor = preprocessor.func
  return preprocessor


def _keywords(preprocessor: Any) -> dict[str, Any]:
  return dict(preprocessor.keywords) if isinstance(preprocessor, functools.partial) else {}


def _values(name: str, rows: Tensors, wanted: set[str] | None) -> dict[str, Values]:
  kept = {k: v for k, v in rows.items() if wanted is None or k in wanted}
  return {feature: _value(name, feature, of) for feature, of in kept.items()}


def _value(name: str, feature: str, of: Any) -> Values:
  """A feature of a batch of examples, as arrays."""
  lengths: tuple[np.ndarray, ...] = ()
  if isinstance(of, tf.RaggedTensor) or of.shape.rank == 2:
    if isinstance(of, tf.RaggedTensor):
      flat, length = of.flat_values.numpy(), of.row_lengths().numpy()
    else:
      flat = of.numpy()
      length = np.full(flat.shape[0], flat.shape[1], np.int64)
      flat = flat.reshape(-1)
    lengths = (length,)
  else:
    flat = of.numpy()
  if flat.ndim != 1:
    raise NotMaterialised(name, f'has a feature {feature} that is no scalar or vector')
  if flat.dtype == object:
    number = np.array([len(text) for text in flat], np.int64)
    data = np.frombuffer(b''.join(flat.tolist()), np.uint8)
    return Values(data, (number, *lengths), text=True)
  return Values(flat, lengths)
