"""A run's method as arrays: the prompts that it makes of all tasks, for other programs."""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hyperprompt_jax.checkpoints.differences import by_path, check_same_parameters
from hyperprompt_jax.checkpoints.formats.huggingface_config import (
  PROMPTED_CLASS,
  PROMPTED_T5,
  T5,
  check_writable,
  described,
)
from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING, FOLDED
from hyperprompt_jax.checkpoints.identity import method_of, network_of
from hyperprompt_jax.checkpoints.lazy import LazyArray, arranged, in_memory, load
from hyperprompt_jax.checkpoints.source import METHOD, Source
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning, LayerConditioning

STACKS = ('encoder', 'decoder')
# The modelling file, which is a module here so that it is checked, and is never imported.
_MODELLING = 'modeling_hyperprompt'
_CODE = pathlib.Path(__file__).parent / 'formats' / f'{_MODELLING}.py'


@dataclasses.dataclass(frozen=True)
class Folded:
  """A method's prompts of all tasks.

  Attributes:
    arrays: are the prompts of each layer, `[t, l, h, k]`, offsets `[h]`, and the prompts of
      the input, `[t, l, d]`, by path.
    settings: describe them in `config.json`.
  """

  arrays: Mapping[str, LazyArray]
  settings: Mapping[str, Any]

  def write_code(self, folder: pathlib.Path) -> None:
    """Copies the modelling file, which `settings` name."""
    shutil.copyfile(_CODE, folder / _CODE.name)


def fold(source: Source, record: RecordedRun) -> Folded:
  """Makes the prompts of all tasks of a checkpoint.

  Args:
    source: is the checkpoint of a run, or a bundle.
    record: is its record.

  Raises:
    UserError: if the method makes anything but prompts, or the parameters are not those of
      the network that the record describes.
  """
  conditioning = condition(source, record)
  arrays: dict[str, LazyArray] = {}
  settings: dict[str, Any] = {
    'model_type': PROMPTED_T5,
    'architectures': [PROMPTED_CLASS],
    'auto_map': {
      'AutoConfig': f'{_MODELLING}.HyperPromptT5Config',
      'AutoModelForSeq2SeqLM': f'{_MODELLING}.{PROMPTED_CLASS}',
    },
    'task_list': list(record.task_list),
  }
  for stack in STACKS:
    layers: LayerConditioning = getattr(conditioning, stack)
    if layers.attention_adapter is not None or layers.mlp_adapter is not None:
      raise UserError(
        f'{source.path} has adapters ({record.network["METHOD"]}), for which '
        '--to=huggingface has no place: --drop_method leaves them out, and --to=bundle '
        'keeps the method'
      )
    of_stack = dict(_layers(layers))
    for number, prompts in of_stack.items():
      for name, array in prompts.items():
        path = f'{FOLDED}{stack}/layers_{number}/{name}'
        arrays[path] = in_memory(array)
    if of_stack:
      first = min(of_stack)
      settings[f'{stack}_prompts'] = {
        'length': of_stack[first]['key'].shape[1],
        'first_layer': first,
        'logit_offset': 'logit_offset' in of_stack[first],
      }
  if (inputs := conditioning.input_prompts) is not None:
    arrays[f'{FOLDED}input_prompts'] = in_memory(np.asarray(inputs))
    settings['input_prompt_length'] = inputs.shape[1]
  return Folded(arrays, settings)


def _layers(layers: LayerConditioning) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """Yields the number and the arrays of each layer that has prompts."""
  if (prompts := layers.prompts) is None:
    return
  key, value = np.asarray(prompts.key), np.asarray(prompts.value)
  for number in range(len(key)):
    if prompts.active is None or prompts.active[number]:
      arrays = {'key': key[number], 'value': value[number]}
      if prompts.logit_offset is not None:
        arrays['logit_offset'] = np.asarray(prompts.logit_offset[number])
      yield number, arrays


def condition(source: Source, record: RecordedRun) -> Conditioning:
  """Runs a checkpoint's hypernetworks; of the backbone, the embedding alone is read."""
  network = network_of(source.path, record.network)
  assert network is not None  # a record describes one
  method = method_of(source.path, record.network)
  model = Model(network, method, tuple(record.task_list))
  shapes = by_path(model.param_shapes())
  needed = lambda path: path.startswith(METHOD) or path == EMBEDDING
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  wanted = {
    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    for path, leaf in shapes.items()
    if needed(path)
  }
  arrays = arranged({p: a for p, a in source.arrays.items() if needed(p)}, wanted)
  check_same_parameters(source.path, wanted, arrays)
  params = load(arrays, wanted, f'reading the prompts of {source.path}')
  return jax.jit(model.condition)(params)


def check_foldable(config: Config) -> None:
  """Checks that the modelling file has a network like it.

  Raises:
    UserError: if not.
  """
  check_writable(config)
  kind = described(config, 'float32')['model_type']
  if kind != T5:
    raise UserError(
      f'the network is that of {kind}, and prompts are exported with that of {T5} alone: '
      '--drop_method leaves them out, and --to=bundle keeps the method'
    )
