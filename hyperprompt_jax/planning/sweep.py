"""The search for the smallest slice that a step fits on, and for the best mesh there."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.planning.topology import CHIPS, Slice


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The axes of a mesh besides `data`, which takes the remaining chips.

  Attributes:
    num_partitions: counts the chips that share one copy of the model and one batch.
    fsdp: counts the chips that share one copy of the model, each with its own batch.
  """

  num_partitions: int
  fsdp: int


def slices(topology: str | None) -> list[Slice]:
  """Returns the slices to try, in ascending size.

  Args:
    topology: names a generation or a slice; None stands for all slices.

  Raises:
    UserError: if there is no such generation or slice.
  """
  if topology is not None and ':' in topology:
    return [Slice.parse(topology)]
  if topology is not None and topology not in CHIPS:
    raise UserError(
      f'--topology={topology}: --sweep takes a generation ({", ".join(CHIPS)}), a slice '
      'of one, or none'
    )
  candidates = [
    Slice.parse(f'{generation}:{shape}')
    for generation, chip in CHIPS.items()
    if topology in (None, generation)
    for shape in chip.shapes
  ]
  return sorted(candidates, key=lambda where: where.num_chips)


def meshes(
  where: Slice, batch_size: int, emb_dim: int, sizes: Sequence[int]
) -> Iterator[Mesh]:
  """Yields the meshes of a slice that divide all sizes that are sharded over them.

  A copy of the model is spread over all chips that do not share a batch, or over none.

  Args:
    where: is the slice.
    batch_size: counts the rows, which are spread over `data` and `fsdp`.
    emb_dim: is the model width, which is spread over `fsdp`.
    sizes: are the sizes that are spread over `model`.
  """
  partitions = 1
  while partitions <= where.num_devices:
    rest = where.num_devices // partitions
    divides = all(size % partitions == 0 for size in sizes)
    if divides and where.num_devices % partitions == 0 and batch_size % rest == 0:
      yield Mesh(partitions, 1)
      if rest > 1 and emb_dim % rest == 0:
        yield Mesh(partitions, rest)
    partitions *= 2


def order(held: Mapping[Mesh, int], hbm_bytes: int) -> list[Mesh]:
  """Returns the meshes that may fit, in ascending order of the memory that they hold.

  Args:
    held: gives the bytes that each chip holds all the time.
    hbm_bytes: is the size of a chip's main memory.
  """
  possible = [mesh for mesh, nbytes in held.items() if nbytes < hbm_bytes]
  return sorted(possible, key=lambda mesh: (held[mesh], mesh.num_partitions))
