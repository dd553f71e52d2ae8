"""The programs of a run, lowered for a slice that is not there."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperprompt_jax import decoding
from hyperprompt_jax.checkpoints import rounded
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.data import features
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.int8 import FLOAT32, INT8
from hyperprompt_jax.nn.stacking import STACK
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning import arithmetic, cost
from hyperprompt_jax.training import train_step
from hyperprompt_jax.training.trainable import EVERY_PARAMETER, TrainableParameters, merge

TRAIN, DECODE = 'train', 'decode'


@dataclasses.dataclass(frozen=True)
class Batch:
  """The shape of a batch.

  Attributes:
    size: counts the rows over all chips.
    inputs: is the length of the inputs.
    targets: is the length of the targets.
    num_decodes: counts the beams of each row in decoding; 1 stands for greedy search.
  """

  size: int
  inputs: int
  targets: int
  num_decodes: int = 1


def lower_train(
  model: Model,
  optimizer: optax.GradientTransformation,
  partitioner: Partitioner,
  batch: Batch,
  *,
  num_microbatches: int = 1,
  trainable: TrainableParameters = EVERY_PARAMETER,
) -> Any:
  """The training step as `train` runs it, from shapes alone; not yet compiled."""
  with partitioner.activate():
    like = train_step.abstract_state(model, optimizer, partitioner, trainable)
    step = train_step.make_train_step(
      model,
      optimizer,
      partitioner,
      like,
      seed=0,
      num_microbatches=num_microbatches,
      trainable=trainable,
    )
    tokens = functools.partial(_tokens, partitioner, batch.size)
    return step.lower(like, _train_batch(batch, tokens))  # type: ignore[attr-defined]


def decoding_params(model: Model, partitioner: Partitioner, weights: str) -> Any:
  """Shapes, dtypes and shardings of parameters in decoding; `weights` is their dtype."""
  params = train_step.abstract_params(model, partitioner)
  return rounded.shapes(params) if weights == INT8 else params


def lower_decode(
  model: Model, partitioner: Partitioner, batch: Batch, weights: str = FLOAT32
) -> Any:
  """Lowers the decoding of a batch as `eval` and `infer` run it.

  Args:
    model: is the network.
    partitioner: lays parameters out over the mesh.
    batch: gives the shape of a batch.
    weights: is the dtype of kernels, 'float32' or 'int8'.
  """
  if batch.num_decodes > 1:
    beams = functools.partial(decoding.beam_search, num_decodes=batch.num_decodes)
    model = dataclasses.replace(model, decode_fn=beams)
  with partitioner.activate():
    params = decoding_params(model, partitioner, weights)
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


def train_flops(
  model: Model, batch: Batch, trainable: TrainableParameters = EVERY_PARAMETER
) -> int:
  """FLOP of the loss and its gradient over all chips, with nothing worked out twice.

  Utilisation is counted by them (PaLM, appendix B, with attention's own).
  """
  config = dataclasses.replace(model.config, remat_policy='none')
  plain = dataclasses.replace(model, config=config)
  loss, *arguments = loss_of(plain, batch, trainable)
  return arithmetic.count(jax.grad(loss, has_aux=True), *arguments).flops


def loss_of(model: Model, batch: Batch, trainable: TrainableParameters) -> tuple[Any, ...]:
  """Returns the loss of a batch as a function, and the shapes of its arguments.

  The first argument is the part of the parameters that the step updates.
  """
  params, frozen = trainable.split(model.param_shapes())
  active = jax.eval_shape(trainable.active_part, params)
  tokens = lambda length: jax.ShapeDtypeStruct((batch.size, length), jnp.int32)

  def loss(active: Any, params: Any, frozen: Any, rows: Any) -> Any:
    merged = merge(trainable.with_active_part(params, active), frozen)
    return model.loss(merged, rows, jax.random.key(0))

  return loss, active, params, frozen, _train_batch(batch, tokens)


def shapes_of_sharded(model: Model, partitioner: Partitioner) -> dict[tuple[int, ...], int]:
  """Counts the sharded parameters of each shape.

  Args:
    model: is the network.
    partitioner: lays parameters out over the mesh.

  Returns:
    Numbers of matrices by their `cost.shape_of`; each layer of a stack counts as one.
  """
  numbers: collections.Counter[tuple[int, ...]] = collections.Counter()
  for path, leaf in by_path(train_step.abstract_params(model, partitioner)).items():
    if leaf.sharding.shard_shape(leaf.shape) != leaf.shape:
      layers, dims = (
        (leaf.shape[0], leaf.shape[1:]) if f'/{STACK}/' in path else (1, leaf.shape)
      )
      numbers[cost.shape_of(dims)] += layers
  return dict(numbers)


def carried_whole(
  model: Model, partitioner: Partitioner, carried: Mapping[tuple[int, ...], int]
) -> dict[str, tuple[int, int]]:
  """Finds the sharded parameters that collectives of a step carry whole.

  Args:
    model: is the network.
    partitioner: lays parameters out over the mesh.
    carried: is that of the step's `Cost`.

  Returns:
    By shape, the number of matrices and the number of collectives that carry one.
  """
  heads = (model.config.num_heads, model.config.head_dim)
  result = {}
  for shape, number in shapes_of_sharded(model, partitioner).items():
    # A matrix of all heads, and the same matrix with an axis for the heads.
    joined = heads[0] * heads[1]
    apart = [
      cost.shape_of((*shape[:axis], *shape[axis + 1 :], *heads))
      for axis, size in enumerate(shape)
      if size == joined
    ]
    times = sum(carried.get(one, 0) for one in {shape, *apart})
    if times:
      result['x'.join(map(str, shape))] = (number, times)
  return result


def _train_batch(batch: Batch, tokens: Callable[[int], Any]) -> dict[str, Any]:
  return {
    'encoder_input_tokens': tokens(batch.inputs),
    'decoder_input_tokens': tokens(batch.targets),
    'decoder_target_tokens': tokens(batch.targets),
    'decoder_loss_weights': tokens(batch.targets),
    features.TASK_IDS: tokens(1),
  }


def _tokens(partitioner: Partitioner, rows: int, length: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
    (rows, length), jnp.int32, sharding=partitioner.batch_sharding
  )


def bytes_per_chip(tree: Any) -> int:
  """Counts the bytes that one chip holds of a tree of abstract arrays."""
  return sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(tree)
  )
