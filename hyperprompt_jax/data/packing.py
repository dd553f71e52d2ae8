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
    room: gives those of a row, int64 `[2]`; every example fits alone.
    rows: is the number of rows in a batch.
    max_segments: is the largest number of examples in a row.

  Returns:
    The row of each of the first examples, as many as the batch takes, int64.
  """
  inputs = np.full(rows, room[0])
  targets = np.full(rows, room[1])
  segments = np.zeros(rows, np.int64)
  placed = []
  first = 0  # all rows before it are full
  for of_inputs, of_targets in lengths.tolist():
    fits = (
      (inputs[first:] >= of_inputs)
      & (targets[first:] >= of_targets)
      & (segments[first:] < max_segments)
    )
    row = first + int(fits.argmax()) if fits.size else rows
    if row == rows or not fits[row - first]:
      break
    inputs[row] -= of_inputs
    targets[row] -= of_targets
    segments[row] += 1
    placed.append(row)
    while first < rows and segments[first] == max_segments:
      first += 1
  return np.array(placed, np.int64)
