"""The text of an optimised XLA program, read into computations and instructions.

XLA's own cost analysis counts the body of a loop once. Here loops have trip counts, and
`executed` gives every instruction with the number of times that it runs.
"""

import dataclasses
import functools
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
    dtype: XLA's name.
    dims: sizes.
    on_chip: whether it lives in one of the chip's own memories, and not in HBM.
  """

  dtype: str
  dims: tuple[int, ...]
  on_chip: bool = False

  @functools.cached_property
  def size(self) -> int:
    """Number of elements."""
    size = 1
    for dim in self.dims:
      size *= dim
    return size

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
    name: of the instruction.
    arrays: what it returns, a tuple's elements one after another.
    opcode: XLA's name.
    operands: names of instructions of the same computation.
    attributes: the rest of the line, as it is.
  """

  name: str
  arrays: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  def called(self, attribute: str) -> str | None:
    """The name of the computation that an attribute names."""
    found = re.search(rf'\b{attribute}=%([\w.\-]+)', self.attributes)
    return found[1] if found else None

  @property
  def constant(self) -> int | None:
    """The value, of a whole number that is a constant."""
    found = re.match(r'(\d+)\)', self.attributes) if self.opcode == 'constant' else None
    return int(found[1]) if found else None

  @property
  def estimated_cycles(self) -> int | None:
    """The compiler's estimate of the instruction's time."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
    return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the program's order.

  Attributes:
    instructions: by name.
    root: the name of the one whose result is returned.
  """

  instructions: Mapping[str, Instruction]
  root: str

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """The instructions that one takes the results of."""
    return [
      self.instructions[name] for name in instruction.operands if name in self.instructions
    ]


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: by name.
    entry: the name of the one that is run.
  """

  computations: Mapping[str, Computation]
  entry: str

  def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
    """Every instruction that is run by itself, and how often.

    Fusions are one instruction; loops are what is in them.
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
    """The computations that an instruction runs, and how often each."""
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
    """How often a loop runs; None if the program does not say.

    JAX's scans count an index up from 0 to a constant; the loops of a product that is
    computed while its parts arrive, by more than one at a time.
    """
    if known := re.search(r'known_trip_count\D*(\d+)', loop.attributes):
      return int(known[1])
    name = loop.called('condition')
    if name is None:
      return None
    bounds = [value for of in self._all_of(name) if (value := of.constant) is not None]
    return -(-bounds[0] // self._step(loop)) if len(bounds) == 1 else None

  def _step(self, loop: Instruction) -> int:
    """By how much a loop's index grows; 1 if the program does not say."""
    condition = self.computations[loop.called('condition') or '']
    body = self.computations[loop.called('body') or '']
    indices = [
      int(place[1])
      for of in condition.operands(condition.instructions[condition.root])
      if (place := re.search(r'index=(\d+)', of.attributes))
    ]
    root = body.instructions[body.root]
    if len(indices) != 1 or root.opcode != 'tuple':
      return 1
    grown = body.operands(root)[indices[0]]
    by = [of.constant for of in body.operands(grown) if of.constant is not None]
    return by[0] if grown.opcode == 'add' and len(by) == 1 else 1

  def _all_of(self, name: str) -> Iterator[Instruction]:
    """A computation's instructions, and those of what it fuses."""
    for instruction in self.computations[name].instructions.values():
      yield instruction
      if called := instruction.called('calls'):
        yield from self._all_of(called)

  def fused(self, instruction: Instruction) -> Computation | None:
    """The computation that a fusion is of."""
    called = instruction.called('calls') if instruction.opcode == 'fusion' else None
    return self.computations[called] if called else None

  def within(
    self, computation: Computation, instruction: Instruction
  ) -> Iterator[tuple[Computation, Instruction]]:
    """An instruction, or all that it fuses, at any depth, with what each is in."""
    inner = self.fused(instruction)
    if inner is None:
      yield computation, instruction
    else:
      for part in inner.instructions.values():
        yield from self.within(inner, part)


def parse(text: str) -> Module:
  """Reads the text of a compiled program (`Compiled.as_text()`)."""
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
  """The type that an instruction begins with, and the rest of it."""
  if text.startswith('('):
    end = _closing(text, 0)
    return text[: end + 1], text[end + 1 :]
  shape, _, rest = text.partition(' ')
  return shape, rest


def _closing(text: str, start: int) -> int:
  """The place of the parenthesis that closes the one at `start`."""
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
