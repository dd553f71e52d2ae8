"""Reads the rows of Parquet and Arrow files.

The package `datasets` writes Arrow files where it saves a data set to disk.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hyperprompt_tasks import errors

Rows = Iterator[tuple[str, Mapping[str, Any]]]


def parquet(path: str, content: bytes) -> Rows:
  """Yields the rows of a Parquet file and their places, `FILE: row NUMBER` from 1.

  Args:
    path: is the file that errors name.
    content: are the bytes of the file.

  Raises:
    DataError: if the bytes are no Parquet file.
  """
  import pyarrow as pa  # takes a second, and few runs need it
  from pyarrow import parquet as reader

  try:
    table = reader.read_table(pa.BufferReader(content))
  except (pa.ArrowException, OSError) as error:
    raise _unreadable(path, 'a Parquet file', error) from error
  yield from _rows(path, table)


def arrow(path: str, content: bytes) -> Rows:
  """Yields the rows of an Arrow file, in the form of a stream or of a file.

  Args:
    path: is the file that errors name.
    content: are the bytes of the file.

  Raises:
    DataError: if the bytes are no Arrow file.
  """
  import pyarrow as pa

  is_file = content.startswith(b'ARROW1')
  open_table = pa.ipc.open_file if is_file else pa.ipc.open_stream
  try:
    table = open_table(pa.BufferReader(content)).read_all()
  except (pa.ArrowException, OSError) as error:
    raise _unreadable(path, 'an Arrow file', error) from error
  yield from _rows(path, table)


def _unreadable(path: str, expected: str, error: Exception) -> errors.DataError:
  reason = next(iter(str(error).splitlines()), type(error).__name__)
  return errors.DataError(f'{path}: expected {expected}; {reason}')


def _rows(path: str, table: Any) -> Rows:
  """Yields the rows of a table, batch by batch, as Python's values."""
  import pyarrow as pa

  number = 0
  for batch in table.to_batches():
    columns = []
    for column in batch.columns:
      values = column.to_pylist()
      if pa.types.is_floating(column.type) and column.type.bit_width < 64:
        # 3.8 in 32 bits is 3.8 to its author, and 3.799999952316284 to Python.
        short = np.dtype(column.type.to_pandas_dtype()).type
        values = [None if v is None else float(str(short(v))) for v in values]
      columns.append(values)
    for row in zip(*columns, strict=True):
      number += 1
      names = batch.schema.names
      yield f'{path}: row {number}', dict(zip(names, row, strict=True))
