"""What benchmarks find, in results/*.json: with when, on what, and by which versions.

Where a part was measured anew, those are of that part.
"""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
from typing import Any

FOLDER = pathlib.Path(__file__).parent / 'results'
PACKAGES = (
  'jax',
  'flax',
  'optax',
  'seqio',
  'tensorflow',
  'torch',
  'transformers',
  'libtpu',
)


def has(module: str) -> bool:
  """Whether what is compared with can be imported."""
  return importlib.util.find_spec(module) is not None


def write(name: str, found: dict[str, Any]) -> None:
  """Writes one file."""
  FOLDER.mkdir(exist_ok=True)
  told = {**found, 'about': _about()}
  (FOLDER / f'{name}.json').write_text(json.dumps(told, indent=1) + '\n')


def read(name: str) -> dict[str, Any] | None:
  """What was last found; None if nothing was."""
  path = FOLDER / f'{name}.json'
  return json.loads(path.read_text()) if path.exists() else None


def _about() -> dict[str, Any]:
  versions = {}
  for package in PACKAGES:
    if has(package):
      versions[package] = importlib.metadata.version(package)
  return {
    'date': datetime.date.today().isoformat(),
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'python': platform.python_version(),
    'versions': versions,
  }
