"""The planner's result for one step on one device of a slice, which is a chip mostly."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.planning.cost import Cost
from hyperprompt_jax.planning.topology import Chip, Slice

# Operations of a vector unit for each logit of attention kernels: the mean of the 9 of the
# forward kernel and the 15 of the backward kernel.
VECTOR_OPERATIONS = 12
# Products of matrices in which a logit meets each entry of a head: the mean of 2 and 6.
PRODUCTS = 4


@dataclasses.dataclass(frozen=True)
class Plan:
  """The memory and time that one step needs on one chip of a slice.

  Attributes:
    topology: names the slice.
    mesh: gives the sizes of the mesh's axes, by name.
    step: is 'train' or 'decode'.
    hbm_bytes: is the size of the chip's main memory.
    params_bytes: counts the bytes of parameters that the chip holds.
    optimizer_bytes: counts the bytes of optimizer state that the chip holds.
    fits: tells whether the step runs.
    peak_bytes: is the largest memory use; where the step does not fit, the bytes that the
      compiler asked for.
    compile_seconds: is the time that tracing and compiling took here.
    cost: holds arithmetic, traffic and communication; this and all below are None if the
      step does not fit.
    carried_whole: maps the shapes of sharded parameters to the number of such matrices, and
      the number of collectives of a step that carry one whole.
    compute_seconds: is the time of the arithmetic at the chip's peak rate.
    memory_seconds: is the time of the traffic at the memory's bandwidth.
    communication_seconds: is the time of the collectives at the bandwidth of all links.
    compiler_seconds: adds up the compiler's estimates of all instructions; it has none for
      collectives and opaque kernels.
    kernels_bound_seconds: is the least time of kernels without an estimate: at peak rate or
      at full bandwidth, whichever takes longer.
    kernels_seconds: is a model of the same time: the matrix units, which a head fills in
      part, and then the vector units, or the bandwidth if that takes longer.
    step_seconds: adds up communication, compiler and the model of kernels. It serves to
      compare programs.
    slices: is the number of slices that train together; all figures but `chip_hours` are
      those of one of them.
    network_bytes: counts the bytes that a chip sends over the data-center network, by which
      slices are joined.
    network_seconds: is the time of these bytes at the network's bandwidth, and a part of
      `step_seconds`.
    devices_per_chip: is the number of devices in which a chip appears; all figures above
      and below but `chip_hours` are those of one device.
    chip_hours: is the time of all steps of a run on all chips, if the number of steps is
      known. As it adds up `step_seconds`, it leaves out evaluation, checkpoints and
      compilation.
    utilisation: is the share of the peak rate that a step of `step_seconds` would reach,
      by the model's own arithmetic; recomputation does not count. None for decoding.
    tokens_per_second: counts the tokens of answers that all slices generate in a second of
      `step_seconds`, the encoder's time included, if every answer has its full length. None
      for training.
  """

  topology: str
  mesh: Mapping[str, int]
  step: str
  hbm_bytes: int
  params_bytes: int
  optimizer_bytes: int
  fits: bool = False
  peak_bytes: int = 0
  compile_seconds: float = 0.0
  cost: Cost | None = None
  carried_whole: Mapping[str, tuple[int, int]] | None = None
  compute_seconds: float | None = None
  memory_seconds: float | None = None
  communication_seconds: float | None = None
  compiler_seconds: float | None = None
  kernels_bound_seconds: float | None = None
  kernels_seconds: float | None = None
  step_seconds: float | None = None
  utilisation: float | None = None
  devices_per_chip: int = 1
  slices: int = 1
  network_bytes: int = 0
  network_seconds: float = 0.0
  chip_hours: float | None = None
  tokens_per_second: float | None = None

  def over_slices(self, where: Slice, gradient_bytes: int) -> 'Plan':
    """Returns the plan of several slices, each of which computes a part of every batch.

    The gradients of a step are summed over the slices, and nothing else is sent: each slice
    holds all parameters. Chips at the same place of each slice form a ring, in which the
    part of the gradients that a chip holds goes around twice. No computation hides it.

    Args:
      where: has the number of slices.
      gradient_bytes: counts the bytes of gradients that a chip holds; 0 for decoding.
    """
    number, bandwidth = where.count, where.chip.dcn_bytes_per_second
    assert bandwidth is not None
    nbytes = int(2 * gradient_bytes * (number - 1) / number)
    seconds = nbytes / bandwidth
    plan = dataclasses.replace(
      self, slices=number, network_bytes=nbytes, network_seconds=seconds
    )
    if self.step_seconds is None:
      return plan
    slower = 1 + seconds / self.step_seconds
    scaled = lambda value, by: None if value is None else value * by
    return dataclasses.replace(
      plan,
      step_seconds=self.step_seconds + seconds,
      utilisation=scaled(self.utilisation, 1 / slower),
      chip_hours=scaled(self.chip_hours, number * slower),
    )

  @property
  def other_bytes(self) -> int:
    """The peak without parameters and optimizer: activations, gradients, the batch."""
    return self.peak_bytes - self.params_bytes - self.optimizer_bytes

  @staticmethod
  def seconds(
    chip: Chip, cost: Cost, head_dim: int, asked_flops: float | None = None
  ) -> dict[str, Any]:
    """Estimates the times of a step.

    Args:
      chip: describes a chip of the slice.
      cost: is the cost of the step.
      head_dim: is the width of a head of attention.
      asked_flops: counts the model's own operations on one chip, without recomputation;
        None for decoding.
    """
    compiler = cost.cycles / chip.clock_hz
    communication = cost.link_bytes / chip.ici_bytes_per_second
    logits = cost.unestimated_exponentials
    vector = VECTOR_OPERATIONS * logits / (chip.vector_alus * chip.clock_hz)
    # A matrix unit takes a head of less than its width as one of its width.
    width = math.ceil(head_dim / chip.matrix_width) * chip.matrix_width
    matrix = PRODUCTS * 2 * logits * width / chip.flops_per_second
    traffic = cost.unestimated_bytes / chip.hbm_bytes_per_second
    kernels = max(matrix + vector, traffic)
    step = compiler + kernels + communication
    return {
      'compute_seconds': cost.flops / chip.flops_per_second,
      'memory_seconds': cost.hbm_bytes / chip.hbm_bytes_per_second,
      'communication_seconds': communication,
      'compiler_seconds': compiler,
      'kernels_bound_seconds': max(cost.unestimated_flops / chip.flops_per_second, traffic),
      'kernels_seconds': kernels,
      'step_seconds': step,
      'utilisation': asked_flops and asked_flops / chip.flops_per_second / step,
    }

  def report(self) -> dict[str, Any]:
    """Returns the plan as a JSON object."""
    values = {**dataclasses.asdict(self), 'other_bytes': self.other_bytes}
    if self.cost is not None:
      values['cost'].pop('carried')
      values['cost']['link_bytes'] = self.cost.link_bytes
    return values
