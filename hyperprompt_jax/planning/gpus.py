"""An estimate of a training step on GPUs: counted from its shapes, and not compiled.

XLA compiles for a GPU where there is one. Here the arithmetic, the arrays that the backward
pass needs and the matrices that products read and write are counted in the step as JAX
traces it. Times are those of the published peak rates, which no step reaches.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import DATA, FSDP, MODEL, Partitioner
from hyperprompt_jax.planning import arithmetic, steps
from hyperprompt_jax.planning.planner import Planner
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.planning.topology import Box
from hyperprompt_jax.training.train_step import abstract_params, abstract_state


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The least that a training step needs on each GPU.

  Attributes:
    topology: names the GPUs.
    mesh: gives the sizes of the mesh's axes, by name.
    memory_bytes: is the size of a GPU's memory.
    params_bytes: counts the bytes of parameters that a GPU holds.
    optimizer_bytes: counts the bytes of optimizer state that a GPU holds.
    copy_bytes: counts the bytes of the copy of the parameters in the dtype of activations,
      and of its gradients.
    saved_bytes: counts the bytes that the backward pass needs of the forward pass.
    largest_bytes: counts the bytes of the largest result of a product, twice.
    flops: counts the operations of matrix products, recomputation included.
    product_bytes: counts the bytes that matrix products read and write.
    link_bytes: counts the bytes that a GPU sends to others.
    compute_seconds: is the time of the arithmetic at peak rate.
    memory_seconds: is the time of `product_bytes` at the memory's bandwidth.
    communication_seconds: is the time of `link_bytes` at the bandwidth of the links.
  """

  topology: str
  mesh: Mapping[str, int]
  memory_bytes: int
  params_bytes: int
  optimizer_bytes: int
  copy_bytes: int
  saved_bytes: int
  largest_bytes: int
  flops: int
  product_bytes: int
  link_bytes: int
  compute_seconds: float
  memory_seconds: float
  communication_seconds: float

  @property
  def peak_bytes(self) -> int:
    """The memory that all of these take together."""
    held = self.params_bytes + self.optimizer_bytes + self.copy_bytes
    return held + self.saved_bytes + self.largest_bytes

  @property
  def fits(self) -> bool:
    """Whether they fit into the memory."""
    return self.peak_bytes <= self.memory_bytes

  @property
  def step_seconds(self) -> float:
    """The least time of a step, as if everything but the slowest part were hidden."""
    return max(self.compute_seconds, self.memory_seconds, self.communication_seconds)

  def report(self) -> dict[str, Any]:
    """Returns the estimate as a JSON object."""
    names = ('peak_bytes', 'fits', 'step_seconds')
    return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in names}}


def estimate(
  planner: Planner, box: Box, fsdp: int, batch: Batch, num_tasks: int = 8
) -> Estimate:
  """Counts the needs of a training step.

  Args:
    planner: has the network, the optimizer and the options of the step.
    box: is the machine.
    fsdp: counts the GPUs that share one copy of the model, each with its own rows.
    batch: gives the shape of a batch over all GPUs.
    num_tasks: is the number of conditioned tasks, t.

  Raises:
    UserError: if the mesh does not divide what is laid out.
  """
  planner.check(num_tasks, batch)
  model, number = planner.model(num_tasks), box.number
  trainable = planner.trainable(model)
  partitioner = _Counted(1, fsdp, devices=range(number))
  rows = batch.size // planner.num_microbatches
  partitioner.check(batch_size=rows, emb_dim=planner.config.emb_dim)
  state = abstract_state(model, planner.optimizer, partitioner, trainable)
  in_dtype = jnp.dtype(planner.config.dtype).itemsize / 4
  copy = int(in_dtype * steps.bytes_per_chip(abstract_params(model, partitioner)))
  part = Batch(rows // number, batch.inputs, batch.targets)
  loss, *arguments = steps.loss_of(model, part, trainable)
  counted = arithmetic.count(jax.grad(loss, has_aux=True), *arguments)
  # Parts of the working copy are gathered, and gradients summed to the parts; copies that
  # are spread over GPUs are gathered again for the backward pass.
  copy_of_all = in_dtype * sum(
    4 * leaf.size for leaf in jax.tree.leaves(model.param_shapes())
  )
  times = (3 if fsdp > 1 else 2) * planner.num_microbatches
  links = int(times * copy_of_all * (number - 1) / number)
  flops, nbytes = (planner.num_microbatches * x for x in (counted.flops, counted.nbytes))
  return Estimate(
    topology=box.name,
    mesh=dict(partitioner.mesh.shape),
    memory_bytes=box.gpu.memory_bytes,
    params_bytes=steps.bytes_per_chip(state.params),
    optimizer_bytes=steps.bytes_per_chip(state.opt_state),
    copy_bytes=2 * copy,
    saved_bytes=_saved_bytes(model, loss, *arguments),
    largest_bytes=2 * counted.largest,
    flops=flops,
    product_bytes=nbytes,
    link_bytes=links,
    compute_seconds=flops / box.gpu.flops_per_second,
    memory_seconds=nbytes / box.gpu.bytes_per_second,
    communication_seconds=links / box.gpu.link_bytes_per_second,
  )


class _Counted(Partitioner):
  """A mesh of devices that are only counted."""

  @functools.cached_property
  def mesh(self) -> Any:
    """The mesh, `data` by `fsdp` by one."""
    copies = len(self._devices()) // self.fsdp
    return AbstractMesh((copies, self.fsdp, 1), (DATA, FSDP, MODEL))


def _saved_bytes(model: Model, loss: Any, active: Any, *others: Any) -> int:
  """Counts the bytes that the backward pass is given, parameters and their copies aside.

  Args:
    model: is the network.
    loss: is the function of `steps.loss_of`.
    active: holds the shapes of its first argument.
    *others: hold those of the others.
  """

  def saved(active: Any, *others: Any) -> Any:
    return jax.vjp(lambda active: loss(active, *others), active, has_aux=True)[1]

  shapes = collections.Counter(leaf.shape for leaf in jax.tree.leaves(model.param_shapes()))
  total = 0
  for leaf in jax.tree.leaves(jax.eval_shape(saved, active, *others)):
    if not shapes[leaf.shape]:
      total += leaf.size * leaf.dtype.itemsize
  return total
