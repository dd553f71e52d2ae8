"""The device mesh, the rules from logical to mesh axes, and shardings made of them."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax.linen import partitioning as nn_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError

# Names of the mesh's axes: copies of the model, shards of one copy that read batches of
# their own, and shards that work on one batch together.
DATA, FSDP, MODEL = 'data', 'fsdp', 'model'
BATCH_AXES = (DATA, FSDP)
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def standard_logical_axis_rules() -> Rules:
  """Rules from logical to mesh axes: T5X's names, and our own.

  Whatever a head owns goes with the heads; what prompts and hypernetworks add besides is
  small. An axis of the mesh is given to one axis of an array: the first rule that fits
  counts, so activations, whose rows have `fsdp`, have whole embeddings.
  """
  return (
    ('batch', BATCH_AXES),
    ('vocab', MODEL),
    ('mlp', MODEL),
    ('heads', MODEL),
    ('joined_kv', MODEL),
    ('embed', FSDP),
    ('embed', None),
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
    num_partitions: devices that share one copy of the model and work on one batch (T5X's
      name; tensor parallelism).
    fsdp: devices that share one copy, each with a batch of its own: parameters and
      optimizer are gathered where they are used (fully sharded data parallelism).
    logical_axis_rules: pairs of a logical and a mesh axis, the first that fits counts.
    devices: of the mesh; None for all that there are.

  Raises:
    UserError: if the product of the two does not divide the number of devices.
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
    """The devices, as `data` by `fsdp` by `model`."""
    devices = list(self._devices())
    copies = len(devices) // (self.fsdp * self.num_partitions)
    # On a TPU, neighbours on an axis of the mesh are neighbours in the machine.
    placed = mesh_utils.create_device_mesh(
      (copies, self.fsdp, self.num_partitions), devices, allow_split_physical_axes=True
    )
    return Mesh(placed, (DATA, FSDP, MODEL))

  @contextlib.contextmanager
  def activate(self) -> Iterator[None]:
    """The context in which programs are traced: the mesh and the rules."""
    with (
      jax.set_mesh(self.mesh),
      nn_partitioning.axis_rules(self.logical_axis_rules),
    ):
      yield

  def check(self, *, batch_size: int, emb_dim: int = 0, **sizes: int) -> None:
    """Checks that the mesh divides what is laid out over it.

    Args:
      batch_size: rows of one batch, over `data` and `fsdp`.
      emb_dim: over `fsdp`.
      **sizes: sizes over `model`, by name.

    Raises:
      UserError: naming what is not divided.
    """
    copies, fsdp, model = self.mesh.devices.shape
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
    """Every device holds all of an array."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Rows spread over `data` and `fsdp`."""
    return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

  def put(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Puts a batch on the devices.

    Args:
      batch: NumPy arrays `[b, ...]` of the whole batch, of which only the rows of this
        host's devices are read.
    """
    return {
      name: jax.make_array_from_callback(x.shape, self.batch_sharding, x.__getitem__)
      for name, x in batch.items()
    }

  def rows_of_hosts(self, batch_size: int) -> dict[int, frozenset[range]]:
    """The rows of a batch that each host's devices work on.

    Args:
      batch_size: rows over all devices.

    Returns:
      Ranges of rows by process index; hosts that share a copy of the model have the same.
    """
    rows: dict[int, set[range]] = {}
    places: Mapping[Any, Any] = self.batch_sharding.devices_indices_map((batch_size,))
    for device, (part,) in places.items():
      found = range(*part.indices(batch_size))
      rows.setdefault(device.process_index, set()).add(found)
    return {host: frozenset(ranges) for host, ranges in rows.items()}

  def shardings(self, axes: Any) -> Any:
    """Shardings of parameters.

    Args:
      axes: tree of `PartitionSpec` of logical names.

    Returns:
      The same tree of `NamedSharding`.
    """
    return jax.tree.map(
      lambda names: self._sharding(names, self.logical_axis_rules), axes, is_leaf=_is_spec
    )

  def spread_shardings(self, params: Any, axes: Any) -> Any:
    """Shardings in which parameters are kept and updated while they are trained.

    A parameter's own, and its `embed` is spread over the devices that would hold copies of
    it, where they divide it: each updates a part, and is told the others' at the next step
    (weight-update sharding, Xu et al. 2020).

    Args:
      params: tree of arrays or shapes.
      axes: their logical axes.

    Returns:
      A tree like `params` of `NamedSharding`.
    """
    spread = (('embed', BATCH_AXES), *self.logical_axis_rules)

    def of_leaf(names: Any, leaf: Any) -> NamedSharding:
      sharding = self._sharding(names, spread)
      try:
        sharding.shard_shape(leaf.shape)
      except ValueError:
        return self._sharding(names, self.logical_axis_rules)
      return sharding

    return jax.tree.map(of_leaf, axes, params, is_leaf=_is_spec)

  def _sharding(self, names: Any, rules: Rules) -> NamedSharding:
    return NamedSharding(
      self.mesh, PartitionSpec(*nn_partitioning.logical_to_mesh_axes(names, rules) or ())
    )

  def optimizer_shardings(self, state: Any, params: Any, axes: Any) -> Any:
    """Shardings of an optimizer's state.

    An array in the place and of the shape of a parameter is spread as the parameter is
    (`spread_shardings`); all else (counts, Adafactor's row and column statistics) is
    small, and replicated.

    Args:
      state: tree of arrays or shapes.
      params: tree of arrays or shapes.
      axes: the parameters' logical axes.

    Returns:
      A tree like `state` of `NamedSharding`.
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
