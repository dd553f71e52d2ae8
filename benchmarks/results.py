"""Results of benchmarks in results/*.json, with date, machine and versions.

After a partial measurement, these describe the newest part.
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
  'ctranslate2',
  'onnxruntime',
  'libtpu',
)


def has(module: str) -> bool:
  """Returns whether a module can be imported."""
  return importlib.util.find_spec(module) is not None


def write(name: str, measured: dict[str, Any]) -> None:
  """Writes the results of one benchmark."""
  FOLDER.mkdir(exist_ok=True)
  record = {**measured, 'about': _about()}
  (FOLDER / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')


def read(name: str) -> dict[str, Any] | None:
  """Returns the last results; None if there are none."""
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
