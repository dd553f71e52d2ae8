"""The conditioning of a batch's segments alone, in place of that of all tasks.

A task's conditioning depends on the parameters that are common to all tasks, and on those
that the task owns, which have the logical axis `tasks`. So a method that is given the rows
of that axis which the segments of a batch name, one row for each segment, makes the
conditioning of these segments. The result is exact, whatever tasks are in the batch, and
tasks that are not in it cost nothing. Axis letters: see `hyperprompt_jax.nn`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.linen import partitioning as nn_partitioning

from hyperprompt_jax.nn import backend
from hyperprompt_jax.nn.insertion import Conditioning

Array = jax.Array
Params = Mapping[str, Any]
# The logical axis of parameters that belong to one task alone.
TASKS = 'tasks'


def is_cheaper(num_tasks: int, num_segments: int) -> bool:
  """Whether a device has fewer segments than there are tasks.

  This is the one rule that training and evaluation follow: a device generates for the
  segments of its own rows, or for all tasks. Segments of one task are not merged. Shapes
  are static, so the list of distinct tasks would be padded to the number of segments.

  Args:
    num_tasks: is t.
    num_segments: is B * S, over all devices.
  """
  _, devices = backend.mesh_axis('batch')
  return -(-num_segments // devices) < num_tasks


def of_segments(
  condition: Callable[[Params], Conditioning], params: Params, axes: Params, task_ids: Array
) -> Conditioning:
  """The conditioning of the segments of a batch, each by its own task.

  Args:
    condition: makes the conditioning of all tasks, for B * S tasks.
    params: are the network's parameters, for t tasks.
    axes: are their logical axes, a tree of `PartitionSpec`.
    task_ids: are the tasks of the segments, `[B, S]` int32.
  """
  row_axis, _ = backend.mesh_axis('batch')
  # The tasks of a device are those of its rows, in every constraint of the method, too.
  rules = ((TASKS, row_axis), *nn_partitioning.get_axis_rules())
  with nn_partitioning.axis_rules(rules):
    made = condition(_with_rows_of(params, axes, task_ids))
  return Conditioning(made.input_prompts, made.encoder, made.decoder, by_segment=True)


def _with_rows_of(params: Params, axes: Params, task_ids: Array) -> Params:
  """Selects the rows that the tasks of segments own, B * S on each axis of tasks."""
  # Parameters stay where they are stored, and their rows travel. So each device looks up
  # the rows of all devices, in its own part of the parameters.
  ids = backend.with_sharding_constraint(task_ids.reshape(-1), (None,))
  names_by_path = traverse_util.flatten_dict(axes)

  def select(path: tuple[str, ...], x: Array) -> Array:
    names = tuple(names_by_path[path])
    if TASKS not in names:
      return x
    rows = jnp.take(x, ids, axis=names.index(TASKS), mode='clip')
    return backend.with_sharding_constraint(rows, names)

  flat = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict({path: select(path, x) for path, x in flat.items()})
