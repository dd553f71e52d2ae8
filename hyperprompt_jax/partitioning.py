"""The device mesh, the rules that map logical to mesh axes, and the resulting shardings."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax.linen import partitioning as nn_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError

# Names of the mesh's axes. `data` has copies of the model, `fsdp` the shards of a copy that
# read batches of their own, `model` the shards of a copy that share a batch.
DATA, FSDP, MODEL = 'data', 'fsdp', 'model'
BATCH_AXES = (DATA, FSDP)
# Parameters that tasks own are spread along `tasks` from this number of entries on. With
# fewer, a device updates a copy in less time than a collective takes.
LEAST_SPREAD_ENTRIES = 2**20
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def standard_logical_axis_rules() -> Rules:
  """Returns the rules that map logical to mesh axes: T5X's names, and our own.

  Axes of heads are sharded over `model`. The other axes of prompts and hypernetworks are
  small and replicated. A mesh axis shards at most one axis of an array, and the first rule
  that fits applies: the rows of activations are sharded over `fsdp`, so their `embed` axis
  is not.
  """
  return (
    ('batch', BATCH_AXES),
    ('vocab', MODEL),
    ('mlp', MODEL),
    ('heads', MODEL),
    ('joined_kv', MODEL),
    ('embed', FSDP),
    ('embed', None),
    ('spread_embed', BATCH_AXES),
    ('kv', None),
    ('length', None),
    ('residual_length', MODEL),
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
  """Lays arrays out over a mesh of `data` by `fsdp` by `model` devices.

  Attributes:
    num_partitions: is the number of devices that share one copy of the model and work on
      one batch (T5X's name; tensor parallelism).
    fsdp: is the number of devices that share one copy, each with a batch of its own.
      Parameters and optimizer state are gathered where they are used (fully sharded data
      parallelism).
    logical_axis_rules: are pairs of a logical and a mesh axis; the first that fits applies.
    devices: are the devices of the mesh; None takes all devices.

  Raises:
    UserError: if `num_partitions * fsdp` does not divide the number of devices.
  """

  num_partitions: int = 1
  fsdp: int = 1
  logical_axis_rules: Rules = dataclasses.field(default_factory=standard_logical_axis_rules)
  devices: Sequence[Any] | None = None

  def __post_init__(self):
    for name in ('num_partitions', 'fsdp'):
      ObjectSettings.check(name, getattr(self, name))
    number = len(self._devices())
    if number % (self.num_partitions * self.fsdp):
      product = f'NUM_PARTITIONS={self.num_partitions}'
      if self.fsdp > 1:
        product += f' times FSDP={self.fsdp}'
      raise UserError(
        f'{product} does not divide the {number} device(s): choose a divisor of {number}'
      )

  def _devices(self) -> Sequence[Any]:
    return jax.devices() if self.devices is None else self.devices

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh of the devices, `data` by `fsdp` by `model`."""
    devices = list(self._devices())
    copies = len(devices) // (self.fsdp * self.num_partitions)
    # On a TPU, this makes neighbours on a mesh axis neighbours in the machine.
    placed = mesh_utils.create_device_mesh(
      (copies, self.fsdp, self.num_partitions), devices, allow_split_physical_axes=True
    )
    return Mesh(placed, (DATA, FSDP, MODEL))

  @contextlib.contextmanager
  def activate(self) -> Iterator[None]:
    """Sets the mesh and the rules; programs are traced in this context."""
    with (
      jax.set_mesh(self.mesh),
      nn_partitioning.axis_rules(self.logical_axis_rules),
    ):
      yield

  def check(self, *, batch_size: int, emb_dim: int = 0, **sizes: int) -> None:
    """Checks that the mesh divides the sizes of the axes that it shards.

    Args:
      batch_size: is the number of rows of a batch, sharded over `data` and `fsdp`.
      emb_dim: is the model width, sharded over `fsdp`.
      **sizes: are sizes by name, sharded over `model`.

    Raises:
      UserError: if a size is not divided; the message names it.
    """
    copies, fsdp, model = self.mesh.shape.values()
    data = copies * fsdp
    if batch_size < 1:
      raise UserError(f'BATCH_SIZE must be a positive integer, not {batch_size}')
    if batch_size % data:
      raise UserError(
        f'BATCH_SIZE={batch_size} is not divided by the {data} data-parallel '
        'device(s) of the mesh: choose a multiple'
      )
    if emb_dim % fsdp:
      raise UserError(
        f'emb_dim={emb_dim} is not divided by FSDP={fsdp}: choose fewer shards'
      )
    for name, size in sizes.items():
      if size % model:
        raise UserError(
          f'{name}={size} is not divided by NUM_PARTITIONS={model}: choose fewer partitions'
        )

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of an array of which every device holds a copy."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """The sharding of a batch, whose rows are spread over `data` and `fsdp`."""
    return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

  def put(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Puts a batch on the devices.

    Args:
      batch: holds NumPy arrays `[B, ...]` of the whole batch; only the rows of this host's
        devices are read.
    """
    return {
      name: jax.make_array_from_callback(x.shape, self.batch_sharding, x.__getitem__)
      for name, x in batch.items()
    }

  def rows_of_hosts(self, batch_size: int) -> dict[int, frozenset[range]]:
    """Returns the rows of a batch that each host's devices work on.

    Args:
      batch_size: is the number of rows over all devices.

    Returns:
      Ranges of rows by process index. Hosts that share a copy of the model have the same
      ranges.
    """
    rows: dict[int, set[range]] = {}
    places: Mapping[Any, Any] = self.batch_sharding.devices_indices_map((batch_size,))
    for device, (part,) in places.items():
      indices = range(*part.indices(batch_size))
      rows.setdefault(device.process_index, set()).add(indices)
    return {host: frozenset(ranges) for host, ranges in rows.items()}

  def shardings(self, axes: Any) -> Any:
    """Returns the shardings of parameters while they are used.

    Args:
      axes: are the parameters' logical axes, a tree of `PartitionSpec`.

    Returns:
      A tree of `NamedSharding` with the structure of `axes`.
    """
    return jax.tree.map(
      lambda names: self._sharding(names, self.logical_axis_rules), axes, is_leaf=_is_spec
    )

  def spread_shardings(self, params: Any, axes: Any) -> Any:
    """Returns the shardings in which parameters are stored and updated during training.

    They are those of `shardings`, and the `embed` axis is also spread over the devices that
    would hold copies of it, if their number divides it. Each device updates its part, and
    the next step gathers the parts (weight-update sharding, Xu et al. 2020). Parameters
    that are not spread so, with `LEAST_SPREAD_ENTRIES` or more, are spread along `tasks` in
    the same way.

    Args:
      params: is a tree of arrays or shapes.
      axes: are the parameters' logical axes.

    Returns:
      A tree of `NamedSharding` with the structure of `params`.
    """

    def leaf_sharding(names: Any, leaf: Any) -> NamedSharding:
      for axis in ('embed', 'tasks'):
        small = axis == 'tasks' and math.prod(leaf.shape) < LEAST_SPREAD_ENTRIES
        if axis not in tuple(names) or small:
          continue
        sharding = self._sharding(names, ((axis, BATCH_AXES), *self.logical_axis_rules))
        with contextlib.suppress(ValueError):  # the devices do not divide the axis
          sharding.shard_shape(leaf.shape)
          return sharding
      return self._sharding(names, self.logical_axis_rules)

    return jax.tree.map(leaf_sharding, axes, params, is_leaf=_is_spec)

  def _sharding(self, names: Any, rules: Rules) -> NamedSharding:
    return NamedSharding(
      self.mesh, PartitionSpec(*nn_partitioning.logical_to_mesh_axes(names, rules) or ())
    )

  def optimizer_shardings(self, state: Any, params: Any, axes: Any) -> Any:
    """Returns the shardings of an optimizer's state.

    An array with the path and shape of a parameter has the parameter's sharding
    (`spread_shardings`). All other arrays, such as counts and Adafactor's row and column
    statistics, are small and replicated.

    Args:
      state: is a tree of arrays or shapes.
      params: is a tree of arrays or shapes.
      axes: are the parameters' logical axes.

    Returns:
      A tree of `NamedSharding` with the structure of `state`.
    """
    shardings = jax.tree.leaves(self.spread_shardings(params, axes))
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


def _is_spec(x: Any) -> bool:
  return isinstance(x, PartitionSpec)
