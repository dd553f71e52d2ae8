"""The file of a run's metrics, read without the libraries that write it."""

import json
from typing import Any

from etils import epath

from hyperprompt_jax.errors import UserError

METRICS_FILE = 'metrics.jsonl'


def read_metrics(path: epath.Path) -> list[dict[str, float]]:
  """Returns the records of a `metrics.jsonl`, without a last line that was cut short.

  Raises:
    UserError: if a line before the last is no record.
  """
  if not path.exists():
    return []
  records = []
  lines = path.read_bytes().splitlines()
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if _is_record(record):
      records.append(record)
    elif number < len(lines):
      raise UserError(f'{path}, line {number} is no record of a step: mend or remove it')
  return records


def _is_record(value: Any) -> bool:
  """Returns whether a value has a step, and numbers alone."""
  return (
    isinstance(value, dict)
    and isinstance(value.get('step'), int)
    and all(isinstance(number, int | float) for number in value.values())
  )
