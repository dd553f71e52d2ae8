"""`config.json` of Hugging Face's T5, mT5 and umT5, as a `Config` and back.

A setting that would make another network is honoured or refused. Settings of search and of
training, such as the number of beams and the dropout rate, are the run's own.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.storage import check_file
from hyperprompt_jax.errors import UserError, reason_of, shown
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.runtime import plain_json

CONFIG_FILE = 'config.json'
GENERATION_FILE = 'generation_config.json'
T5, MT5, UMT5 = 't5', 'mt5', 'umt5'
# The model_type and the class of a T5 with folded prompts (`modeling_hyperprompt`).
PROMPTED_T5 = 'hyperprompt_t5'
PROMPTED_CLASS = 'HyperPromptT5ForConditionalGeneration'
# The class of each model_type that has a decoder and an output layer.
_CLASSES = {
  T5: 'T5ForConditionalGeneration',
  MT5: 'MT5ForConditionalGeneration',
  UMT5: 'UMT5ForConditionalGeneration',
}
_OLD_CLASS = 'T5WithLMHeadModel'
# The most bytes of a JSON file; the index of a model of a thousand shards has a few MB.
_LARGEST_JSON = 2**26
# The name of the activations in `feed_forward_proj` for each `Config.mlp_activations`.
# `gelu` without a gate is the exact one there, and the approximate one with a gate.
_FEED_FORWARD = {
  ('relu',): 'relu',
  ('gelu', 'linear'): 'gated-gelu',
  ('gelu',): 'gelu_new',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
}
# The value that each class takes where config.json has none.
_DEFAULT_FEED_FORWARD = {T5: 'relu', MT5: 'gated-gelu', UMT5: 'gated-gelu'}
# Settings that the network has one value of.
_FIXED = {
  'layer_norm_epsilon': 1e-6,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
  'is_encoder_decoder': True,
}
# Settings under which generation would choose other tokens than the likeliest ones.
_FORCED = (
  'forced_bos_token_id',
  'forced_eos_token_id',
  'forced_decoder_ids',
  'suppress_tokens',
  'begin_suppress_tokens',
  'bad_words_ids',
)


@dataclasses.dataclass(frozen=True)
class Described:
  """The contents of a folder's configuration.

  Attributes:
    where: names the folder, for messages.
    kind: is the model_type, T5, MT5 or UMT5.
    tie_word_embeddings: is the setting of that name; None where the file has none.
    scale_decoder_outputs: is the setting of that name; None where the file has none.
    config: configures the network with an untied output layer.
  """

  where: str
  kind: str
  tie_word_embeddings: bool | None
  scale_decoder_outputs: bool | None
  config: Config

  @property
  def scales_logits(self) -> bool:
    """Whether the class that reads this file divides logits by sqrt(d).

    T5's class does where the file says so, and where it does not forbid to tie, from which
    it infers T5 1.0. umT5's class has the second rule alone. mT5's class never does.
    """
    if self.kind == MT5:
      return False
    if self.kind == T5 and self.scale_decoder_outputs is not None:
      return self.scale_decoder_outputs
    return self.tie_word_embeddings is not False

  def resolved(self, *, tied: bool) -> Config:
    """Returns the network's configuration.

    Args:
      tied: tells whether the output layer is the embedding.
    """
    # None is the rule of T5X, which holds for all published files.
    scale = None if self.scales_logits == tied else self.scales_logits
    return dataclasses.replace(self.config, logits_via_embedding=tied, scale_logits=scale)


def read(folder: pathlib.Path) -> Described:
  """Reads the configuration of a folder.

  Raises:
    UserError: if it is of a network that ours cannot be, or is damaged.
  """
  values = read_json(folder / CONFIG_FILE)
  where = str(folder)
  kind = _kind(where, values)
  for name, only in _FIXED.items():
    if values.get(name, only) != only:
      raise UserError(f'{where}: {name} is {shown(values[name])}; only {only} is supported')
  if values.get('quantization_config') is not None:
    raise UserError(
      f'{where} holds quantized weights (quantization_config), which are not read: get the '
      'model that they were made from'
    )
  tied, scaled = (
    _flag(where, values, name) for name in ('tie_word_embeddings', 'scale_decoder_outputs')
  )
  layers, decoder_layers = values.get('num_layers'), values.get('num_decoder_layers')
  sizes: Any = {
    'vocab_size': values.get('vocab_size'),
    'emb_dim': values.get('d_model'),
    'num_heads': values.get('num_heads'),
    'num_encoder_layers': layers,
    'num_decoder_layers': layers if decoder_layers is None else decoder_layers,
    'head_dim': values.get('d_kv'),
    'mlp_dim': values.get('d_ff'),
    'eos_id': _eos_id(folder, values),
  }
  try:
    config = Config(
      **sizes,
      mlp_activations=_activations(where, kind, values),
      position_bias_per_layer=kind == UMT5,
    )
  except UserError as error:
    raise UserError(f'{where}/{CONFIG_FILE} does not describe a T5: {error}') from error
  return Described(where, kind, tied, scaled, config)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    UserError: if it cannot be read, or holds anything else.
  """
  check_file(str(path), _LARGEST_JSON)
  try:
    value = plain_json.parse(path.read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {reason_of(error)}') from error
  if not isinstance(value, dict):
    raise UserError(f'{path} holds no JSON object')
  return value


def _kind(where: str, values: Mapping[str, Any]) -> str:
  """Returns the model_type; checks that the model has a decoder and an output layer."""
  names = values.get('architectures')
  name = names[0] if isinstance(names, list) and names else None
  kind = values.get('model_type')
  if kind == PROMPTED_T5 and name == PROMPTED_CLASS:
    return T5
  if kind is None:  # the first umT5s have none
    kind = next((kind for kind, known in _CLASSES.items() if known == name), None)
  if kind not in tuple(_CLASSES):
    raise UserError(
      f"{where} is of model_type {shown(kind)}; expected 't5', 'mt5' or 'umt5'"
    )
  if name is not None and name not in (*_CLASSES.values(), _OLD_CLASS):
    raise UserError(
      f'{where} is a {shown(name)}; expected {_CLASSES[kind]}, which has a decoder and an '
      'output layer'
    )
  return kind


def _flag(where: str, values: Mapping[str, Any], name: str) -> bool | None:
  value = values.get(name)
  if value is not None and not isinstance(value, bool):
    raise UserError(
      f'{where}/{CONFIG_FILE}: tie_word_embeddings and scale_decoder_outputs are true or '
      f'false, not {shown(value)}'
    )
  return value


def _activations(where: str, kind: str, values: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns `Config.mlp_activations`."""
  name = values.get('feed_forward_proj', _DEFAULT_FEED_FORWARD[kind])
  activations = next((a for a, known in _FEED_FORWARD.items() if known == name), None)
  if activations is None:
    raise UserError(
      f'{where}: feed_forward_proj {shown(name)} is not supported; it may be '
      f'{", ".join(_FEED_FORWARD.values())}'
    )
  gated = len(activations) > 1
  function = 'gelu_new' if name == 'gated-gelu' else name.removeprefix('gated-')
  for setting, value in {'is_gated_act': gated, 'dense_act_fn': function}.items():
    if values.get(setting, value) != value:
      raise UserError(
        f'{where}: {setting} is {shown(values[setting])}, and feed_forward_proj '
        f'{shown(name)} means {shown(value)}: correct one of them in {CONFIG_FILE}'
      )
  return activations


def _eos_id(folder: pathlib.Path, values: Mapping[str, Any]) -> int:
  """Returns the token that ends a text; checks the other tokens of both files.

  Padding is 0 here whatever pad_token_id says. Attention and loss mask it in both
  programs, so it changes no output.
  """
  files = {CONFIG_FILE: values}
  if (folder / GENERATION_FILE).is_file():
    files[GENERATION_FILE] = read_json(folder / GENERATION_FILE)
  for file, contents in files.items():
    start = contents.get('decoder_start_token_id')
    if start not in (None, 0) or isinstance(start, bool):
      raise UserError(
        f'{folder}/{file}: decoder_start_token_id is {shown(start)}; decoding starts with '
        'token 0 here, so that the model would be given another start than it knows'
      )
    for name in _FORCED:
      if contents.get(name):
        raise UserError(
          f'{folder}/{file}: {name} is {shown(contents[name])}; no token is forced or '
          'forbidden here: remove it if the model does not need it'
        )
  ends = {
    file: contents['eos_token_id']
    for file, contents in files.items()
    if contents.get('eos_token_id') is not None
  }
  for file, end in ends.items():
    ends[file] = end[0] if isinstance(end, list) and len(end) == 1 else end
    if type(ends[file]) is not int:
      raise UserError(f'{folder}/{file}: eos_token_id is {shown(end)}; expected one token')
  if len({*ends.values()}) > 1:
    raise UserError(
      f'{folder}: eos_token_id is {ends[CONFIG_FILE]} in {CONFIG_FILE} and '
      f'{ends[GENERATION_FILE]} in {GENERATION_FILE}: correct one of them'
    )
  end = next(iter(ends.values()), 1)
  if values.get('pad_token_id') == end:
    raise UserError(
      f'{folder}/{CONFIG_FILE}: pad_token_id and eos_token_id are both {end}; T5 tells '
      'padding from the end of a text'
    )
  return end


def _kind_of(config: Config) -> str | None:
  """Returns the model_type that can be such a network; None if there is none."""
  tied, scaled = config.logits_via_embedding, config.scales_logits
  if config.position_bias_per_layer:
    return UMT5 if scaled or not tied else None
  return T5 if scaled or not tied else MT5


def check_writable(config: Config) -> None:
  """Checks that `transformers` has a network like it.

  Raises:
    UserError: if not.
  """
  if config.mlp_activations not in _FEED_FORWARD:
    raise UserError(
      f'transformers has no T5 with mlp_activations={config.mlp_activations!r}: '
      'use --to=t5x'
    )
  if _kind_of(config) is None:
    raise UserError(
      'transformers has no umT5 whose output layer is tied to the embedding without '
      'scaling (config.Config.scale_logits=False): use --to=t5x'
    )


def described(config: Config, dtype: str) -> dict[str, Any]:
  """The contents of `config.json` for a network whose weights are of a dtype."""
  kind = _kind_of(config) or T5
  tied = config.logits_via_embedding
  if kind == UMT5:
    tied = config.scales_logits  # its class has no other setting for the scaling
  scaled = {}
  if kind == T5 and config.scales_logits != tied:
    scaled = {'scale_decoder_outputs': config.scales_logits}
  cached = {}
  if config.num_encoder_layers != config.num_decoder_layers:
    # The cache of Transformers 5.23 has as many layers as the encoder.
    cached = {'use_cache': False}
  return {
    'architectures': [_CLASSES[kind]],
    'model_type': kind,
    'vocab_size': config.vocab_size,
    'd_model': config.emb_dim,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'feed_forward_proj': _FEED_FORWARD[config.mlp_activations],
    'tie_word_embeddings': tied,
    **scaled,
    **cached,
    'dropout_rate': config.dropout_rate,
    **_FIXED,
    'pad_token_id': 0,
    'eos_token_id': config.eos_id,
    'decoder_start_token_id': 0,
    'torch_dtype': dtype,
  }
