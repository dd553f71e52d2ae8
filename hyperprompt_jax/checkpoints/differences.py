"""Lists the differences between a network's parameters and those of a checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax

from hyperprompt_jax.errors import UserError

MAX_LISTED = 20
# The phrase in the head of a table.
DIFFERS = 'parameter(s) differ'


def by_path(tree: Any) -> dict[str, Any]:
  """Maps `a/b/c` to each array, or other leaf with a shape, of a nested mapping."""

  def name(path) -> str:
    return '/'.join(str(getattr(entry, 'key', entry)) for entry in path)

  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
  return {name(path): leaf for path, leaf in leaves}


def check_same_parameters(
  where: str,
  wanted: Any,
  saved: Mapping[str, Any],
  remedy: str = 'use the model and method that it was trained with',
) -> None:
  """Checks that two trees have the same paths and shapes.

  Args:
    where: names the checkpoint in the message.
    wanted: is a tree of the arrays or shapes that the network has.
    saved: is a tree of the arrays or shapes, or of Orbax's metadata, of the checkpoint.
    remedy: tells the user how to mend a difference.

  Raises:
    UserError: if they differ, with a table of paths and shapes in both directions.
  """
  wanted_shapes, saved_shapes = (
    {path: tuple(leaf.shape) for path, leaf in by_path(tree).items()}
    for tree in (wanted, saved)
  )
  rows = [
    (path, wanted_shapes.get(path), saved_shapes.get(path))
    for path in sorted({*wanted_shapes, *saved_shapes})
    if wanted_shapes.get(path) != saved_shapes.get(path)
  ]
  if not rows:
    return
  show = lambda shape: 'absent' if shape is None else str(list(shape))
  lines = [
    f'  {path}: wanted {show(wanted_shape)}, found {show(saved_shape)}'
    for path, wanted_shape, saved_shape in rows[:MAX_LISTED]
  ]
  if len(rows) > MAX_LISTED:
    lines.append(f'  … and {len(rows) - MAX_LISTED} more')
  raise UserError(
    f'checkpoint {where} is of another network, {len(rows)} {DIFFERS}; {remedy}:',
    lines,
  )
