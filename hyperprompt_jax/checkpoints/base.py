"""The parameters that a run leaves as they are: written once, and referred to.

Where only task parameters are tuned, a checkpoint holds them and a reference to the base:
where it is, relative to the run's folder, and a fingerprint of every bit of it.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from hyperprompt_jax.checkpoints.compare import shapes_by_path
from hyperprompt_jax.errors import UserError

FOLDER = 'base'


@dataclasses.dataclass(frozen=True)
class Base:
  """A reference to frozen parameters.

  Attributes:
    path: of an Orbax checkpoint, absolute or relative to the run's folder.
    fingerprint: of the parameters' paths, shapes and bits.
  """

  path: str
  fingerprint: str


def write_base(model_dir: pathlib.Path, frozen: Any) -> Base:
  """Writes the frozen parameters of a run that starts; whole, or not at all."""
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(model_dir / FOLDER, frozen, force=True)
  return Base(FOLDER, fingerprint(frozen))


def base_metadata(model_dir: pathlib.Path, base: Base) -> Any:
  """The tree of the base's parameters: shapes and dtypes."""
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.metadata(model_dir / base.path).item_metadata.tree


def read_base(model_dir: pathlib.Path, base: Base, like: Any) -> Any:
  """Restores the frozen parameters into the shapes and shardings of `like`.

  Raises:
    UserError: if they are not those that the reference is to.
  """
  path = model_dir / base.path
  with ocp.StandardCheckpointer() as checkpointer:
    frozen = checkpointer.restore(path, like)
  if fingerprint(frozen) != base.fingerprint:
    raise UserError(
      f'{path} is not the base that this run was trained on, its parameters have changed '
      'since: put the original folder back'
    )
  return frozen


def fingerprint(params: Any) -> str:
  """A hash of the paths, shapes and all bits of a tree of 32-bit arrays."""
  sums = [int(x) for x in jax.device_get(_sums(jax.tree.leaves(params)))]
  text = json.dumps([*zip(shapes_by_path(params).items(), sums, strict=True)])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
  """Sums of each array's words, weighted by their places, modulo 2 ** 32.

  Integer addition is associative: the sum does not depend on how an array is laid out.
  """

  def weighted(x: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    place, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
      place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(
        stride % 2**32
      )
      stride *= x.shape[axis]
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

  return [weighted(leaf) for leaf in leaves]
