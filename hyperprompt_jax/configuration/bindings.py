"""What gin has bound: the macros that are missing, and values of the wrong type."""

from collections.abc import Callable, Iterator
from typing import Any

import gin

from hyperprompt_jax.configuration.types import describe, fits, hints
from hyperprompt_jax.errors import shown
from hyperprompt_jax.runtime.workarounds import gin_bindings, gin_function

_MACRO = 'gin.macro'


def undefined_macros() -> list[str]:
  """Names of the macros that are used and that nothing sets."""
  macro = gin.get_configurable(_MACRO)
  references = gin.config.iterate_references(gin_bindings(), to=macro)
  used = {reference.config_key[0] for reference in references}
  return sorted(used - defined_macros())


def defined_macros() -> set[str]:
  """Names of the macros that something sets."""
  return {name for name, selector in gin_bindings() if selector == _MACRO}


def circles() -> Iterator[str]:
  """Names what would be called to find its own value, by way of macros and references.

  gin follows such a circle until Python's stack is full.
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
  """Scopes and selectors of what is called for the parameters of one."""
  scope, selector = key
  values = dict(gin_bindings().get(key, {}))
  if selector != _MACRO:
    # What an outer scope binds, an inner one may bind anew.
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
  """A macro's or a configurable's name, as users write it."""
  scope, selector = key
  short = '.'.join(selector.split('.')[-2:])
  return scope if selector == _MACRO else '/'.join(filter(None, (scope, short)))


def wrong_types() -> Iterator[str]:
  """Says of each bound value that is not of its parameter's type what it should be."""
  for (_, selector), values in gin_bindings().items():
    if selector == _MACRO:
      continue
    annotated = hints(gin_function(selector))
    for parameter, given in values.items():
      # As users write it: with the last module's name alone.
      short = f'{_name(("", selector))}.{parameter}'
      name, value = _resolve(short, given)
      hint = annotated.get(parameter, Any)
      # The value that a reference will return is not known yet.
      if not fits(value, hint, unknown=(gin.config.ConfigurableReference,)):
        yield f'{name} must be of type {describe(hint)}, not {shown(value)}'


def parameter(name: str) -> Any:
  """The value that is bound to a parameter, `module.function.parameter`."""
  return _resolve(name, gin.query_parameter(name))[1]


def bound_class(name: str) -> Any:
  """The class or function that is bound, as `@it` or `@it()`, to a parameter, or None."""
  try:
    value = parameter(name)
  except ValueError:  # nothing is bound
    return None
  if isinstance(value, gin.config.ConfigurableReference):
    return value.configurable.wrapped
  return None


def scopes(function: Callable[..., Any]) -> list[str]:
  """The gin scopes in which a parameter of a function is bound; '' is the outermost."""
  return [
    scope
    for scope, selector in gin_bindings()
    if selector != _MACRO and gin_function(selector) is function
  ]


def _resolve(name: str, value: Any) -> tuple[str, Any]:
  """The value that macros stand for, with the name of the last of them."""
  while isinstance(value, gin.config.ConfigurableReference):
    macro, selector = value.config_key
    if selector != _MACRO:
      break
    name, value = macro, gin_bindings()[macro, _MACRO]['value']
  return name, value
