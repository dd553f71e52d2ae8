"""Records the machine and the packages, on which the bits of a run depend as well.

Floating-point sums are taken in an order that XLA chooses for a machine, so that the same
training step can have other bits on another processor, with another number of threads or
with another version of a package.
"""

import collections
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping

import jax

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')


def describe(mesh: jax.sharding.Mesh) -> dict[str, str]:
  """Describes the machine and the packages that a run uses now.

  Args:
    mesh: is the device mesh of the run.

  Returns:
    Texts by name. Threads and processor are described only where XLA computes on them.
  """
  devices = list(mesh.devices.flat)
  kinds = collections.Counter(device.device_kind for device in devices)
  described = {
    'platform': devices[0].platform,
    'devices': ', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items())),
    'mesh': ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items()),
    'hosts': str(jax.process_count()),
    'XLA_FLAGS': os.environ.get('XLA_FLAGS', ''),
    **{package: importlib.metadata.version(package) for package in PACKAGES},
  }
  if devices[0].platform == 'cpu':
    described['processor'] = _processor()
    described['threads of XLA'] = str(num_threads())
  return described


def changes(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
  """Yields what has changed, as `jax was 0.10.2 and is 0.12.0`.

  Args:
    saved: is the description that a checkpoint has.
    now: is the present description.
  """
  for name in sorted(saved.keys() | now.keys()):
    before, after = (values.get(name) or 'nothing' for values in (saved, now))
    if before != after:
      yield f'{name} was {before} and is {after}'


def _processor() -> str:
  """Returns the model of the processor, or its architecture where that is not known."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeError):
    lines = []
  models = [line.partition(':')[2].strip() for line in lines if 'model name' in line]
  return ' '.join((platform.machine(), *models[:1]))


def num_threads() -> int:
  """Returns the number of threads for a CPU's work: one for each usable core.

  The variable NPROC replaces it; XLA reads it, too.
  """
  if (wanted := os.environ.get('NPROC', '')).isdigit():
    return int(wanted)
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
