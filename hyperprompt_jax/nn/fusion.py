"""Where attention is one kernel, and how that is run over the devices of the mesh."""

import dataclasses
from typing import Any

import jax
from jax.sharding import PartitionSpec

from hyperprompt_jax.nn import fused_attention
from hyperprompt_jax.nn.config import AUTO, PLAIN
from hyperprompt_jax.nn.insertion import Mask
from hyperprompt_jax.nn.layers import Array, mesh_axis, platform


@dataclasses.dataclass(frozen=True)
class Fusion:
  """How a kernel is run over the devices of the mesh.

  Attributes:
    rows: axes of the mesh that rows are spread over.
    heads: the axis that heads are spread over.
    copies: devices with rows of their own.
    interpret: whether there is no TPU.
  """

  rows: Any
  heads: Any
  copies: int
  interpret: bool

  @classmethod
  def of(
    cls, choice: str, rows: int, heads: int, head_dim: int, queries: int, keys: int
  ) -> 'Fusion | None':
    """How attention of these sizes is fused here; None where it is written out.

    Args:
      choice: of `Config.attention`.
      rows: b, of all devices.
      heads: h, of all devices.
      head_dim: d.
      queries: q.
      keys: k.
    """
    mesh = jax.sharding.get_abstract_mesh()
    on_tpu = platform() == 'tpu'
    if choice == PLAIN or (choice == AUTO and not on_tpu):
      return None
    if mesh.empty and jax.device_count() > 1:
      return None  # nobody says how arrays are laid out, as under T5X
    (of_rows, copies), (of_heads, shards) = mesh_axis('batch'), mesh_axis('heads')
    if rows % copies or heads % shards:
      return None
    if not fused_attention.supports(heads // shards, head_dim, queries, keys):
      return None
    return cls(of_rows, of_heads, copies, interpret=not on_tpu)

  def attend(
    self,
    arrays: dict[str, Array],
    mask: Mask,
    head_dim: int,
  ) -> Array:
    """Attention of all rows and heads.

    Args:
      arrays: of `fused_attention.attend`, of all devices; the bias of each copy,
        `[c, h, q, k]`.
      mask: of queries and keys.
      head_dim: d.

    Returns:
      `[b, q, h * d]`.
    """
    arrays |= {'query_segments': mask.query_segments, 'key_segments': mask.key_segments}

    def of_device(arrays: dict[str, Array]) -> Array:
      if 'bias' in arrays:
        arrays = {**arrays, 'bias': arrays['bias'][0]}
      return fused_attention.attend(
        arrays, head_dim=head_dim, causal=mask.causal, interpret=self.interpret
      )

    if jax.sharding.get_abstract_mesh().empty:
      return of_device(arrays)
    rows_and_heads = PartitionSpec(self.rows, None, self.heads)
    specs = {
      name: PartitionSpec(self.rows, self.heads)
      if name == 'bias'
      else PartitionSpec(self.rows)
      if name.endswith('segments')
      else rows_and_heads
      for name in arrays
    }
    return jax.shard_map(
      of_device, in_specs=(specs,), out_specs=rows_and_heads, check_vma=False
    )(arrays)
