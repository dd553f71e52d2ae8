"""Small random models of every class of the family, made and run by Transformers."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

LENGTH = 8
_SIZES = {'vocab_size': 96, 'd_model': 24, 'd_kv': 8, 'd_ff': 32, 'num_heads': 4}
_T5 = (transformers.T5Config, transformers.T5ForConditionalGeneration)
_MT5 = (transformers.MT5Config, transformers.MT5ForConditionalGeneration)
_UMT5 = (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration)
_GATED = {'feed_forward_proj': 'gated-gelu'}


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of the family.

  Attributes:
    classes: are the classes of its configuration and its model.
    options: are options of the configuration besides the sizes.
    tied: tells whether the output layer is the embedding.
    published: holds settings of `config.json` as the published folders have them, in place
      of those that Transformers 5 writes.
    factor: is the number by which Transformers 5 multiplies the logits that the network was
      trained with.
  """

  classes: tuple[Any, Any]
  options: Mapping[str, Any]
  tied: bool = False
  published: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  factor: float = 1.0


_UNTIED = {'tie_word_embeddings': False, 'scale_decoder_outputs': None}
NETWORKS = {
  'T5 1.0': Network(_T5, {'feed_forward_proj': 'relu', 'num_layers': 2}, tied=True),
  'T5 1.1': Network(
    _T5, {**_GATED, 'num_layers': 2, 'num_decoder_layers': 3}, published=_UNTIED
  ),
  'T5 1.1, saved by Transformers 5': Network(
    _T5, {**_GATED, 'num_layers': 2, 'tie_word_embeddings': False}
  ),
  'ByT5': Network(
    _T5,
    {**_GATED, 'num_layers': 6, 'num_decoder_layers': 2, 'vocab_size': 384},
    published=_UNTIED,
  ),
  'UL2': Network(_T5, {'feed_forward_proj': 'gated-silu', 'num_layers': 2}, tied=True),
  'MADLAD-400': Network(
    _T5,
    {**_GATED, 'num_layers': 2, 'eos_token_id': 2, 'pad_token_id': 1},
    published=_UNTIED,
  ),
  'mT5': Network(
    _MT5, {**_GATED, 'num_layers': 2}, published={'tie_word_embeddings': False}
  ),
  'mT5, tied': Network(_MT5, {**_GATED, 'num_layers': 2}, tied=True),
  'umT5': Network(
    _UMT5,
    {**_GATED, 'num_layers': 3, 'num_decoder_layers': 2},
    published={'tie_word_embeddings': False},
    factor=_SIZES['d_model'] ** -0.5,
  ),
  'umT5, saved by Transformers 5': Network(_UMT5, {**_GATED, 'num_layers': 2}),
  'umT5, tied': Network(_UMT5, {**_GATED, 'num_layers': 2}, tied=True),
}


def save(network: Network, folder: pathlib.Path, seed: int) -> None:
  """Saves a network with random weights as Transformers does.

  Args:
    network: is the network.
    folder: is written; its configuration is the published one where there is one.
    seed: seeds the weights.
  """
  config_class, model_class = network.classes
  config = config_class(**{**_SIZES, **network.options}, decoder_start_token_id=0)
  model = model_class(config)
  state = _weights(model, seed)
  if network.tied:
    state['lm_head.weight'] = state['shared.weight']
  else:
    model.lm_head.weight = torch.nn.Parameter(state['lm_head.weight'])
  for name in ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'):
    state[name] = state['shared.weight']
  model.load_state_dict(state)
  model.save_pretrained(folder)
  file = folder / 'config.json'
  written = {**json.loads(file.read_text()), **network.published}
  file.write_text(json.dumps({k: v for k, v in written.items() if v is not None}))


def _weights(model: Any, seed: int) -> dict[str, Any]:
  """Random weights under which outputs differ from token to token."""
  rng = np.random.default_rng(seed)
  weights = {}
  for name, tensor in model.state_dict().items():
    x = rng.normal(size=tuple(tensor.shape))
    if 'layer_norm' in name:
      x = 1 + 0.1 * x
    elif len(x.shape) == 2 and name not in ('shared.weight',):
      x /= np.sqrt(x.shape[1])
    if name.split('.')[-2] in ('o', 'wo'):
      x *= 6
    if name in ('shared.weight', 'lm_head.weight'):
      x[model.config.eos_token_id] *= 2.5  # some sequences end early
    weights[name] = torch.tensor(x, dtype=torch.float32)
  return weights


def batch(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Inputs with padding, and decoder inputs that begin with the start symbol 0."""
  rng = np.random.default_rng(7)
  inputs = rng.integers(3, vocab_size, (4, 40))
  for row in range(4):
    inputs[row, 40 - 9 * row :] = 0
  decoder_inputs = rng.integers(3, vocab_size, (4, LENGTH))
  decoder_inputs[:, 0] = 0
  return inputs, decoder_inputs


def outputs(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Returns the logits of `batch`, and the tokens that greedy decoding generates."""
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
  inputs, decoder_inputs = map(torch.tensor, batch(model.config.vocab_size))
  mask = (inputs != 0).long()
  with torch.no_grad():
    logits = model(
      input_ids=inputs, attention_mask=mask, decoder_input_ids=decoder_inputs
    ).logits
    tokens = model.generate(
      input_ids=inputs,
      attention_mask=mask,
      max_new_tokens=LENGTH,
      do_sample=False,
      num_beams=1,
      # With a cache, transformers 5.23 fails if the stacks have different depths.
      use_cache=False,
    )[:, 1:].numpy()
  ends = tokens == model.config.eos_token_id
  tokens = np.where(np.cumsum(ends, 1) - ends > 0, 0, tokens)
  return logits.numpy(), np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))
