"""The arithmetic of a model before a compiler transforms it."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def flops(function, *arguments: Any) -> int:
  """Counts the FLOP of a function's matrix products; a multiply-add counts as two.

  A loop counts as often as it runs, and once where its length is unknown.

  Args:
    function: is traced, and not run.
    *arguments: are arrays or their shapes.
  """
  return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> int:
  total = 0
  equation: Any
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      lhs = equation.invars[0].aval.shape
      out = equation.outvars[0].aval.shape
      total += 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
    times = equation.params['length'] if equation.primitive.name == 'scan' else 1
    total += sum(times * _flops(inner) for inner in _inner(equation.params))
  return total


def _inner(parameters: Any) -> Iterator[core.Jaxpr]:
  """Yields the programs within an equation."""
  for value in parameters.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
