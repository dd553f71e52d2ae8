"""The sources of rows: memory, TFDS, or a folder of a benchmark's official files."""

import abc
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import seqio
import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import (
  errors,
  glue_files,
  official_files,
  preprocessors,
  super_glue_files,
  tfds_downloads,
)

# The features of all rows of a split: tensors whose first axis counts rows, ragged for
# features that vary in length, or dicts of those.
Columns = Mapping[str, Any]


@gin.configurable(module='hyperprompt_tasks')
def super_glue_dir(path: str | None = None) -> str | None:
  """Returns the folder of the official SuperGLUE files, None where TFDS is to be used.

  Args:
    path: holds `BoolQ/ CB/ COPA/ MultiRC/ ReCoRD/ RTE/ WSC/ WiC/`, each with
      `train.jsonl val.jsonl test.jsonl`. By default the environment variable
      SUPER_GLUE_DIR names it.
  """
  return path or os.environ.get('SUPER_GLUE_DIR') or None


@gin.configurable(module='hyperprompt_tasks')
def glue_dir(path: str | None = None) -> str | None:
  """Returns the folder of the official GLUE files, None where TFDS is to be used.

  Args:
    path: holds `CoLA/ SST-2/ MRPC/ QQP/ STS-B/ MNLI/ QNLI/ RTE/ WNLI/`, each
      with `train.tsv dev.tsv test.tsv` (MNLI: `dev_matched.tsv`, …), and `diagnostic/`
      with `diagnostic.tsv`. By default the environment variable GLUE_DIR names it.
  """
  return path or os.environ.get('GLUE_DIR') or None


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A benchmark whose tasks come from TFDS or from a folder of its official files.

  Attributes:
    builders: are names of TFDS builders, with `{}` for the configuration. The first
      that is prepared is read; if none is, TFDS prepares the last.
    formats: each TFDS configuration is given with the format of its files.
    directory: returns the folder, None where TFDS is to be used.
    variable: errors name this environment variable, which names the folder.
    contents: the folder is described in these words in errors.
  """

  builders: tuple[str, ...]
  formats: Mapping[str, official_files.Format]
  directory: Callable[[], str | None]
  variable: str
  contents: str

  def folder(self) -> str | None:
    """Returns the folder in use, None where TFDS is.

    Raises:
      DataError: if there is no such folder.
    """
    # `directory` does not check this: gin adds lines to errors of its configurables.
    folder = self.directory()
    if folder is not None and not tf.io.gfile.isdir(folder):
      raise errors.DataError(
        f'{self.variable} {folder} is no folder; expected one that holds '
        f'{self.contents} with the official files'
      )
    return folder


SUPER_GLUE = Benchmark(
  builders=('super_glue/{}:1.0.2',),
  formats=super_glue_files.FORMATS,
  directory=super_glue_dir,
  variable='SUPER_GLUE_DIR',
  contents='BoolQ/, CB/, …',
)
GLUE = Benchmark(
  # TFDS reads T5's version and no longer prepares it; it prepares the other one.
  builders=('glue/{}:1.0.0', 'glue/{}:2.0.0'),
  formats=glue_files.FORMATS,
  directory=glue_dir,
  variable='GLUE_DIR',
  contents='CoLA/, SST-2/, …',
)


class ColumnSource(seqio.DataSource, abc.ABC):
  """A source whose rows are in memory.

  A shuffle covers the whole split, and each epoch has another order.
  """

  @abc.abstractmethod
  def columns(self, split: str) -> Columns:
    """Returns all rows of a split."""

  @property
  def in_memory(self) -> bool:
    """Returns whether rows come from `columns`, so that SeqIO has nothing to cache."""
    return True

  @property
  @override
  def supports_arbitrary_sharding(self) -> bool:
    return self.in_memory

  @override
  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  @override
  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_: Any,
  ) -> tf.data.Dataset:
    """Returns the rows of a split; see seqio.DataSource."""
    columns = self.columns(split)
    index, num_shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
    size = len(range(index, _num_rows(columns), num_shards))
    return _in_order(
      size,
      lambda place: tf.nest.map_structure(
        lambda column: column[index + place * num_shards], columns
      ),
      shuffle,
      seed,
    )

  @override
  def num_input_examples(self, split: str) -> int | None:
    return _num_rows(self.columns(split))


class TfdsSource(seqio.TfdsDataSource):
  """Data of TFDS, which are prepared when they are first read; errors are one line."""

  def __init__(self, benchmark: Benchmark, name: str, splits: Sequence[str]):
    """Sets up the source; reads nothing.

    Args:
      benchmark: the data belong to this benchmark, whose folder needs no TFDS.
      name: is the name of the TFDS builder, with configuration and version.
      splits: the task uses these splits.
    """
    super().__init__(name, splits=splits)
    self.benchmark = benchmark

  @override
  def list_shards(self, split: str) -> Sequence[str]:
    # SeqIO asks for the shards first, and TFDS knows them only of prepared data.
    with self._errors():
      self._check_downloads()
      self.tfds_dataset.builder.download_and_prepare()
    return super().list_shards(split)

  @override
  def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
    """Returns the rows of a split; see seqio.TfdsDataSource.

    Raises:
      DataError: if TFDS cannot provide the rows.
    """
    with self._errors():
      self._check_downloads()
      return super().get_dataset(*args, **kwargs)

  def is_prepared(self) -> bool:
    """Returns whether the data are prepared, so that nothing has to be downloaded.

    Raises:
      DataError: if TFDS does not know the data.
    """
    with self._errors():
      # The builder's own `is_prepared` warns where there is nothing.
      return tf.io.gfile.isdir(self.tfds_dataset.builder.data_dir)

  def _check_downloads(self) -> None:
    if reason := tfds_downloads.obstacle(self.tfds_dataset.builder):
      raise ConnectionError(reason)

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    try:
      with contextlib.redirect_stdout(sys.stderr):  # TFDS prints its progress
        yield
    except Exception as error:  # many kinds: no network, no disk, a missing package
      reason = next(iter(str(error).splitlines()), type(error).__name__)
      raise errors.DataError(
        f'TFDS cannot provide {self.tfds_dataset.name}: {reason}; set '
        f'{self.benchmark.variable} to the folder of the official files '
        f'({self.benchmark.contents}), which needs no TFDS'
      ) from error


class BenchmarkSource(ColumnSource):
  """One task of a benchmark, from the folder if one is set when it is read, else TFDS.

  Splits that the folder lacks are not among the source's splits.
  """

  def __init__(
    self,
    benchmark: Benchmark,
    config: str,
    splits: Sequence[str] = ('train', 'validation', 'test'),
  ):
    """Sets up the source; reads nothing.

    Args:
      benchmark: the task belongs to this benchmark.
      config: is the configuration of the TFDS builder, such as `boolq`.
      splits: the task uses these splits.
    """
    super().__init__(splits=splits)
    self.benchmark = benchmark
    self._format = benchmark.formats[config]
    self._versions = [
      TfdsSource(benchmark, name.format(config), splits) for name in benchmark.builders
    ]
    self._loaded: tuple[tuple[str, str, int, int], Columns] | None = None

  @property
  @override
  def splits(self) -> Sequence[str]:
    absent = self.absent_splits
    return [split for split in self._splits if split not in absent]

  @property
  def absent_splits(self) -> Sequence[str]:
    """Returns the task's splits for which the folder in use has no file."""
    folder = self.benchmark.folder()
    if folder is None:
      return []
    paths = {split: self._format.path(folder, split) for split in self._splits}
    return [split for split, path in paths.items() if not tf.io.gfile.exists(path)]

  @property
  @override
  def in_memory(self) -> bool:
    return self.benchmark.folder() is not None

  @override
  def list_shards(self, split: str) -> Sequence[str]:
    folder = self.benchmark.folder()
    return [self._format.path(folder, split)] if folder else self._tfds().list_shards(split)

  @override
  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_: Any,
  ) -> tf.data.Dataset:
    """Returns the rows of a split; see seqio.DataSource.

    Raises:
      DataError: if the folder or a file in it cannot be used.
    """
    if not self.in_memory:
      return self._tfds().get_dataset(split, shuffle, seed, shard_info)
    return super().get_dataset(split, shuffle, seed, shard_info)

  @override
  def num_input_examples(self, split: str) -> int | None:
    if not self.in_memory:
      return self._tfds().num_input_examples(split)
    return super().num_input_examples(split)

  def columns(self, split: str) -> Columns:
    """Returns all rows of a split of the folder.

    Raises:
      DataError: if the folder or a file in it cannot be used.
    """
    folder = self.benchmark.folder()
    if folder is None:
      raise errors.DataError(f'{self.benchmark.variable} names no folder')
    path = self._format.path(folder, split)
    # SeqIO asks for the rows and then twice for their number, so the last file is kept.
    # One file can hold two splits of MRPC.
    status = tf.io.gfile.stat(path) if tf.io.gfile.exists(path) else None
    # A file that has been edited meanwhile is read again.
    version = (status.length, status.mtime_nsec) if status else (0, 0)
    key = (path, split, *version)
    if self._loaded is None or self._loaded[0] != key:
      self._loaded = (key, _to_columns(self._format.read(path, split)))
    return self._loaded[1]

  def _tfds(self) -> TfdsSource:
    *others, last = self._versions
    return next((source for source in others if source.is_prepared()), last)


SuperGlueSource = functools.partial(BenchmarkSource, SUPER_GLUE)
GlueSource = functools.partial(BenchmarkSource, GLUE)


class TfdsOnlySource(TfdsSource):
  """A TFDS source of data that the folder of its benchmark does not hold.

  A user of the folder may have no access to TFDS, so the source then has no splits.
  """

  @property
  @override
  def splits(self) -> Sequence[str]:
    return [] if self.benchmark.folder() else self._splits

  @property
  def absent_splits(self) -> Sequence[str]:
    """Returns the splits that are left out because the folder is in use."""
    return self._splits if self.benchmark.folder() else []


def _in_order(
  size: int, row: Callable[[tf.Tensor], Any], shuffle: bool, seed: int | None
) -> tf.data.Dataset:
  """Returns the rows with the numbers below `size`, in their order or shuffled.

  Args:
    size: is the number of rows.
    row: returns the row with a number, which is int64.
    shuffle: whether each epoch has another order.
    seed: the orders are drawn from this seed.
  """
  numbers = tf.data.Dataset.range(size)
  if shuffle:
    # Numbers, not rows: the buffer is part of every checkpoint of the iterator. An order
    # that is computed from seeds of its own is not restored right where the maps behind it
    # have read past the end of an epoch.
    numbers = numbers.shuffle(size, seed=seed, reshuffle_each_iteration=True)
  return numbers.map(row, num_parallel_calls=preprocessors.PARALLEL_CALLS)


def _num_rows(columns: Columns) -> int:
  return int(tf.nest.flatten(columns)[0].shape[0])


def _to_columns(rows: Sequence[official_files.Row]) -> dict[str, Any]:
  """Turns rows into columns with the types of TFDS."""
  columns: dict[str, Any] = {}
  for key, value in rows[0].items():
    values = [row[key] for row in rows]
    if isinstance(value, dict):
      columns[key] = _to_columns(values)
    elif isinstance(value, list):
      columns[key] = tf.RaggedTensor.from_row_lengths(
        tf.constant([item for items in values for item in items], tf.string),
        [len(items) for items in values],
      )
    elif isinstance(value, bytes):
      columns[key] = tf.constant(values, tf.string)
    elif isinstance(value, float):
      columns[key] = tf.constant(values, tf.float32)
    else:
      columns[key] = tf.constant(values, tf.int64 if key == 'label' else tf.int32)
  return columns
