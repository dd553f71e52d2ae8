"""The values that gin has bound: circles among them, and values of the wrong type."""

from collections.abc import Callable, Iterator
from typing import Any

import gin

from hyperprompt_jax.configuration.types import describe, fits, hints
from hyperprompt_jax.errors import shown
from hyperprompt_jax.runtime.workarounds import gin_bindings, gin_function

_MACRO = 'gin.macro'


def circles() -> Iterator[str]:
  """Yields a name whose value depends on itself, through macros and references.

  gin would follow such a circle until Python's stack is full.
  """
  done: set[tuple[str, str]] = set()
  # Depth first, and no recursion: a file may have a long chain of macros.
  for start in gin_bindings():
    path = {} if start in done else {start: _called_by(start)}
    while path:
      called, others = next(reversed(path.items()))
      other = next(others, None)
      if other is None:
        done.add(called)
        del path[called]
      elif other in path:
        yield _name(other)
        return
      elif other not in done:
        path[other] = _called_by(other)


def _called_by(key: tuple[str, str]) -> Iterator[tuple[str, str]]:
  """Yields the scopes and selectors that are called for the parameters of one."""
  scope, selector = key
  values = dict(gin_bindings().get(key, {}))
  if selector != _MACRO:
    # An inner scope overrides the bindings of an outer one.
    parts = scope.split('/')
    scopes = ['', *('/'.join(parts[:n]) for n in range(1, len(parts) + 1))]
    bindings = gin_bindings()
    values = {}
    for name in scopes:
      values |= bindings.get((name, selector), {})
  for reference in gin.config.iterate_references(values):
    if reference.evaluate:
      inner, called = reference.config_key
      yield (inner or scope if called != _MACRO else inner), called


def _name(key: tuple[str, str]) -> str:
  """Returns the name of a macro or a configurable as users write it."""
  scope, selector = key
  short = '.'.join(selector.split('.')[-2:])
  return scope if selector == _MACRO else '/'.join(filter(None, (scope, short)))


def wrong_types() -> Iterator[str]:
  """Yields a message for each bound value that is not of its parameter's type."""
  for (_, selector), values in gin_bindings().items():
    if selector == _MACRO:
      continue
    annotated = hints(gin_function(selector))
    for parameter, given in values.items():
      # Users write the last module's name alone.
      short = f'{_name(("", selector))}.{parameter}'
      name, value = _resolve(short, given)
      hint = annotated.get(parameter, Any)
      # The value that a reference will return is not known yet.
      if not fits(value, hint, unknown=(gin.config.ConfigurableReference,)):
        yield f'{name} must be of type {describe(hint)}, not {shown(value)}'


def parameter(name: str) -> Any:
  """Returns the value that is bound to a parameter, `module.function.parameter`."""
  return _resolve(name, gin.query_parameter(name))[1]


def bound_class(name: str) -> Any:
  """Returns the class or function that is bound to a parameter, or None."""
  try:
    value = parameter(name)
  except ValueError:  # nothing is bound
    return None
  if isinstance(value, gin.config.ConfigurableReference):
    return value.configurable.wrapped
  return None


def scopes(function: Callable[..., Any]) -> list[str]:
  """Returns the gin scopes that bind a parameter of a function; '' is the outermost."""
  return [
    scope
    for scope, selector in gin_bindings()
    if selector != _MACRO and gin_function(selector) is function
  ]


def _resolve(name: str, value: Any) -> tuple[str, Any]:
  """Resolves macros; returns the name of the last macro and the value."""
  while isinstance(value, gin.config.ConfigurableReference):
    macro, selector = value.config_key
    if selector != _MACRO:
      break
    name, value = macro, gin_bindings()[macro, _MACRO]['value']
  return name, value
