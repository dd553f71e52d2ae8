"""The device mesh, the rules from logical to mesh axes, and shardings made of them."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax.linen import partitioning as nn_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hyperprompt_jax.errors import UserError

Rules = tuple[tuple[str, str | None], ...]


def standard_logical_axis_rules() -> Rules:
  """T5X's rules for one-dimensional model parallelism, and those of our own axes.

  Whatever a head owns goes with the heads; what prompts and hypernetworks add besides is
  small and replicated.
  """
  return (
    ('batch', 'data'),
    ('vocab', 'model'),
    ('mlp', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    ('embed', None),
    ('kv', None),
    ('length', None),
    ('layers', None),
    ('relpos_buckets', None),
    ('tasks', None),
    ('prompt', None),
    ('bottleneck', None),
    ('task_embed', None),
    ('task_embed_out', None),
    ('positions', None),
  )


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """Lays arrays out over a mesh of `data` by `model` devices.

  Attributes:
    num_partitions: devices that share one copy of the model (T5X's name); the others
      share the batch.
    logical_axis_rules: pairs of a logical and a mesh axis, the first that fits counts.

  Raises:
    UserError: if `num_partitions` does not divide the number of devices.
  """

  num_partitions: int = 1
  logical_axis_rules: Rules = dataclasses.field(default_factory=standard_logical_axis_rules)

  def __post_init__(self):
    devices = jax.device_count()
    if self.num_partitions < 1 or devices % self.num_partitions:
      raise UserError(
        f'Partitioner.num_partitions={self.num_partitions} does not divide the '
        f'{devices} device(s): choose a divisor of {devices}'
      )

  @property
  def mesh(self) -> Mesh:
    """All devices, as `data` by `model`."""
    devices = np.asarray(jax.devices()).reshape(-1, self.num_partitions)
    return Mesh(devices, ('data', 'model'))

  @contextlib.contextmanager
  def activate(self) -> Iterator[None]:
    """The context in which programs are traced: the mesh and the rules."""
    with (
      jax.set_mesh(self.mesh),
      nn_partitioning.axis_rules(self.logical_axis_rules),
    ):
      yield

  def check(self, *, batch_size: int, **sizes: int) -> None:
    """Checks that the mesh divides what is laid out over it.

    Args:
      batch_size: rows of one batch, over `data`.
      **sizes: sizes over `model`, by name.

    Raises:
      UserError: naming what is not divided.
    """
    data, model = self.mesh.devices.shape
    if batch_size < 1:
      raise UserError(f'BATCH_SIZE must be a positive integer, not {batch_size}')
    if batch_size % data:
      raise UserError(
        f'BATCH_SIZE={batch_size} is not divided by the {data} data-parallel '
        'device(s) of the mesh: choose a multiple'
      )
    for name, size in sizes.items():
      if size % model:
        raise UserError(
          f'{name}={size} is not divided by Partitioner.num_partitions={model}: '
          'choose fewer partitions'
        )

  @property
  def replicated(self) -> NamedSharding:
    """Every device holds all of an array."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Rows spread over `data`."""
    return NamedSharding(self.mesh, PartitionSpec('data'))

  def shardings(self, axes: Any) -> Any:
    """Shardings of parameters.

    Args:
      axes: tree of `PartitionSpec` of logical names.

    Returns:
      The same tree of `NamedSharding`.
    """
    return jax.tree.map(
      lambda names: NamedSharding(
        self.mesh,
        PartitionSpec(
          *nn_partitioning.logical_to_mesh_axes(names, self.logical_axis_rules) or ()
        ),
      ),
      axes,
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )

  def optimizer_shardings(self, state: Any, params: Any, axes: Any) -> Any:
    """Shardings of an optimizer's state.

    An array in the place and of the shape of a parameter is laid out as the parameter
    is; all else (counts, Adafactor's row and column statistics) is small, and replicated.

    Args:
      state: tree of arrays or shapes.
      params: tree of arrays or shapes.
      axes: the parameters' logical axes.

    Returns:
      A tree like `state` of `NamedSharding`.
    """
    shardings = jax.tree.leaves(self.shardings(axes))
    by_path = {
      tuple(path): (leaf.shape, sharding)
      for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), shardings, strict=True
      )
    }

    def find(path, leaf):
      for start in range(len(path)):
        shape, sharding = by_path.get(tuple(path[start:]), (None, None))
        if shape is not None:
          return sharding if shape == leaf.shape else self.replicated
      return self.replicated

    return jax.tree_util.tree_map_with_path(find, state)
