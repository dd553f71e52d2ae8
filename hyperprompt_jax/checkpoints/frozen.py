"""Frozen parameters of a run: they are written once, and checkpoints refer to them.

Where only task parameters are tuned, a checkpoint holds them and a reference to the base:
its path, and a fingerprint of all its bits. The base is the checkpoint that the run started
from, unless its parameters were changed on the way; then it is written to the run's folder.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.sums import weighted_sum
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.stacking import STACK

FOLDER = 'base'


@dataclasses.dataclass(frozen=True)
class Base:
  """A reference to frozen parameters.

  Attributes:
    path: is `base` for the folder of that name in the run's folder, or names a checkpoint
      that training can start from, absolute or `gs://…`.
    fingerprint: is a hash of the parameters' paths, shapes and bits.
  """

  path: str
  fingerprint: str


def write_base(model_dir: epath.Path, frozen: Any) -> Base:
  """Writes the frozen parameters of a run that starts; whole, or not at all."""
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(model_dir / FOLDER, frozen, force=True)
  return Base(FOLDER, fingerprint(by_path(frozen).items()))


def fingerprint(arrays: Iterable[tuple[str, Any]]) -> str:
  """Hashes the paths, shapes and all bits of 32-bit arrays, one at a time.

  Stacked and unrolled layers have the same hash.

  Args:
    arrays: are pairs of a path and an array.
  """
  sums = sorted(entry for path, array in arrays for entry in _sums(path, array))
  return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]


def check_fingerprint(
  model_dir: epath.Path, base: Base, arrays: Iterable[tuple[str, Any]]
) -> None:
  """Checks frozen parameters against the reference to them.

  Raises:
    UserError: if their fingerprint is another.
  """
  if fingerprint(arrays) != base.fingerprint:
    raise UserError(
      f'{where(model_dir, base)} is not the base that this run was trained on, its '
      'parameters have changed since: put the original folder back'
    )


def where(model_dir: epath.Path, base: Base) -> str:
  """Returns the path of a base."""
  return str(model_dir / FOLDER) if base.path == FOLDER else base.path


def _sums(path: str, array: Any) -> Iterator[tuple[str, list[int], int]]:
  """Yields unrolled path, shape and sum of an array, or of each layer of a stack."""
  before, stack, after = path.partition(f'/{STACK}/')
  if not stack:
    yield path, list(array.shape), int(weighted_sum(array))
    return
  for number in range(array.shape[0]):
    layer = f'{before}/{STACK}_{number}/{after}'
    yield layer, list(array.shape[1:]), int(_weighted_sum_of_layer(array, number))


@jax.jit
def _weighted_sum_of_layer(stack: jax.Array, number: jax.Array) -> jax.Array:
  return weighted_sum(jax.lax.dynamic_index_in_dim(stack, number, keepdims=False))
