"""Results: a line of JSON for every run, added when the run is done."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Record = dict[str, Any]


def read(path: pathlib.Path) -> list[Record]:
  """The records of a file; not the last one if it was cut off in writing."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  return [json.loads(line) for line in text[: text.rfind('\n') + 1].splitlines()]


def add(path: pathlib.Path, records: Iterable[Record]) -> None:
  """Adds records; a line that was cut off in writing is taken out first."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  if text and not text.endswith('\n'):
    path.write_text(text[: text.rfind('\n') + 1], encoding='utf-8')
  with path.open('a', encoding='utf-8') as file:
    file.writelines(json.dumps(record) + '\n' for record in records)


def rounded(values: Any, digits: int = 5) -> Any:
  """An array as nested lists of rounded numbers."""
  return np.asarray(values, np.float64).round(digits).tolist()


def path(study: str) -> pathlib.Path:
  """The file of a study's results."""
  return pathlib.Path(__file__).parent / study / 'results.jsonl'
