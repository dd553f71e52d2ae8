"""A run as files that ONNX Runtime computes with: three graphs and their weights."""

import pathlib

from hyperprompt_jax.checkpoints.folded import condition
from hyperprompt_jax.checkpoints.folders import ONNX_ENCODER
from hyperprompt_jax.checkpoints.identity import network_of
from hyperprompt_jax.checkpoints.source import Source
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.onnx import stacks
from hyperprompt_jax.onnx.graph import WeightFile
from hyperprompt_jax.onnx.layers import ACTIVATIONS
from hyperprompt_jax.onnx.names import ATTENTION, DECODER, WEIGHTS
from hyperprompt_jax.onnx.network import Network


def prepare(source: Source, record: RecordedRun) -> Network:
  """Makes the prompts and adapters of all tasks.

  Args:
    source: is the checkpoint of a run, or a bundle.
    record: is its record.

  Raises:
    UserError: if the parameters are not those of the network that the record describes, or
      the network has an activation that ONNX lacks.
  """
  config = network_of(source.path, record.network)
  assert config is not None  # a record describes one
  for activation in config.mlp_activations:
    if activation not in ACTIVATIONS:
      raise UserError(
        f'{source.path} has the activation {activation}, and --to=onnx knows '
        f'{", ".join(ACTIVATIONS)}: --to=stablehlo exports any'
      )
  made = condition(source, record)
  return Network(config, source.without_method().arrays, made, len(record.task_list))


def write(folder: pathlib.Path, network: Network, *, int8: bool) -> list[str]:
  """Writes the graphs and their weights.

  Args:
    folder: is the new folder.
    network: is the result of `prepare`.
    int8: tells whether to round the kernels of all products of matrices to int8.

  Returns:
    The names of the files.

  Raises:
    OSError: if the folder cannot be written.
  """
  with open(folder / WEIGHTS, 'wb') as file:
    weights = WeightFile(file, WEIGHTS, int8)
    stacks.encoder(network, weights).save(folder / ONNX_ENCODER)
    stacks.decoder(network, weights).save(folder / DECODER)
    stacks.attention(network, weights).save(folder / ATTENTION)
  return [ONNX_ENCODER, DECODER, ATTENTION, WEIGHTS]
