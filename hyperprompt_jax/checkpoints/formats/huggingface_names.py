"""The names of T5's parameters in Hugging Face's models, and of the prompts of ours."""

import re

# The paths of prompts that a method has made, in place of its parameters.
FOLDED = 'method/folded/'
_INPUT_PROMPTS = 'encoder.input_prompts'
EMBEDDING = 'token_embedder/embedding'
OUTPUT_LAYER = 'decoder/logits_dense/kernel'

_TOP = {
  EMBEDDING: ('shared.weight', False),
  OUTPUT_LAYER: ('lm_head.weight', True),
  'encoder/encoder_norm/scale': ('encoder.final_layer_norm.weight', False),
  'decoder/decoder_norm/scale': ('decoder.final_layer_norm.weight', False),
}
# The position bias of a layer. Of all classes but umT5's, layer 0 alone has one, and the
# others take it from there.
_BIAS = 'relpos_bias/rel_embedding'
_ATTENTION = 'layer.0.SelfAttention'
_THEIR_BIAS = f'{_ATTENTION}.relative_attention_bias.weight'
# The parts of a layer, in order: our module, theirs, and the norm before it.
_LAYERS = {
  'encoder': (
    ('attention', 'SelfAttention', 'pre_attention_layer_norm'),
    ('mlp', 'DenseReluDense', 'pre_mlp_layer_norm'),
  ),
  'decoder': (
    ('self_attention', 'SelfAttention', 'pre_self_attention_layer_norm'),
    ('encoder_decoder_attention', 'EncDecAttention', 'pre_cross_attention_layer_norm'),
    ('mlp', 'DenseReluDense', 'pre_mlp_layer_norm'),
  ),
}
_PROJECTIONS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
# The prompts of a layer, for all tasks (see `folded`): our names and theirs.
_PROMPTS = {
  'key': 'prompt_key',
  'value': 'prompt_value',
  'logit_offset': 'prompt_logit_offset',
}


def their_name(path: str) -> tuple[str, bool]:
  """Returns the name of one of our parameters in a Hugging Face model.

  Args:
    path: is its path in the unrolled backbone.

  Returns:
    The name, and whether the array is transposed.
  """
  if path in _TOP:
    return _TOP[path]
  if path.startswith(FOLDED):
    return _their_prompts(path), False
  side, layer, module, *rest = path.split('/')
  if path.endswith(_BIAS):
    number = layer.removeprefix('layers_') if module == 'relpos_bias' else 0
    return f'{side}.block.{number}.{_THEIR_BIAS}', True
  block = f'{side}.block.{layer.removeprefix("layers_")}'
  for number, (ours, theirs, norm) in enumerate(_LAYERS[side]):
    if module == norm:
      return f'{block}.layer.{number}.layer_norm.weight', False
    if module == ours:
      name = _PROJECTIONS.get(rest[0], rest[0])
      return f'{block}.layer.{number}.{theirs}.{name}.weight', True
  raise KeyError(path)


def _their_prompts(path: str) -> str:
  """Returns the name of folded prompts."""
  side, *layer = path.removeprefix(FOLDED).split('/')
  if not layer:
    return _INPUT_PROMPTS
  number = layer[0].removeprefix('layers_')
  return f'{side}.block.{number}.{_ATTENTION}.{_PROMPTS[layer[1]]}'


def our_path(name: str, *, bias_per_layer: bool) -> tuple[str, bool]:
  """Inverts `their_name`; a name that the network does not have is returned unchanged."""
  prompts = '|'.join(_PROMPTS.values())
  if match := re.fullmatch(rf'(\w+)\.block\.(\d+)\.{_ATTENTION}\.({prompts})', name):
    ours = {theirs: ours for ours, theirs in _PROMPTS.items()}[match[3]]
    return f'{FOLDED}{match[1]}/layers_{match[2]}/{ours}', False
  if name == _INPUT_PROMPTS:
    return f'{FOLDED}input_prompts', False
  for path, (theirs, transpose) in _TOP.items():
    if name == theirs:
      return path, transpose
  match = re.fullmatch(
    r'(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(\w+)(?:\.(\w+))?\.weight', name
  )
  if match is None:
    return name, False
  side, block, number, module, projection = match.groups()
  if name == f'{side}.block.{block}.{_THEIR_BIAS}':
    if bias_per_layer:
      return f'{side}/layers_{block}/{_BIAS}', True
    return (f'{side}/{_BIAS}', True) if block == '0' else (name, False)
  if int(number) < len(_LAYERS[side]):
    ours, theirs, norm = _LAYERS[side][int(number)]
    if (module, projection) == ('layer_norm', None):
      return f'{side}/layers_{block}/{norm}/scale', False
    if module == theirs and projection:
      names = {short: long for long, short in _PROJECTIONS.items()}
      projection = names.get(projection, projection)
      return f'{side}/layers_{block}/{ours}/{projection}/kernel', True
  return name, False
