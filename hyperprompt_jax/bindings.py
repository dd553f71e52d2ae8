"""What gin has bound: the macros that are missing, and values of the wrong type."""

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import gin

_MACRO = 'gin.macro'


def undefined_macros() -> list[str]:
  """Names of the macros that are used and that nothing sets."""
  references = gin.config.iterate_references(_bound(), to=gin.get_configurable(_MACRO))
  used = {reference.config_key[0] for reference in references}
  return sorted(used - defined_macros())


def defined_macros() -> set[str]:
  """Names of the macros that something sets."""
  return {name for name, selector in _bound() if selector == _MACRO}


def wrong_types() -> Iterator[str]:
  """Says of each bound value that is not of its parameter's type what it should be."""
  for (_, selector), values in _bound().items():
    if selector == _MACRO:
      continue
    function = gin.config._REGISTRY[selector].wrapped
    hints = typing.get_type_hints(
      function.__init__ if inspect.isclass(function) else function
    )
    for parameter, given in values.items():
      # As users write it: with the last module's name alone.
      short = '.'.join([*selector.split('.')[-2:], parameter])
      name, value = _resolve(short, given)
      if isinstance(value, gin.config.ConfigurableReference):
        continue  # what it will return is not known yet
      if not _fits(value, hints.get(parameter, Any)):
        yield f'{name} must be of type {_describe(hints[parameter])}, not {value!r}'


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
    for scope, selector in _bound()
    if selector != _MACRO and gin.config._REGISTRY[selector].wrapped is function
  ]


def _bound() -> dict[tuple[str, str], dict[str, Any]]:
  """By scope and selector, the values of parameters; a macro's name is its scope."""
  return gin.config._CONFIG


def _resolve(name: str, value: Any) -> tuple[str, Any]:
  """The value that macros stand for, with the name of the last of them."""
  while isinstance(value, gin.config.ConfigurableReference):
    macro, selector = value.config_key
    if selector != _MACRO:
      break
    name, value = macro, _bound()[macro, _MACRO]['value']
  return name, value


def _fits(value: Any, hint: Any) -> bool:
  if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
    return any(_fits(value, option) for option in typing.get_args(hint))
  kind = typing.get_origin(hint) or hint
  if not isinstance(kind, type):
    return True  # Any, type variables and the like
  if isinstance(value, bool) and kind in (int, float):
    return False
  return isinstance(value, (int, float) if kind is float else kind)


def _describe(hint: Any) -> str:
  if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
    return ' or '.join(dict.fromkeys(map(_describe, typing.get_args(hint))))
  if hint is type(None):
    return 'None'
  if typing.get_origin(hint) is collections.abc.Callable:
    return 'function'
  name = str(hint) if typing.get_args(hint) else hint.__name__
  return re.sub(r'^[\w.]+\.', '', name)
