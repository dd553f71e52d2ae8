"""Parses JSON from any origin, with one kind of error."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
  """Returns the value that a JSON text holds.

  Args:
    text: bytes are read as UTF-8.

  Raises:
    ValueError: if the text is not JSON, or Python cannot read it because it is nested too
      deeply or holds a number with too many digits. The message is one line.
  """
  try:
    return json.loads(text.decode('utf-8') if isinstance(text, bytes) else text)
  except json.JSONDecodeError as error:
    place = f'character {error.colno}'
    if error.lineno > 1:
      place = f'line {error.lineno}, {place}'
    raise ValueError(f'{error.msg} at {place}') from error
  except RecursionError as error:
    raise ValueError('nested too deeply') from error
  except UnicodeDecodeError as error:
    raise ValueError(f'no UTF-8: {error.reason} at byte {error.start + 1}') from error
  except ValueError as error:
    raise ValueError('a number has too many digits') from error


def shown(value: Any) -> str:
  """Returns a value as messages quote it, in at most 80 characters."""
  if isinstance(value, dict | list):
    return 'an object' if isinstance(value, dict) else 'a list'
  return json.dumps(value, default=str)[:80]
