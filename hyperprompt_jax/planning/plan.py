"""What is known of one step on one chip of a slice."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.planning.cost import Cost
from hyperprompt_jax.planning.topology import Chip


@dataclasses.dataclass(frozen=True)
class Plan:
  """What one step needs on one chip of a slice.

  Attributes:
    topology: name of the slice.
    mesh: sizes of its axes, by name.
    step: 'train' or 'decode'.
    hbm_bytes: the chip's main memory.
    params_bytes: of it, parameters.
    optimizer_bytes: of it, the optimizer's state.
    fits: whether it runs.
    peak_bytes: the most that is held at once; what the compiler asked for if it does not
      fit.
    compile_seconds: that tracing and compiling took here.
    cost: arithmetic, traffic and communication; this and all below None if it does not
      fit.
    carried_whole: of parameters that are sharded, by shape: how many matrices there are,
      and how many collectives of a step carry one whole.
    compute_seconds: of the arithmetic, at the chip's peak rate.
    memory_seconds: of the traffic, at the memory's bandwidth.
    communication_seconds: of the collectives, at the bandwidth of all links together.
    compiler_seconds: the compiler's estimates of all instructions, one after another; it
      has none for collectives and opaque kernels.
    kernels_seconds: of the kernels without an estimate, by peak rate or bandwidth, whatever
      takes longer.
    step_seconds: the last two and the communication, one after another. An estimate to
      compare programs by.
    utilisation: of the arithmetic units, were a step to take `step_seconds`, by the
      arithmetic that the model asks for: what is worked out twice to save memory does not
      count. None for decoding.
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
  kernels_seconds: float | None = None
  step_seconds: float | None = None
  utilisation: float | None = None

  @property
  def other_bytes(self) -> int:
    """What is neither parameters nor optimizer: activations, gradients, the batch."""
    return self.peak_bytes - self.params_bytes - self.optimizer_bytes

  @staticmethod
  def seconds(chip: Chip, cost: Cost, asked_flops: float | None) -> dict[str, Any]:
    """The estimates of time.

    Args:
      chip: of the slice.
      cost: of the step.
      asked_flops: of one chip, that the model asks for.
    """
    compiler = cost.cycles / chip.clock_hz
    communication = cost.link_bytes / chip.ici_bytes_per_second
    kernels = max(
      cost.unestimated_flops / chip.flops_per_second,
      cost.unestimated_bytes / chip.hbm_bytes_per_second,
    )
    step = compiler + kernels + communication
    return {
      'compute_seconds': cost.flops / chip.flops_per_second,
      'memory_seconds': cost.hbm_bytes / chip.hbm_bytes_per_second,
      'communication_seconds': communication,
      'compiler_seconds': compiler,
      'kernels_seconds': kernels,
      'step_seconds': step,
      'utilisation': asked_flops and asked_flops / chip.flops_per_second / step,
    }

  def report(self) -> dict[str, Any]:
    """As JSON."""
    found = {**dataclasses.asdict(self), 'other_bytes': self.other_bytes}
    if self.cost is not None:
      found['cost'].pop('carried')
      found['cost']['link_bytes'] = self.cost.link_bytes
    return found
