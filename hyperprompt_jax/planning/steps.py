"""The programs that a run compiles, compiled for a slice that is not there."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperprompt_jax import features, train_step, tuning
from hyperprompt_jax.model import Model
from hyperprompt_jax.partitioning import Partitioner

TRAIN, DECODE = 'train', 'decode'


@dataclasses.dataclass(frozen=True)
class Batch:
  """The shape of a batch.

  Attributes:
    size: rows over all chips.
    inputs: length of the inputs.
    targets: length of the targets.
  """

  size: int
  inputs: int
  targets: int


def lower_train(
  model: Model,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  batch: Batch,
  *,
  num_microbatches: int = 1,
  tuned: str = tuning.ALL,
) -> Any:
  """The training step as `train` runs it, from shapes alone; not yet compiled."""
  with partitioner.activate():
    like = train_step.abstract_state(model, optimizer, partitioner, tuned)
    step = train_step.make_train_step(
      model, optimizer, like, seed=0, num_microbatches=num_microbatches, tuned=tuned
    )
    tokens = functools.partial(_tokens, partitioner, batch.size)
    return step.lower(  # type: ignore[attr-defined]
      like,
      {
        'encoder_input_tokens': tokens(batch.inputs),
        'decoder_input_tokens': tokens(batch.targets),
        'decoder_target_tokens': tokens(batch.targets),
        'decoder_loss_weights': tokens(batch.targets),
        features.TASK_IDS: tokens(1),
      },
    )


def lower_decode(model: Model, partitioner: Partitioner, batch: Batch) -> Any:
  """The decoding of a batch as `eval` and `infer` run it; not yet compiled."""
  with partitioner.activate():
    params = train_step.abstract_params(model, partitioner)
    tokens = functools.partial(_tokens, partitioner, batch.size)
    predict = functools.partial(model.predict, max_decode_length=batch.targets)
    return jax.jit(predict).lower(
      params,
      jax.eval_shape(model.condition, params),
      {
        'encoder_input_tokens': tokens(batch.inputs),
        features.TASK_IDS: tokens(1),
      },
    )


def _tokens(partitioner: Partitioner, rows: int, length: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
    (rows, length), jnp.int32, sharding=partitioner.batch_sharding
  )


def bytes_per_chip(tree: Any) -> int:
  """Bytes that one chip holds of a tree of abstract arrays."""
  return sum(
    leaf.dtype.itemsize * _elements(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(tree)
  )


def _elements(shape: tuple[int, ...]) -> int:
  size = 1
  for dim in shape:
    size *= dim
  return size
