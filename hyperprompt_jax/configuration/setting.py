"""Settings that describe and check themselves.

A group of settings is a frozen dataclass that inherits from `Settings`; its fields are made
by `setting`. The help of the command line, `hyperprompt config`, and the checks all read
these fields. This module imports neither JAX nor TensorFlow.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from hyperprompt_jax.configuration.types import describe, fits
from hyperprompt_jax.errors import UserError, shown

_KEY = 'setting'
# The largest step, period or amount: a signed integer of 32 bits.
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
  """The values that a setting can have.

  Attributes:
    at_least: is the smallest value.
    at_most: is the largest value.
    above: is a bound below all values.
    below: is a bound above all values.
    choices: are all the values that there are; empty if there is a range or no limit.
  """

  at_least: float | None = None
  at_most: float | None = None
  above: float | None = None
  below: float | None = None
  choices: tuple[str, ...] = ()

  def __contains__(self, value: Any) -> bool:
    if self.choices:
      return value in self.choices
    return (
      math.isfinite(value)
      and (self.at_least is None or value >= self.at_least)
      and (self.at_most is None or value <= self.at_most)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
    )

  def __str__(self) -> str:
    if self.choices:
      return ', '.join(map(repr, self.choices))
    if self.at_least is not None and self.at_most is not None:
      return f'from {self.at_least} to {self.at_most}'
    bounds = {
      'at least': self.at_least,
      'above': self.above,
      'at most': self.at_most,
      'below': self.below,
    }
    parts = [f'{name} {x}' for name, x in bounds.items() if x is not None]
    is_bounded = self.at_most is not None or self.below is not None
    return ' and '.join(parts if is_bounded else [*parts, 'finite'])


@dataclasses.dataclass(frozen=True)
class Setting:
  """The description of one setting.

  Attributes:
    macro: is the name that gin files and the command line use; T5X's where T5X has one.
    meaning: explains it in one or two sentences.
    alias: is a shorter name of the flag than the macro's.
    range: holds the values that it can have; None for no limit.
    also: checks further and raises a UserError; None for no further check.
    hint: is the annotated type.
    default: is the value if none is set.
    is_required: whether there is no default, and a value must be set.
  """

  macro: str
  meaning: str
  alias: str = ''
  range: Range | None = None
  also: Callable[[Any], None] | None = None
  hint: Any = None
  default: Any = None
  is_required: bool = False

  @property
  def flag(self) -> str:
    """The flag of the command line that sets it."""
    return f'--{self.alias or self.macro.lower()}'

  def check(self, value: Any, name: str = '') -> None:
    """Checks a value.

    Args:
      value: is the value to check.
      name: is the name that the error gives the setting; empty for the macro.

    Raises:
      UserError: if the setting cannot have this value.
    """
    name = name or self.macro
    if not fits(value, self.hint):
      raise UserError(f'{name} must be of type {self.type}, not {shown(value)}')
    if self.also:
      self.also(value)
    if self.range is None or value is None or callable(value) or value in self.range:
      return
    optional = ', or None' if fits(None, self.hint) else ''
    kind = '' if self.range.choices else 'an integer ' if self.is_whole else 'a number '
    raise UserError(f'{name} must be {kind}{self.range}{optional}, not {shown(value)}')

  @property
  def help(self) -> str:
    """The meaning with the range and the default, for the help."""
    notes = []
    if self.range and not self.range.choices:
      notes.append(str(self.range))
    notes.append('required' if self.is_required else f'default: {self.default}')
    return f'{self.meaning} ({"; ".join(notes)})'

  @property
  def type(self) -> str:
    """The name of the type."""
    return 'reference' if self.hint is Any else describe(self.hint)

  @property
  def takes_text(self) -> bool:
    """Whether its values are texts."""
    return self.hint is not Any and fits('', self.hint)

  @property
  def is_whole(self) -> bool:
    """Whether none of its values is a fraction."""
    return not fits(0.5, self.hint)


def setting(
  macro: str,
  meaning: str,
  default: Any = dataclasses.MISSING,
  alias: str = '',
  also: Callable[[Any], None] | None = None,
  **bounds: Any,
) -> Any:
  """A field of a group of settings.

  Args:
    macro: is the name that gin files and the command line use.
    meaning: is one or two sentences for the help.
    default: is the value if none is set; without it, one must be set.
    alias: is a shorter name of the flag than the macro's.
    also: checks further and raises a UserError.
    **bounds: are the attributes of a `Range`, if there are limits.
  """
  is_required = default is dataclasses.MISSING
  described = Setting(
    macro,
    meaning,
    alias,
    Range(**bounds) if bounds else None,
    also,
    default=None if is_required else default,
    is_required=is_required,
  )
  return dataclasses.field(default=default, metadata={_KEY: described})


class Settings:
  """The base of groups of settings; each value is checked when a group is made."""

  def __post_init__(self):
    for name, described in self.described().items():
      described.check(getattr(self, name))

  @classmethod
  def described(cls) -> dict[str, Setting]:
    """The descriptions of a group's settings, by field."""
    group: Any = cls
    return {
      field.name: dataclasses.replace(field.metadata[_KEY], hint=field.type)
      for field in dataclasses.fields(group)
      if _KEY in field.metadata
    }

  @classmethod
  def check(cls, name: str, value: Any) -> None:
    """Checks a value for one field, for an object that takes it without the group.

    Raises:
      UserError: if the field cannot have the value.
    """
    cls.described()[name].check(value)
