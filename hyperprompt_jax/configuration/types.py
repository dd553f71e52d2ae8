"""Checks of values against annotated types, with names of types that users can read."""

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any


def hints(function: Callable[..., Any]) -> dict[str, Any]:
  """The annotated types of a function's or class's parameters.

  An annotation that cannot be evaluated is left out: Optax, for one, names types that it
  imports for type checkers alone.
  """
  function = inspect.unwrap(function)
  if inspect.isclass(function):
    function = function.__init__
  annotated: dict[str, Any] = {}
  for name, annotation in getattr(function, '__annotations__', {}).items():
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
      annotated |= typing.get_type_hints(holder, getattr(function, '__globals__', {}))
    except (NameError, AttributeError, TypeError, SyntaxError):
      continue
  return annotated


def fits(value: Any, hint: Any, unknown: tuple[type, ...] = ()) -> bool:
  """Whether a value may be of a type; True where this cannot be known.

  Args:
    value: is the value to check.
    hint: is the annotated type.
    unknown: values of these classes stand for others, so they fit every type.
  """
  if hint is Any or isinstance(value, unknown):
    return True
  if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
    return any(fits(value, option, unknown) for option in typing.get_args(hint))
  kind = typing.get_origin(hint) or hint
  if not isinstance(kind, type):
    return True  # type variables and the like
  arguments = typing.get_args(hint)
  if kind is collections.abc.Mapping and isinstance(value, Mapping) and arguments:
    key_hint, value_hint = arguments
    return all(
      fits(key, key_hint, unknown) and fits(item, value_hint, unknown)
      for key, item in value.items()
    )
  if kind is collections.abc.Sequence and arguments:
    return isinstance(value, list | tuple) and all(
      fits(item, arguments[0], unknown) for item in value
    )
  if isinstance(value, bool) and kind in (int, float):
    return False
  try:
    return isinstance(value, (int, float) if kind is float else kind)
  except TypeError:  # a protocol that cannot be checked while a program runs
    return True


def describe(hint: Any) -> str:
  """The name of a type as messages and the help give it."""
  if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
    return ' or '.join(dict.fromkeys(map(describe, typing.get_args(hint))))
  if hint is type(None):
    return 'None'
  if typing.get_origin(hint) is collections.abc.Callable:
    return 'function'
  name = str(hint) if typing.get_args(hint) else hint.__name__
  return re.sub(r'^[\w.]+\.', '', name)
