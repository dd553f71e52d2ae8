"""The cost of a compiled program on one chip: arithmetic, memory traffic, communication."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from hyperprompt_jax.planning.hlo import Array, Computation, Instruction, Module

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
# A ring sends the data of an all-reduce around twice: to add, and to distribute the sum.
_TIMES_AROUND = {'all-reduce': 2}
# The TPU compiler's name for a fusion that adds over chips and keeps a part of the sum.
_REDUCE_SCATTER = 'all-reduce-scatter'
# The TPU compiler runs a collective beside several fusions, each of which lists it again.
# All but the fusion that starts it carry this mark.
_GOES_ON = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')
_BEGINS = 'custom_call_target="AsyncCollectiveStart"'
_ENDS = 'custom_call_target="AsyncCollectiveDone"'
# Instructions that move no data: names, views, and the ends of asynchronous operations.
_FREE = (
  *('bitcast', 'constant', 'get-tuple-element', 'parameter', 'tuple', 'after-all'),
  *('partition-id', 'replica-id', 'opt-barrier', 'copy-done', 'slice-done', 'async-done'),
)
# Custom calls that allocate or name memory, and move nothing.
_FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one run of a program on one chip.

  Attributes:
    flops: counts the operations of matrix products, two for each multiply-add; an opaque
      kernel counts as its author's estimate says.
    hbm_bytes: counts the bytes read from and written to the chip's main memory.
    collective_bytes: gives the bytes that each kind of collective carries: the operands of
      a `reduce-scatter`, the results of all others.
    collectives: counts the collectives of each kind.
    carried: counts the collectives that carry an array of each shape; a shape has its
      sizes in ascending order, without ones.
    cycles: adds up the compiler's estimates of time, where it gives one.
    unestimated: counts the calls of opaque kernels without an estimate.
    unestimated_flops: counts the operations of those calls.
    unestimated_bytes: counts the bytes of main memory of those calls.
    unestimated_exponentials: counts the exponentials of those calls: one for each logit of
      attention.
    unknown_loops: counts the loops whose trip count is unknown; each is charged once.
  """

  flops: int
  hbm_bytes: int
  collective_bytes: Mapping[str, int]
  collectives: Mapping[str, int]
  carried: Mapping[tuple[int, ...], int]
  cycles: int
  unestimated: int
  unestimated_flops: int
  unestimated_bytes: int
  unestimated_exponentials: int
  unknown_loops: int

  @property
  def link_bytes(self) -> int:
    """The bytes that the chip sends over its links; an `all-reduce` goes around twice."""
    return sum(
      _TIMES_AROUND.get(kind, 1) * nbytes for kind, nbytes in self.collective_bytes.items()
    )


def analyse(module: Module) -> Cost:
  """Adds up the cost of all instructions; the body of a loop counts as often as it runs."""
  flops = hbm_bytes = cycles = 0
  unestimated = unestimated_flops = unestimated_bytes = exponentials = 0
  collective_bytes: collections.Counter[str] = collections.Counter()
  collectives: collections.Counter[str] = collections.Counter()
  carried: collections.Counter[tuple[int, ...]] = collections.Counter()
  for computation, instruction, times in module.executed():
    for inner, part in module.within(computation, instruction):
      if part.opcode == 'convolution':
        flops += times * _convolution_flops(inner, part)
      elif part.opcode == 'dot':
        flops += times * _dot_flops(inner, part)
      kind = part.opcode.removesuffix('-start')
      if kind in COLLECTIVES and not _goes_on(part):
        if (instruction.called('calls') or '').startswith(_REDUCE_SCATTER):
          kind = 'reduce-scatter'
        whole = _carried(inner, part)
        collectives[kind] += times
        collective_bytes[kind] += times * sum(array.nbytes for array in whole)
        for array in whole:
          carried[shape_of(array.dims)] += times
    of_hbm = times * _bytes(module, computation, instruction)
    hbm_bytes += of_hbm
    estimate = instruction.estimated_cycles
    cycles += times * (estimate or 0)
    if 'tpu_custom_call' in instruction.attributes:
      of_kernel = times * _authors_estimate(instruction, 'flops')
      flops += of_kernel
      if estimate is None:
        unestimated += times
        unestimated_flops += of_kernel
        unestimated_bytes += of_hbm
        exponentials += times * _authors_estimate(instruction, 'transcendentals')
  return Cost(
    flops=flops,
    hbm_bytes=hbm_bytes,
    collective_bytes=dict(collective_bytes),
    collectives=dict(collectives),
    carried=dict(carried),
    cycles=cycles,
    unestimated=unestimated,
    unestimated_flops=unestimated_flops,
    unestimated_bytes=unestimated_bytes,
    unestimated_exponentials=exponentials,
    unknown_loops=sum(
      module.trip_count(instruction) is None
      for computation in module.computations.values()
      for instruction in computation.instructions.values()
      if instruction.opcode == 'while'
    ),
  )


def _goes_on(part: Instruction) -> bool:
  """Whether the instruction continues a collective that another one has started."""
  return bool(_GOES_ON.search(part.attributes))


def _carried(computation: Computation, collective: Instruction) -> tuple[Array, ...]:
  """Returns the operands of a `reduce-scatter`, and the results of all other collectives.

  An asynchronous collective is charged for its result alone, not for its handles.
  """
  if collective.opcode.startswith('reduce-scatter'):
    operands = computation.operands(collective)
    return tuple(array for operand in operands for array in operand.arrays)
  if not collective.opcode.endswith('-start') or collective.opcode == 'all-reduce-start':
    return collective.arrays
  arrays = tuple(array for array in collective.arrays if array.dims)
  return arrays[len(arrays) // 2 :]


def shape_of(dims: Iterable[int]) -> tuple[int, ...]:
  """Sorts sizes and leaves ones out, since a compiler transposes and reshapes."""
  return tuple(sorted(size for size in dims if size > 1))


def _authors_estimate(call: Instruction, name: str) -> int:
  """Returns a number of the author's estimate of a Pallas kernel; 0 if there is none."""
  estimate = re.search(rf'"cost_estimate":\{{[^}}]*"{name}":"(\d+)"', call.attributes)
  return int(estimate[1]) if estimate else 0


def _dot_flops(computation: Computation, dot: Instruction) -> int:
  lhs = computation.operands(dot)[0].arrays[0]
  dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', dot.attributes)
  contracted = [lhs.dims[int(d)] for d in dims[1].split(',') if d] if dims else []
  return 2 * dot.arrays[0].size * int(np.prod(contracted, dtype=np.int64))


def _convolution_flops(computation: Computation, convolution: Instruction) -> int:
  """Counts multiply-adds outside the padding; a TPU's matrix products are convolutions."""
  operands = computation.operands(convolution)
  if len(operands) < 2:
    return 0
  lhs, rhs = operands[0].arrays[0].dims, operands[1].arrays[0].dims
  out = convolution.arrays[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', convolution.attributes)
  assert labels is not None
  of_lhs, of_rhs, of_out = labels.groups()
  window = re.search(r'window=\{([^}]*)\}', convolution.attributes)
  options = dict(part.split('=') for part in window[1].split()) if window else {}
  pairs = 1
  for axis in (label for label in of_out if label.isdigit()):
    place = int(axis)
    option = lambda name, default, p=place: options.get(
      name, 'x'.join([default] * (p + 1))
    ).split('x')[p]
    pairs *= _valid_pairs(
      lhs[of_lhs.index(axis)],
      rhs[of_rhs.index(axis)],
      out[of_out.index(axis)],
      stride=int(option('stride', '1')),
      low=int(option('pad', '0_0').split('_')[0]),
      lhs_dilation=int(option('lhs_dilate', '1')),
      rhs_dilation=int(option('rhs_dilate', '1')),
    )
  groups = re.search(r'batch_group_count=(\d+)', convolution.attributes)
  rows = out[of_out.index('b')] * out[of_out.index('f')]
  per_group = 1 if groups is None else int(groups[1])
  return 2 * rows * rhs[of_rhs.index('i')] * pairs // per_group


def _valid_pairs(
  lhs: int,
  kernel: int,
  out: int,
  *,
  stride: int,
  low: int,
  lhs_dilation: int,
  rhs_dilation: int,
) -> int:
  """Counts the pairs of output and kernel positions that meet an element of the input."""
  at = np.arange(out)[:, None] * stride - low + np.arange(kernel)[None, :] * rhs_dilation
  inside = (at >= 0) & (at <= (lhs - 1) * lhs_dilation) & (at % lhs_dilation == 0)
  return int(inside.sum())


def _is_in_hbm(array: Array) -> bool:
  return not array.on_chip


def _bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
  """Counts the bytes of HBM that an instruction reads and writes; views cost nothing."""
  opcode = instruction.opcode
  if opcode in _FREE or any(name in instruction.attributes for name in _FREE_CALLS):
    return 0
  written = [array for array in instruction.arrays if _is_in_hbm(array)]
  if opcode in ('copy-start', 'slice-start'):
    # A copy returns target, source and a handle; a slice returns source and target.
    to = instruction.arrays[0 if opcode == 'copy-start' else 1]
    source = computation.operands(instruction)[0].arrays[0]
    return to.nbytes * (_is_in_hbm(to) + _is_in_hbm(source))
  inner = module.fused(instruction)
  if inner is None:
    if opcode == 'dynamic-update-slice':
      update = computation.operands(instruction)[1].arrays[0]
      return 2 * update.nbytes
    if opcode in ('dynamic-slice', 'slice', 'gather'):
      return 2 * sum(array.nbytes for array in written)
    read_bytes = sum(
      array.nbytes
      for operand in computation.operands(instruction)
      for array in operand.arrays
      if _is_in_hbm(array)
    )
    return read_bytes + sum(array.nbytes for array in written)
  root = inner.instructions[inner.root]
  if _ENDS in root.attributes:
    return 0
  if _BEGINS in root.attributes:
    # It returns its operands, as many results, and handles.
    taken = [a for operand in computation.operands(instruction) for a in operand.arrays]
    given = instruction.arrays[len(taken) : 2 * len(taken)]
    return sum(array.nbytes for array in (*taken, *given) if _is_in_hbm(array))
  total = 0
  for number, operand in enumerate(computation.operands(instruction)):
    if operand.arrays and _is_in_hbm(operand.arrays[0]):
      total += _read_of_parameter(module, inner, _parameter(inner, number))
  for array, maker in _results(inner, instruction):
    if _is_in_hbm(array):
      total += _written_by(inner, maker, array.nbytes)
  return total


def _hands_on(inner: Computation) -> bool:
  """Whether a fusion passes parameters through, for a collective that runs beside it."""
  return any(map(_goes_on, inner.instructions.values()))


def _read_of_parameter(module: Module, inner: Computation, parameter: Instruction) -> int:
  """Counts the bytes of a parameter that a fusion reads: all, slices, or none.

  A parameter that is only updated in place is not read, nor is one of a collective that
  runs beside the fusion.
  """
  whole = parameter.arrays[0].nbytes
  if parameter.name == inner.root:
    return whole  # it is passed through, for another instruction to read
  users = [part for part in inner.instructions.values() if parameter.name in part.operands]
  total = 0
  for user in users:
    if user.opcode in ('dynamic-slice', 'slice', 'gather'):
      total += sum(array.nbytes for array in user.arrays)
    elif (
      (user.opcode == 'dynamic-update-slice' and user.operands[0] == parameter.name)
      or _goes_on(user)
      or (user.name == inner.root and _hands_on(inner))
    ):
      continue
    elif user.opcode == 'bitcast':
      total += _read_of_parameter(module, inner, user)
    elif user.opcode == 'fusion':
      nested = module.fused(user)
      assert nested is not None
      if nested.instructions[nested.root].opcode == 'copy':
        # It reads the parameter in another layout, as much of it as is used.
        total += _read_of_parameter(module, inner, user)
        continue
      for number, name in enumerate(user.operands):
        if name == parameter.name:
          total += _read_of_parameter(module, nested, _parameter(nested, number))
    else:
      return whole
  return min(total, whole)


def _parameter(computation: Computation, number: int) -> Instruction:
  return next(
    part
    for part in computation.instructions.values()
    if part.opcode == 'parameter' and part.attributes.startswith(f'{number})')
  )


def _results(inner: Computation, fusion: Instruction):
  """Pairs the results of a fusion with the instructions within it that make them."""
  root = inner.instructions[inner.root]
  makers = inner.operands(root) if root.opcode == 'tuple' else [root]
  return zip(fusion.arrays, makers, strict=False)


def _written_by(inner: Computation, maker: Instruction, whole: int) -> int:
  """Counts the bytes that a result writes: for an update in place, the update alone.

  A collective was charged where it started, and costs nothing where it continues.
  """
  while maker.opcode == 'bitcast' and inner.operands(maker):
    maker = inner.operands(maker)[0]
  if _goes_on(maker) or (maker.opcode == 'parameter' and _hands_on(inner)):
    return 0
  if maker.opcode == 'dynamic-update-slice':
    return min(whole, inner.operands(maker)[1].arrays[0].nbytes)
  return whole
