"""TPU slices and GPUs by name, and the published figures of their chips."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import libtpu

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPUs, by Google's published figures; each is that of one device.

  Attributes:
    flops_per_second: is the peak rate of bfloat16 matrix products.
    hbm_bytes: is the size of the main memory.
    hbm_bytes_per_second: is the bandwidth of the main memory.
    ici_bytes_per_second: is the bandwidth of all links to other chips together.
    clock_hz: is the clock from which, with the number of matrix units, the peak follows.
    matrix_width: is the number of rows and of columns of a matrix unit.
    vector_alus: counts the arithmetic units of the vector units of all cores: for v4 those
      of Jouppi et al. (2023), "TPU v4", and for later chips an assumption.
    shapes: are those of the slices that Google offers, up to some hundred chips.
    devices: is the number of devices in which a chip appears.
    dcn_bytes_per_second: is the bandwidth of the data-center network, by which slices are
      joined; None where Google publishes none.
  """

  flops_per_second: float
  hbm_bytes: int
  hbm_bytes_per_second: float
  ici_bytes_per_second: float
  clock_hz: float
  matrix_width: int
  vector_alus: int
  shapes: tuple[str, ...]
  devices: int = 1
  dcn_bytes_per_second: float | None = None

  @property
  def num_axes(self) -> int:
    """The number of axes of a slice's shape."""
    return self.shapes[0].count('x') + 1


_TORUS = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8'),
  '8x8x16',
)
_PLANE = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CHIPS = {
  'v4': Chip(275e12, 32 * GIB, 1.2e12, 300e9, 1.05e9, 128, 2 * 128 * 16, _TORUS),
  'v5e': Chip(
    *(197e12, 16 * GIB, 0.819e12, 200e9, 1.5e9, 128, 128 * 32, _PLANE),
    dcn_bytes_per_second=25e9 / 8,
  ),
  'v5p': Chip(
    *(459e12, 95 * GIB, 2.765e12, 600e9, 1.75e9, 128, 2 * 128 * 32, _TORUS),
    dcn_bytes_per_second=50e9 / 8,
  ),
  'v6e': Chip(
    *(918e12, 32 * GIB, 1.64e12, 448e9, 1.75e9, 256, 128 * 32, _PLANE),
    dcn_bytes_per_second=100e9 / 8,
  ),
  # Each half of a chip is a device with memory of its own; the halves share the links.
  'tpu7x': Chip(
    *(2307e12 / 2, 96 * GIB, 7.38e12 / 2, 600e9 / 2, 2.2e9, 256, 128 * 32, _TORUS),
    devices=2,
    dcn_bytes_per_second=100e9 / 8 / 2,
  ),
}


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A GPU, by NVIDIA's published figures.

  Attributes:
    flops_per_second: is the peak rate of dense bfloat16 matrix products.
    memory_bytes: is the size of the memory.
    bytes_per_second: is the bandwidth of the memory.
    link_bytes_per_second: is the bandwidth to the other GPUs of a machine in one direction,
      half of NVLink's, or that of PCI Express 4.
  """

  flops_per_second: float
  memory_bytes: int
  bytes_per_second: float
  link_bytes_per_second: float


GPUS = {
  'a100-40gb': Gpu(312e12, 40 * 10**9, 1.555e12, 300e9),
  'a100-80gb': Gpu(312e12, 80 * 10**9, 2.039e12, 300e9),
  'h100': Gpu(989e12, 80 * 10**9, 3.35e12, 450e9),
  'h200': Gpu(989e12, 141 * 10**9, 4.8e12, 450e9),
  'b200': Gpu(2250e12, 180 * 10**9, 8e12, 900e9),
  'l4': Gpu(121e12, 24 * 10**9, 0.3e12, 32e9),
  'l40s': Gpu(362e12, 48 * 10**9, 0.864e12, 32e9),
}


@dataclasses.dataclass(frozen=True)
class Box:
  """GPUs of one machine, which NVLink or PCI Express joins.

  Attributes:
    name: is written like `h100:8`.
    gpu: describes one of them.
    number: counts them.
  """

  name: str
  gpu: Gpu
  number: int

  @classmethod
  def parse(cls, name: str) -> 'Box':
    """Parses a name such as `h100:8`.

    Raises:
      UserError: if there is no such GPU, or a machine has not so many.
    """
    kind, _, number = name.partition(':')
    if kind not in GPUS:
      raise UserError(f'--topology={name}: there are the GPUs {", ".join(GPUS)}')
    if number not in map(str, range(1, 9)):
      raise UserError(
        f'--topology={name}: expected 1 to 8 GPUs of one machine, as in {kind}:8'
      )
    return cls(name, GPUS[kind], int(number))


# The chips of one host, which the compiler assumes by default.
_HOST = (2, 2, 1)


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a TPU pod.

  Attributes:
    name: is written like `v5p:4x4x4`.
    chip: describes the chips of its generation.
    shape: counts the chips on each axis.
    count: counts the slices like it that train together.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  count: int = 1

  @classmethod
  def parse(cls, name: str, count: int = 1) -> 'Slice':
    """Parses a name.

    Args:
      name: names the slice.
      count: counts the slices like it that train together.

    Raises:
      UserError: if there is no such generation, or it has no slice of such a shape, or the
        network between its slices is not known.
    """
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
    if match is None or match[1] not in CHIPS:
      hint = _by_type(name)
      raise UserError(
        f'--topology={name}: expected a generation ({", ".join(CHIPS)}) and a shape, as '
        f'{hint or "v4:2x2x2 or v5e:4x4"}; or a GPU ({", ".join(GPUS)}) and a number, as '
        'h100:8'
      )
    chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split('x'))
    if len(shape) != chip.num_axes or 0 in shape:
      raise UserError(
        f'--topology={name}: a slice of {match[1]} has {chip.num_axes} axes, as in '
        f'{match[1]}:{"x".join(["2"] * chip.num_axes)}'
      )
    if count > 1 and chip.dcn_bytes_per_second is None:
      known = [name for name, chip in CHIPS.items() if chip.dcn_bytes_per_second]
      raise UserError(
        f'--slices={count}: Google publishes the bandwidth between slices of '
        f'{", ".join(known)} alone, not of {match[1]}'
      )
    return cls(name, chip, shape, count)

  @property
  def num_chips(self) -> int:
    """The number of chips of the slice."""
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    """The number of devices of the slice."""
    return self.num_chips * self.chip.devices

  def devices(self) -> Sequence[Any]:
    """Returns descriptions of devices that are not here, for the compiler.

    Raises:
      UserError: if the TPU's compiler is not installed, or knows no such slice.
    """
    libtpu.prepare()
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if self.name.startswith('v4'):
      options['chip_config_name'] = 'megacore'  # a chip is one device, as on TPU VMs
    if any(size % host for size, host in zip(self.shape, _HOST, strict=False)):
      options['chips_per_host_bounds'] = (1, 1, 1)
    try:
      description = topologies.get_topology_desc(self.name, 'tpu', **options)
    except (RuntimeError, ValueError) as error:
      reason = str(error).splitlines()[0]
      if 'TPU support not installed' in reason:
        raise UserError(
          f"the TPU's compiler is not here ({reason}): pip install '"
          "hyperprompt-jax[plan]', which works on Linux on x86-64 alone"
        ) from error
      raise UserError(f'--topology={self.name}: {reason}') from error
    return description.devices


def _by_type(name: str) -> str:
  """Returns the slice of an accelerator type such as `v5litepod-8`; empty if there is none.

  The types of v4, v5p and tpu7x count the two cores of each chip, the others count chips.
  """
  match = re.fullmatch(r'(v5litepod|\w+)-(\d+)', name)
  generation = {'v5litepod': 'v5e'}.get(match[1], match[1]) if match else ''
  if match is None or generation not in CHIPS:
    return ''
  chips = int(match[2]) // (2 if CHIPS[generation].num_axes == 3 else 1)
  slices = (Slice.parse(f'{generation}:{shape}') for shape in CHIPS[generation].shapes)
  return next((where.name for where in slices if where.num_chips == chips), '')
