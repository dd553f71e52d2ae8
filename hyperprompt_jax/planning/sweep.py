"""What to try, to find the smallest slice that a step fits on, and the best mesh there."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.planning.topology import CHIPS, Slice


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Axes of a mesh besides `data`, which takes what is left.

  Attributes:
    num_partitions: chips that share one copy of the model and one batch.
    fsdp: chips that share one copy, each with a batch of its own.
  """

  num_partitions: int
  fsdp: int


def slices(topology: str | None) -> list[Slice]:
  """The slices to try, from the smallest on.

  Args:
    topology: a generation, a slice, or None for all slices of all generations.

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
  found = [
    Slice.parse(f'{generation}:{shape}')
    for generation, chip in CHIPS.items()
    if topology in (None, generation)
    for shape in chip.shapes
  ]
  return sorted(found, key=lambda where: where.num_chips)


def meshes(
  where: Slice, batch_size: int, emb_dim: int, sizes: Sequence[int]
) -> Iterator[Mesh]:
  """The meshes of a slice that divide what is laid out over them.

  The copies of the model are spread over all chips that do not work on one batch together,
  or over none.

  Args:
    where: the slice.
    batch_size: rows, over `data` and `fsdp`.
    emb_dim: over `fsdp`.
    sizes: of what is laid out over `model`.
  """
  partitions = 1
  while partitions <= where.num_chips:
    rest = where.num_chips // partitions
    divides = all(size % partitions == 0 for size in sizes)
    if divides and where.num_chips % partitions == 0 and batch_size % rest == 0:
      yield Mesh(partitions, 1)
      if rest > 1 and emb_dim % rest == 0:
        yield Mesh(partitions, rest)
    partitions *= 2


def order(held: Mapping[Mesh, int], hbm_bytes: int) -> list[Mesh]:
  """The meshes that may fit, those that hold least first.

  Args:
    held: bytes that each chip holds all the time.
    hbm_bytes: of a chip.
  """
  possible = [mesh for mesh, nbytes in held.items() if nbytes < hbm_bytes]
  return sorted(possible, key=lambda mesh: (held[mesh], mesh.num_partitions))
