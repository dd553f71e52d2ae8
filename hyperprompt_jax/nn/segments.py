"""The segment and the task of each position, and the keys that each query sees.

A packed row holds segments of several examples, which may be of different tasks. Axis
letters: see `hyperprompt_jax.nn`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

PADDING = 0
# The segment of a key that every query sees.
EVERY_SEGMENT = -1
_NO_SEGMENT = -2


def sees(
  query_segment: Array,
  key_segment: Array,
  query_position: Array | None = None,
  key_position: Array | None = None,
) -> Array:
  """Whether a query sees a key: the one rule of visibility of all attention.

  A query sees the keys of its own segment, and those of `EVERY_SEGMENT`; nothing sees
  padding. With positions, attention is causal: a query sees no key that comes after it.

  Args:
    query_segment: is the segment of each query, int32.
    key_segment: is the segment of each key, int32.
    query_position: is the position of each query, int32; None where attention is not
      causal.
    key_position: is the position of each key, int32.

  Returns:
    bool, of the shape that the arguments broadcast to.
  """
  # Only the two operations of the second line are done for each pair.
  own, every = jnp.where(key_segment > PADDING, key_segment, _NO_SEGMENT), EVERY_SEGMENT
  visible = (query_segment == own) | (key_segment == every)
  if query_position is None or key_position is None:
    return visible
  return visible & (key_position <= query_position)


@struct.dataclass
class Segments:
  """The segment, and so the task, of each position of a batch.

  Attributes:
    task_ids: holds the task of each segment, `[B, S]` int32.
    ids: holds the segment of each position, from 1, `[B, P]` int32; 0 is padding.
    by_segment: tells whether arrays of tasks have one entry for each segment of the batch,
      in the order of rows, in place of one for each task.
  """

  task_ids: Array
  ids: Array
  by_segment: bool = struct.field(pytree_node=False, default=False)

  @classmethod
  def from_tokens(
    cls,
    task_ids: Array,
    tokens: Array,
    segment_ids: Array | None,
    *,
    by_segment: bool = False,
  ) -> 'Segments':
    """Makes the segments of a batch.

    Args:
      task_ids: holds the task of each segment, `[B, S]` int32.
      tokens: has shape `[B, P]`, int32; 0 is padding.
      segment_ids: holds the segments of packed rows, `[B, P]` int32; None makes each row
        one segment.
      by_segment: tells whether arrays of tasks have one entry for each segment.
    """
    if segment_ids is None:
      segment_ids = (tokens > 0).astype(jnp.int32)
    return cls(task_ids, segment_ids, by_segment)

  @property
  def per_row(self) -> int:
    """S, the number of segments that a row has room for."""
    return self.task_ids.shape[1]

  def membership(self) -> Array:
    """Whether each position belongs to each segment of its row, `[B, P, S]` bool."""
    return self.ids[:, :, None] == jnp.arange(1, self.per_row + 1)

  def position_tasks(self) -> Array:
    """The task of each position, `[B, P]` int32; padding has that of segment 1."""
    return jnp.take_along_axis(self.task_ids, jnp.maximum(self.ids - 1, 0), axis=1)

  def select(self, task_arrays: Any) -> Any:
    """Selects the part of each segment's task, from arrays `[t, ...]` to `[B, S, ...]`.

    With `by_segment`, the arrays are `[B * S, ...]`. While decoding, they have an entry for
    each row, whose N beams share it.
    """
    rows, per_row = self.task_ids.shape

    def select(x: Array) -> Array:
      if not self.by_segment:
        return jnp.take(x, self.task_ids, axis=0, mode='clip')
      x = x.reshape(-1, per_row, *x.shape[1:])
      return jnp.repeat(x, rows // len(x), axis=0) if len(x) < rows else x

    return jax.tree.map(select, task_arrays)
