"""Examples as columns of one file: written once, read by index through a memory map.

A column holds one feature of all examples, as a flat array of its values and, for features
that vary in length, arrays of the ends of their parts. Integers have the narrowest type
that holds them: token ids take two bytes up to 65,536.
"""

import dataclasses
import hashlib
import io
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Self

import numpy as np

_ALIGNMENT = 64
_IN_MEMORY_BYTES = 1 << 20
# A file up to this size is read whole and compared with its digest when it is opened. So it
# need not reach the disk before it has its name, which costs milliseconds for each file.
CHECKED_BYTES = _IN_MEMORY_BYTES
_COPIED_BYTES = 1 << 22
_NARROW = tuple(map(np.dtype, ('uint8', 'uint16', 'int32', 'int64')))


@dataclasses.dataclass(frozen=True)
class Values:
  """A feature of some examples.

  Attributes:
    flat: holds all values one after another; those of text are bytes, uint8.
    lengths: holds the lengths of parts, the finest first: the number of values of each
      vector, of bytes of each text, and both for vectors of texts. Scalars have none.
    text: says whether it is text.
  """

  flat: np.ndarray
  lengths: tuple[np.ndarray, ...] = ()
  text: bool = False

  def __len__(self) -> int:
    return len((self.flat, *self.lengths)[-1] if self.lengths else self.flat)

  def rows(self) -> list[Any]:
    """Each example's value: a number, an array, bytes, or a list of bytes."""
    parts: Any = self.flat
    for number, lengths in enumerate(self.lengths):
      parts = _split(parts, lengths)
      if self.text and number == 0:
        parts = [part.tobytes() for part in parts]
    return list(parts)


def _split(parts: Any, lengths: np.ndarray) -> list[Any]:
  ends = np.cumsum(lengths)
  starts = ends - lengths
  return [parts[start:end] for start, end in zip(starts, ends, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Place:
  """The place of an array in the file."""

  offset: int
  count: int
  dtype: str


@dataclasses.dataclass(frozen=True)
class Layout:
  """The places of the columns in a file.

  Attributes:
    examples: is the number of examples.
    digest: is a digest of the bytes of the file.
    size: is the number of its bytes.
    columns: says of each feature whether it is text, which type its values had before they
      were narrowed, and where its arrays are: the values, then the ends of the parts, the
      finest first.
  """

  examples: int
  digest: str
  size: int
  columns: Mapping[str, tuple[bool, str, tuple[_Place, ...]]]

  def to_json(self) -> dict[str, Any]:
    """The layout as JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> Self:
    """The inverse of `to_json`.

    Raises:
      TypeError, ValueError, KeyError: if it is none.
    """
    columns = {
      name: (bool(text), str(dtype), tuple(_Place(**place) for place in places))
      for name, (text, dtype, places) in value['columns'].items()
    }
    return cls(int(value['examples']), str(value['digest']), int(value['size']), columns)


class Writer:
  """Collects examples, then writes them as one file.

  Args:
    folder: holds what does not fit in memory until then.
  """

  def __init__(self, folder: str):
    self._folder = folder
    self._columns: dict[str, _Column] = {}
    self.examples = 0

  @property
  def size(self) -> int:
    """Bytes so far, before integers are narrowed."""
    return sum(array.size for column in self._columns.values() for array in column.arrays)

  def append(self, examples: Mapping[str, Values]) -> None:
    """Adds some examples; all calls give the same features."""
    for name, values in examples.items():
      if name not in self._columns:
        self._columns[name] = _Column(values, self._folder)
      self._columns[name].append(values)
    self.examples += len(next(iter(examples.values())))

  def write(self, path: str) -> Layout:
    """Writes the file, and returns where things are in it."""
    digest = hashlib.blake2b(digest_size=16)
    columns: dict[str, tuple[bool, str, tuple[_Place, ...]]] = {}
    with open(path, 'xb') as file:

      def put(data: bytes) -> None:
        digest.update(data)
        file.write(data)

      for name, column in sorted(self._columns.items()):
        places = []
        for array in column.arrays:
          put(bytes(-file.tell() % _ALIGNMENT))
          dtype = array.narrowest()
          places.append(_Place(file.tell(), array.count, dtype.name))
          for part in array.parts():
            put(part.astype(dtype).tobytes())
        columns[name] = (column.text, column.arrays[0].dtype.name, tuple(places))
      size = file.tell()
      if size > CHECKED_BYTES:
        file.flush()
        os.fsync(file.fileno())
    return Layout(self.examples, digest.hexdigest(), size, columns)

  def close(self) -> None:
    """Frees what is held."""
    for column in self._columns.values():
      for array in column.arrays:
        array.file.close()


class _Column:
  """The arrays of one feature, as they grow."""

  def __init__(self, like: Values, folder: str):
    self.text = like.text
    self.arrays = [
      _Growing(x.dtype if number == 0 else np.dtype(np.int64), folder)
      for number, x in enumerate((like.flat, *like.lengths))
    ]

  def append(self, values: Values) -> None:
    self.arrays[0].append(values.flat)
    for array, lengths in zip(self.arrays[1:], values.lengths, strict=True):
      array.append(np.cumsum(lengths, dtype=np.int64) + array.last)


class _Growing:
  """An array that grows, in memory and then in a file without a name."""

  def __init__(self, dtype: np.dtype, folder: str):
    self.dtype = dtype
    self.file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - it grows
      _IN_MEMORY_BYTES, dir=folder
    )
    self.count = self.last = 0
    self._least = self._most = 0

  @property
  def size(self) -> int:
    return self.count * self.dtype.itemsize

  def append(self, values: np.ndarray) -> None:
    self.file.write(np.ascontiguousarray(values, self.dtype).tobytes())
    self.count += values.size
    if values.size and self.dtype.kind in 'iu':
      self.last = int(values[-1])
      self._least = min(self._least, int(values.min()))
      self._most = max(self._most, int(values.max()))

  def narrowest(self) -> np.dtype:
    if self.dtype.kind not in 'iu':
      return self.dtype
    fits = lambda limits: limits.min <= self._least and self._most <= limits.max
    return next((x for x in _NARROW if fits(np.iinfo(x))), self.dtype)

  def parts(self) -> Iterator[np.ndarray]:
    self.file.seek(0, io.SEEK_SET)
    while data := self.file.read(_COPIED_BYTES):
      yield np.frombuffer(data, self.dtype)


class Columns:
  """The examples of a file, by index.

  Args:
    path: names the file.
    layout: gives the places of its arrays.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it has another size than it should have, or other bytes, which only a
      small file is searched for.
  """

  def __init__(self, path: str, layout: Layout):
    self.layout = layout
    if (size := os.path.getsize(path)) != layout.size:
      raise ValueError(f'{path} has {size} bytes and not {layout.size}')
    with open(path, 'rb') as file:
      # A map keeps a file open, of which a process may have a thousand.
      content: Any = (
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if size > CHECKED_BYTES
        else file.read()
      )
    if size <= CHECKED_BYTES and _digest(content) != layout.digest:
      raise ValueError(f'{path} has other bytes than were written')
    self._arrays = {
      name: [_array(content, place) for place in places]
      for name, (*_, places) in layout.columns.items()
    }

  def __len__(self) -> int:
    return self.layout.examples

  @property
  def features(self) -> Sequence[str]:
    """Names of the features."""
    return list(self._arrays)

  def lengths(self, feature: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Returns the number of values of a vector in some rows, or all, int64 `[n]`."""
    ends = self._arrays[feature][1]
    if rows is None:
      return np.diff(ends.astype(np.int64), prepend=0)
    return self.span(feature, rows)[1]

  def vectors(self, feature: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a vector feature in some rows.

    Returns:
      The values one after another, and how many each row has, int64 `[n]`.
    """
    start, length = self.span(feature, rows)
    return self._arrays[feature][0][spans(start, length)], length

  def flat(self, feature: str) -> np.ndarray:
    """The values of a feature in all rows, one row after another."""
    return self._arrays[feature][0]

  def values(self, feature: str, rows: np.ndarray) -> Values:
    """A feature of some rows."""
    text, dtype, _ = self.layout.columns[feature]
    flat, *ends = self._arrays[feature]
    lengths: list[np.ndarray] = []
    index = rows
    for of_level in reversed(ends):
      end = of_level[index].astype(np.int64)
      start = np.where(index > 0, of_level[index - 1], 0).astype(np.int64)
      lengths.insert(0, end - start)
      index = spans(start, end - start)
    return Values(flat[index].astype(dtype), tuple(lengths), text)

  def span(self, feature: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of a vector feature's values in `flat`, for some rows.

    Returns:
      The place of the first value of each row, and the number of its values, int64 `[n]`.
    """
    ends = self._arrays[feature][1]
    start = np.where(rows > 0, ends[rows - 1], 0).astype(np.int64)
    return start, ends[rows].astype(np.int64) - start


def _array(data: Any, place: _Place) -> np.ndarray:
  if not place.count:
    return np.empty(0, place.dtype)
  return np.frombuffer(data, place.dtype, place.count, place.offset)


def spans(start: np.ndarray, length: np.ndarray) -> np.ndarray:
  """The indices of spans, one span after another, int64 `[sum of the lengths]`."""
  ends = np.cumsum(length)
  total = int(ends[-1]) if len(ends) else 0
  return np.arange(total) + np.repeat(start - (ends - length), length)


def _digest(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of(path: str) -> str:
  """The digest that `Layout.digest` has of a file."""
  digest = hashlib.blake2b(digest_size=16)
  with open(path, 'rb') as file:
    while data := file.read(_COPIED_BYTES):
      digest.update(data)
  return digest.hexdigest()
