"""T5X's plain T5, trained and decoded as T5X does it, for comparison with ours.

Needs T5X's source on PYTHONPATH, or installed; see docs/how_to/t5x.md.
"""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.linen import partitioning as nn_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from t5x import adafactor, decoding, models, partitioning, train_state, trainer, utils
from t5x.examples.scalable_t5 import network as scanned_network
from t5x.examples.t5 import network as unrolled_network

from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.planning.steps import Batch

# This is no token id, so that generation with random weights never ends early.
_NEVER = types.SimpleNamespace(eos_id=-1)


def make_model(config: Config, *, scanned: bool) -> models.EncoderDecoderModel:
  """Returns T5X's model of the same sizes, with its recipe of Adafactor.

  Args:
    config: is our configuration, which T5X's follows.
    scanned: whether it is T5X's `scalable_t5`, with remat `minimal`; its layers are in a
      loop if the configuration has them in one.
  """
  network = scanned_network if scanned else unrolled_network
  extra = {'scan_layers': config.scan_layers, 'remat_policy': 'minimal'} if scanned else {}
  names = (
    *('vocab_size', 'dtype', 'emb_dim', 'num_heads', 'num_encoder_layers'),
    *('num_decoder_layers', 'head_dim', 'mlp_dim', 'mlp_activations', 'dropout_rate'),
    'logits_via_embedding',
  )
  sizes = {name: getattr(config, name) for name in names}
  return models.EncoderDecoderModel(
    module=network.Transformer(network.T5Config(**sizes, **extra)),
    input_vocabulary=_NEVER,
    output_vocabulary=_NEVER,
    optimizer_def=adafactor.Adafactor(
      decay_rate=0.8,
      step_offset=0,
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
    ),
    z_loss=1e-4,
    decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0),
  )


def train_step(model: models.EncoderDecoderModel, state: Any, batch: Any) -> Any:
  """Takes one step as T5X's trainer does; returns the next state and the loss."""
  rng = jax.random.fold_in(jax.random.key(0), state.step)
  state, metrics = trainer.train_with_lr(
    state,
    batch,
    learning_rate=1e-3,
    dropout_rng=rng,
    model=model,
    num_microbatches=None,
  )
  return state, metrics['loss'].compute()


def shapes(batch: Batch) -> dict[str, tuple[int, int]]:
  """Returns the shapes of a batch's features."""
  targets = ('decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights')
  return {
    'encoder_input_tokens': (batch.size, batch.inputs),
    **dict.fromkeys(targets, (batch.size, batch.targets)),
  }


def initial_state(model: models.EncoderDecoderModel, batch: Batch) -> Any:
  """Returns a fresh training state of a model."""
  of_one_row = {name: (1, length) for name, (_, length) in shapes(batch).items()}
  variables = model.get_initial_variables(jax.random.key(0), of_one_row)
  return train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)


def lower_train(
  config: Config, devices: Any, num_partitions: int, batch: Batch, parameter_dims: int
) -> Any:
  """Lowers the training step for devices that are absent, with T5X's own sharding rules.

  Remat is `minimal`, as in our step. Random numbers are the hardware's, as T5X's
  `use_hardware_rng` makes them.

  Args:
    config: is our configuration, which T5X's follows, `scan_layers` included.
    devices: are the devices of a slice.
    num_partitions: is the number of devices that share a model.
    batch: has the sizes of a batch.
    parameter_dims: is T5X's `parameter_partitioning_dims`: with 2, parameters are also
      spread over the devices that share no model.
  """
  utils.set_hardware_rng_ops()
  model = make_model(config, scanned=True)
  mesh = Mesh(
    mesh_utils.create_device_mesh(
      (len(devices) // num_partitions, num_partitions),
      devices,
      allow_split_physical_axes=True,
    ),
    ('data', 'model'),
  )
  rules = partitioning.standard_logical_axis_rules(
    parameter_partitioning_dims=parameter_dims
  )
  with jax.set_mesh(mesh), nn_partitioning.axis_rules(rules):
    state = jax.eval_shape(lambda: initial_state(model, batch))
    flat = functools.partial(traverse_util.flatten_dict, keep_empty_nodes=True, sep='/')
    axes = flat(state.as_logical_axes().state_dict())

    def place(name: str, leaf: Any) -> Any:
      if not hasattr(leaf, 'shape'):
        return leaf
      names = axes.get(name)
      spec = nn_partitioning.logical_to_mesh_axes(names, rules) if names else ()
      sharding = NamedSharding(mesh, PartitionSpec(*(spec or ())))
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed = {name: place(name, leaf) for name, leaf in flat(state.state_dict()).items()}
    state = state.restore_state(traverse_util.unflatten_dict(placed, sep='/'))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    features = {
      name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
      for name, shape in shapes(batch).items()
    }
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(
      functools.partial(train_step, model),
      donate_argnums=0,
      out_shardings=(shardings, None),
    )
    return step.lower(state, features)
