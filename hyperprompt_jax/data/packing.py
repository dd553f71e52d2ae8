"""Placing examples in the rows of a batch."""

import numpy as np


def place(
  lengths: np.ndarray, room: np.ndarray, rows: int, max_segments: int
) -> np.ndarray:
  """Places examples, in their order, each in the first row that has room for it.

  A batch takes examples until one fits in no row: so it takes those of a range, and the
  next batch begins where it ends. All rows are open until then, which leaves less padding
  than to close each row at the first example that it has no room for.

  Args:
    lengths: gives the lengths of inputs and targets of each example, int64 `[n, 2]`.
    room: gives the lengths of a row, int64 `[2]`; every example fits alone.
    rows: is the number of rows in a batch.
    max_segments: is the largest number of examples in a row.

  Returns:
    The row of each of the first examples, as many as the batch takes, int64.
  """
  # The room of a row is one integer with fields for inputs, targets and segments. The bit
  # above each field is set, and stays set in a difference where the field has room.
  limits = (int(room[0]), int(room[1]), max_segments)
  places, bits = [], 0
  for limit in limits:
    places.append(1 << bits)
    bits += limit.bit_length() + 1
  dtype = np.int64 if bits < 64 else object
  above = sum(x << y.bit_length() for x, y in zip(places, limits, strict=True))
  empty = sum(x * y for x, y in zip(places, limits, strict=True))
  free = np.full(rows, above + empty, dtype)
  needed = lengths.astype(dtype) @ np.array(places[:2], dtype) + places[2]
  placed = []
  left = np.empty_like(free)
  for need in needed.tolist():
    np.subtract(free, need, out=left)
    np.bitwise_and(left, above, out=left)
    row = int(left.argmax())  # the first with all bits, which no row exceeds
    if left[row] != above:
      break
    free[row] -= need
    placed.append(row)
  return np.array(placed, np.int64)
