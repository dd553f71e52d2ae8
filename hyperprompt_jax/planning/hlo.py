"""A parser for the text of an optimised XLA program.

XLA's own cost analysis counts the body of a loop once. Here loops have trip counts, and
`executed` gives every instruction with the number of times that it runs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'c64': 64, 'c128': 128, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'(ENTRY )?%([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%([\w.\-]+) = (.*)')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')


@dataclasses.dataclass(frozen=True)
class Array:
  """The shape of an array.

  Attributes:
    dtype: is XLA's name of the element type.
    dims: gives the sizes.
    on_chip: tells whether it lives in one of the chip's own memories, and not in HBM.
  """

  dtype: str
  dims: tuple[int, ...]
  on_chip: bool = False

  @functools.cached_property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.dims)

  @property
  def nbytes(self) -> int:
    """Bytes, without the padding of its layout."""
    digits = re.search(r'\d+', self.dtype)
    bits = _BITS.get(self.dtype, int(digits[0]) if digits else 8)
    return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: identifies the instruction in its computation.
    arrays: are its results, a tuple's elements one after another.
    opcode: is XLA's name of the operation.
    operands: name instructions of the same computation.
    attributes: is the unparsed rest of the line.
  """

  name: str
  arrays: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  def called(self, attribute: str) -> str | None:
    """Returns the name of the computation that an attribute refers to."""
    match = re.search(rf'\b{attribute}=%([\w.\-]+)', self.attributes)
    return match[1] if match else None

  @property
  def constant(self) -> int | None:
    """The value of an integer constant; None for any other instruction."""
    match = re.match(r'(\d+)\)', self.attributes) if self.opcode == 'constant' else None
    return int(match[1]) if match else None

  @property
  def estimated_cycles(self) -> int | None:
    """The compiler's estimate of the instruction's time."""
    match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
    return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the program's order.

  Attributes:
    instructions: maps names to instructions.
    root: names the instruction whose result is returned.
  """

  instructions: Mapping[str, Instruction]
  root: str

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions whose results an instruction takes."""
    return [
      self.instructions[name] for name in instruction.operands if name in self.instructions
    ]


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: maps names to computations.
    entry: names the computation that is run.
  """

  computations: Mapping[str, Computation]
  entry: str

  def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields every instruction with its computation and the number of times it runs.

    A fusion counts as one instruction; a loop is replaced by the instructions in it.
    """
    yield from self._executed(self.entry, 1)

  def _executed(
    self, name: str, times: int
  ) -> Iterator[tuple[Computation, Instruction, int]]:
    computation = self.computations[name]
    for instruction in computation.instructions.values():
      inner = self._runs(instruction)
      if not inner:
        yield computation, instruction, times
      for called, trips in inner:
        yield from self._executed(called, times * trips)

  def _runs(self, instruction: Instruction) -> list[tuple[str, int]]:
    """Returns the computations that an instruction runs, and how often each runs."""
    if instruction.opcode == 'while':
      trips = self.trip_count(instruction) or 1
      body, condition = instruction.called('body'), instruction.called('condition')
      return [(name, trips) for name in (condition, body) if name]
    if instruction.opcode in ('call', 'async-start'):
      called = instruction.called('to_apply') or instruction.called('calls')
      return [(called, 1)] if called else []
    if instruction.opcode == 'conditional':
      names = re.findall(r'%([\w.\-]+)', instruction.attributes.partition('=')[2])
      return [(name, 1) for name in names if name in self.computations]
    return []

  def trip_count(self, loop: Instruction) -> int | None:
    """Returns the trip count of a loop; None if the program does not say.

    JAX's scans count an index from 0 to a constant. Trip counts come from the constant and
    the loop's increment, which exceeds one where a matrix product is computed in parts.
    """
    if known := re.search(r'known_trip_count\D*(\d+)', loop.attributes):
      return int(known[1])
    name = loop.called('condition')
    if name is None:
      return None
    constants = (instruction.constant for instruction in self._all_of(name))
    bounds = [value for value in constants if value is not None]
    return -(-bounds[0] // self._step(loop)) if len(bounds) == 1 else None

  def _step(self, loop: Instruction) -> int:
    """Returns the increment of a loop's index; 1 if the program does not say."""
    condition = self.computations[loop.called('condition') or '']
    body = self.computations[loop.called('body') or '']
    indices = [
      int(place[1])
      for operand in condition.operands(condition.instructions[condition.root])
      if (place := re.search(r'index=(\d+)', operand.attributes))
    ]
    root = body.instructions[body.root]
    if len(indices) != 1 or root.opcode != 'tuple':
      return 1
    update = body.operands(root)[indices[0]]
    constants = (operand.constant for operand in body.operands(update))
    increments = [value for value in constants if value is not None]
    return increments[0] if update.opcode == 'add' and len(increments) == 1 else 1

  def _all_of(self, name: str) -> Iterator[Instruction]:
    """Yields a computation's instructions, and those of the fusions in it."""
    for instruction in self.computations[name].instructions.values():
      yield instruction
      if called := instruction.called('calls'):
        yield from self._all_of(called)

  def fused(self, instruction: Instruction) -> Computation | None:
    """Returns the computation of a fusion; None for any other instruction."""
    called = instruction.called('calls') if instruction.opcode == 'fusion' else None
    return self.computations[called] if called else None

  def within(
    self, computation: Computation, instruction: Instruction
  ) -> Iterator[tuple[Computation, Instruction]]:
    """Yields an instruction, or all instructions that it fuses, with their computations."""
    inner = self.fused(instruction)
    if inner is None:
      yield computation, instruction
    else:
      for part in inner.instructions.values():
        yield from self.within(inner, part)


def parse(text: str) -> Module:
  """Parses the text of a compiled program (`Compiled.as_text()`)."""
  computations: dict[str, Computation] = {}
  entry = ''
  name, root = '', ''
  instructions: dict[str, Instruction] = {}
  for line in text.splitlines():
    if header := _HEADER.match(line):
      name, root, instructions = header[2], '', {}
      entry = name if header[1] else entry
    elif line.startswith('}') and name:
      computations[name] = Computation(instructions, root)
      name = ''
    elif name and (match := _INSTRUCTION.match(line)):
      instruction = _instruction(match[2], match[3])
      instructions[instruction.name] = instruction
      root = instruction.name if match[1] else root
  return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
  shape, rest = _split_shape(text)
  opcode = _OPCODE.match(rest)
  assert opcode is not None, text[:200]
  end = _closing(rest, opcode.end() - 1)
  inside = rest[opcode.end() : end]
  if opcode[1] in ('constant', 'parameter'):
    operands: Sequence[str] = ()
    attributes = f'{inside}){rest[end + 1 :]}'
  else:
    operands = re.findall(r'%([\w.\-]+)', inside)
    attributes = rest[end + 1 :]
  return Instruction(name, _arrays(shape), opcode[1], tuple(operands), attributes)


def _split_shape(text: str) -> tuple[str, str]:
  """Splits an instruction into its result type and the rest."""
  if text.startswith('('):
    end = _closing(text, 0)
    return text[: end + 1], text[end + 1 :]
  shape, _, rest = text.partition(' ')
  return shape, rest


def _closing(text: str, start: int) -> int:
  """Returns the position of the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.finditer(r'[()]', text[start:]):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return start + match.start()
  return len(text)


@functools.lru_cache(maxsize=100_000)
def _arrays(shape: str) -> tuple[Array, ...]:
  return tuple(
    Array(
      dtype,
      tuple(int(dim) for dim in dims.split(',') if dim),
      on_chip=bool(re.search(r'S\([1-9]\d*\)', layout or '')),
    )
    for dtype, dims, layout in _ARRAY.findall(shape)
  )
