"""How the TPU's kernel of attention runs over the devices of a mesh.

Axis letters: see `hyperprompt_jax.nn`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from hyperprompt_jax.nn import fused_attention
from hyperprompt_jax.nn.attention_inputs import AttentionInputs, Keys
from hyperprompt_jax.nn.segments import Array


@dataclasses.dataclass(frozen=True)
class KernelLayout:
  """The way in which the kernel of attention runs over the devices of the mesh.

  Attributes:
    rows: names the axes of the mesh that rows are spread over.
    heads: names the axis of the mesh that heads are spread over.
    copies: is C, the number of device groups that have rows of their own.
    interpret: tells whether the kernel is interpreted, for hosts without a TPU.
  """

  rows: Any
  heads: Any
  copies: int
  interpret: bool = False

  def attend(self, inputs: AttentionInputs) -> Array:
    """Attention of all rows and heads, `[B, Q, h * k]`."""
    return self._over_devices(self._kernel.attend, self._joined)(inputs)

  def gradients(
    self, inputs: AttentionInputs, out_gradient: Array
  ) -> tuple[AttentionInputs, Array]:
    """The gradients of the inputs, and attention; see `fused_attention.Kernel`."""
    specs = fused_attention.differentiable(self._specs(inputs))
    run = self._over_devices(self._kernel.gradients, (specs, self._joined))
    return run(inputs, out_gradient)

  @property
  def _kernel(self) -> fused_attention.Kernel:
    return fused_attention.Kernel(interpret=self.interpret)

  @property
  def _joined(self) -> PartitionSpec:
    """The layout of an array `[B, Q, h * k]`."""
    return PartitionSpec(self.rows, None, self.heads)

  def _specs(self, inputs: AttentionInputs) -> Any:
    """The layouts of all arrays of the inputs."""
    rows = PartitionSpec(self.rows)
    given = lambda x, spec: None if x is None else spec

    def keys(x: Keys) -> Keys:
      scale = given(x.value_scale, self._joined)
      return Keys(self._joined, self._joined, rows, scale)  # type: ignore[arg-type]

    return inputs.replace(
      query=self._joined,
      query_segments=rows,
      tokens=keys(inputs.tokens),
      prompts=None if inputs.prompts is None else keys(inputs.prompts),
      bias=given(inputs.bias, PartitionSpec(self.rows, self.heads)),
    )

  def _over_devices(self, function: Callable[..., Any], out_specs: Any) -> Any:
    """Runs a function of the inputs, and of arrays `[B, Q, h * k]`, on every device."""
    if jax.sharding.get_abstract_mesh().empty:
      return function

    def run(inputs: AttentionInputs, *arrays: Array) -> Any:
      in_specs = (self._specs(inputs), *(self._joined for _ in arrays))
      on_devices = jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, check_vma=False
      )
      return on_devices(inputs, *arrays)

    return run
