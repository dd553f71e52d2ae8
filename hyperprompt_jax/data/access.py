"""Access to the examples of tasks: materialised in the cache if possible, else a stream."""

import dataclasses
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import build, digests, identity
from hyperprompt_jax.data.cache import Cache, default_directory
from hyperprompt_jax.data.examples import Examples, missing_features
from hyperprompt_jax.data.indexed import Batches, BatchSettings, IndexedBatches
from hyperprompt_jax.data.stream import StreamedBatches
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import distributed, terminal

DEFAULT, NONE = 'default', 'none'
TrainingBatches = IndexedBatches | StreamedBatches
Lengths = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Access:
  """The way to the examples of a run's tasks.

  Attributes:
    lengths: gives the lengths of `inputs` and `targets`.
    use_cached: says whether SeqIO's own caches are read in place of the sources.
    cache: holds what is materialised; None reads everything as a stream.
  """

  lengths: Lengths
  use_cached: bool = False
  cache: Cache | None = None

  @classmethod
  def from_settings(cls, data: Any) -> 'Access':
    """The access that `settings.DataSettings` describe."""
    cache = None
    if data.cache != NONE:
      directory = default_directory() if data.cache == DEFAULT else data.cache
      cache = Cache(directory, int(data.cache_gigabytes * 10**9))
    return cls(data.task_feature_lengths, data.use_cached, cache)

  def request(self, split: str, *, all_features: bool) -> build.Request:
    """The parts of a split to read: tokens alone, or all features."""
    return build.Request(split, dict(self.lengths), self.use_cached, all_features)

  def open(
    self, tasks: Sequence[seqio.Task], split: str, *, all_features: bool
  ) -> dict[str, Examples]:
    """Opens the materialised examples of tasks; builds what is not there.

    Raises:
      NotMaterialised: if a task's examples can only be read as a stream.
      UserError: if the cache cannot be written or read.
    """
    if self.cache is None:
      raise build.NotMaterialised(tasks[0].name, 'is not cached, by DATA_CACHE=none')
    entries = build.materialise(
      tasks, self.request(split, all_features=all_features), self.cache
    )
    _allow_open_files(len(entries))
    return {name: Examples.open(entry) for name, entry in entries.items()}


def _allow_open_files(number: int) -> None:
  """Raises this process's limit of open files, as far as allowed, for `number` more."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = number + 512
  if soft < wanted:
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def members(name: str, split: str) -> dict[seqio.Task, float]:
  """The tasks of a mixture that are drawn from, and their rates; 1 for a task alone."""
  rates = hyperprompt_tasks.rates_of(name, split)
  return {seqio.TaskRegistry.get(task): float(rate) for task, rate in rates.items()}


def training_batches(
  name: str,
  settings: BatchSettings,
  access: Access,
  partitioner: Partitioner,
  num_shards: int,
) -> TrainingBatches:
  """The training batches of a mixture, from the first on.

  Args:
    name: names the task or mixture.
    settings: decide the batches.
    access: gives the way to the examples.
    partitioner: gives the rows of this host.
    num_shards: is the number of shards in which a stream is read.

  Raises:
    UserError: if the mixture has no data to draw from, or hosts have other data.
  """
  rates = members(name, 'train')
  if not rates:
    raise UserError(f'all tasks of {name} with training data have the rate 0')
  if hasattr(provider := seqio.get_mixture_or_task(name), 'warn_of_absent_data'):
    provider.warn_of_absent_data('train')
  examples, reason = _materialised(list(rates), access)
  if reason:
    terminal.stderr_console().print(
      f'reading {name} as a stream through SeqIO, slower than by index: {reason}'
    )
    return StreamedBatches(
      name,
      settings,
      partitioner,
      num_shards=num_shards,
      use_cached=access.use_cached,
      tasks=_described_streams(rates, access),
    )
  tasks = {
    task.name: identity.described(
      of_task.entry.info.identity, rate, len(of_task), of_task.columns.layout.digest
    )
    for (task, rate), of_task in zip(rates.items(), examples, strict=True)
  }
  _check_alike(tasks)
  own = np.zeros(settings.batch_size, bool)
  hosts = partitioner.rows_of_hosts(settings.batch_size)
  for rows in hosts[distributed.process_index()]:
    own[rows.start : rows.stop] = True
  return IndexedBatches(
    Batches(examples, list(rates.values()), settings),
    own,
    tasks=tasks,
    saves=distributed.is_first(),
  )


def _materialised(
  tasks: Sequence[seqio.Task], access: Access
) -> tuple[list[Examples], str]:
  """The examples of tasks in their order, or the reason of a host that must stream them."""
  examples: list[Examples] = []
  reason = ''
  try:
    opened = access.open(tasks, 'train', all_features=False)
    examples = [opened[task.name] for task in tasks]
  except build.NotMaterialised as error:
    reason = str(error)
  if examples and (missing := missing_features(examples)):
    raise UserError(
      f'training needs inputs, targets and task_ids; there is no {", no ".join(missing)}'
    )
  return examples, next(filter(None, distributed.gather(reason)), '')


def _described_streams(
  rates: Mapping[seqio.Task, float], access: Access
) -> dict[str, list[Any]]:
  known = digests.FileDigests(access.cache.files if access.cache else None)
  described = {}
  for task, rate in rates.items():
    digested = dataclasses.asdict(
      digests.identity(task, 'train', known, use_cached=access.use_cached)
    )
    described[task.name] = identity.described(digested, rate, None, None)
  known.write()
  return described


def _check_alike(tasks: Mapping[str, Any]) -> None:
  """Refuses to train where a host has other examples than the first one."""
  digest = digests.of_value(tasks)
  if distributed.text_of_first_host(digest) != digest:
    raise UserError(
      'this host has other training examples than host 0: give all hosts the same files, '
      'vocabulary and packages'
    )
