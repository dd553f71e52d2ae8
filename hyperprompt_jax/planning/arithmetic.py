"""The arithmetic of a model before a compiler transforms it."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Products:
  """The matrix products of a function.

  Attributes:
    flops: counts their operations; a multiply-add counts as two.
    nbytes: counts the bytes of their operands and results.
    largest: counts the bytes of the largest result.
  """

  flops: int = 0
  nbytes: int = 0
  largest: int = 0

  def plus(self, other: 'Products', times: int = 1) -> 'Products':
    """Returns these products, and the others this many times."""
    return Products(
      self.flops + times * other.flops,
      self.nbytes + times * other.nbytes,
      max(self.largest, other.largest),
    )


def count(function, *arguments: Any) -> Products:
  """Counts a function's matrix products.

  A loop counts as often as it runs, and once where its length is unknown.

  Args:
    function: is traced, and not run.
    *arguments: are arrays or their shapes.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> Products:
  total = Products()
  equation: Any
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      total = total.plus(_product(equation))
    times = equation.params['length'] if equation.primitive.name == 'scan' else 1
    for inner in _inner(equation.params):
      total = total.plus(_count(inner), times)
  return total


def _product(equation: Any) -> Products:
  (contracted, _), _ = equation.params['dimension_numbers']
  *operands, out = (x.aval for x in (*equation.invars, *equation.outvars))
  depth = math.prod(operands[0].shape[axis] for axis in contracted)
  sizes = [math.prod(x.shape) * x.dtype.itemsize for x in (*operands, out)]
  return Products(2 * math.prod(out.shape) * depth, sum(sizes), sizes[-1])


def _inner(parameters: Any) -> Iterator[core.Jaxpr]:
  """Yields the programs within an equation."""
  for value in parameters.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
