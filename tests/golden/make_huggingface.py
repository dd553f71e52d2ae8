"""Makes the golden files of Hugging Face parity: tiny random models and their outputs.

    python tests/golden/make_huggingface.py tests/golden/huggingface

It needs torch 2.13.0 and transformers 5.23.0. What each folder stands for:

  t5_1_0: relu, output layer tied to the embedding; as transformers 5 saves it.
  t5_1_1: gated GELU, output layer of its own; configuration as transformers 4 wrote it.
  flan: as t5_1_1, other depths, in shards, configuration as transformers 5 writes it
    (`tie_word_embeddings` is true there, whatever the model is).
  mt5_tied: mT5's class, which never scales logits; gated SiLU; the embedding has another
    of its names.
  umt5: umT5's class with an output layer of its own, as transformers 5 saves it.
  madlad: as t5_1_1, texts end with token 2.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

MODELS = {
  't5_1_0': {'feed_forward_proj': 'relu', 'num_layers': 2, 'num_decoder_layers': 2},
  't5_1_1': {'feed_forward_proj': 'gated-gelu', 'num_layers': 2, 'num_decoder_layers': 3},
  'flan': {'feed_forward_proj': 'gated-gelu', 'num_layers': 3, 'num_decoder_layers': 2},
  'mt5_tied': {'feed_forward_proj': 'gated-silu', 'num_layers': 2},
  'umt5': {'feed_forward_proj': 'gated-gelu', 'num_layers': 3, 'num_decoder_layers': 2},
  'madlad': {
    'feed_forward_proj': 'gated-gelu',
    'num_layers': 2,
    'eos_token_id': 2,
    'pad_token_id': 1,
  },
}
CLASSES = {
  'mt5_tied': (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
  'umt5': (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration),
}
T5 = transformers.T5Config, transformers.T5ForConditionalGeneration
TIED = ('t5_1_0', 'mt5_tied')
# With these seeds, both beam searches agree. They can differ, because transformers ends a
# beam if EOS is among the N best continuations, T5X if it is among the 2N best.
SEEDS = {'t5_1_0': 31, 't5_1_1': 42, 'flan': 43, 'mt5_tied': 44, 'umt5': 45, 'madlad': 46}
SIZES = {'vocab_size': 64, 'd_model': 24, 'd_kv': 8, 'd_ff': 32, 'num_heads': 4}
LENGTH, BEAMS = 8, 4


def weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
  """Random weights that make outputs differ from token to token."""
  rng = np.random.default_rng(seed)

  def make(name, shape):
    x = rng.normal(size=shape)
    if 'layer_norm' in name:
      x = 1 + 0.1 * x
    elif len(shape) == 2 and 'shared' not in name:
      x /= np.sqrt(shape[1])
    if name.split('.')[-2] in ('o', 'wo'):
      x *= 6  # otherwise every token would be followed by itself
    if name in ('shared.weight', 'lm_head.weight'):
      x[model.config.eos_token_id] *= 1.5  # this ends some sequences early
    return torch.tensor(x, dtype=torch.float32)

  names = model.state_dict()
  return {
    name: make(name, tuple(tensor.shape))
    for name, tensor in names.items()
    if not name.endswith('embed_tokens.weight')
  }


def batch() -> dict[str, np.ndarray]:
  """Inputs with padding, and decoder inputs that begin with the start symbol 0."""
  rng = np.random.default_rng(7)
  inputs = rng.integers(2, SIZES['vocab_size'], (4, 9))
  for row in range(4):
    inputs[row, 9 - row :] = 0
  decoder_inputs = rng.integers(2, SIZES['vocab_size'], (4, 6))
  decoder_inputs[:, 0] = 0
  return {
    'inputs': inputs.astype(np.int32),
    'decoder_inputs': decoder_inputs.astype(np.int32),
  }


def outputs(model: transformers.T5ForConditionalGeneration) -> dict[str, np.ndarray]:
  """The model's logits, and what it generates."""
  rows = batch()
  inputs = torch.tensor(rows['inputs']).long()
  mask = (inputs != 0).long()
  with torch.no_grad():
    logits = model(
      input_ids=inputs,
      attention_mask=mask,
      decoder_input_ids=torch.tensor(rows['decoder_inputs']).long(),
    ).logits

    def generate(**more) -> np.ndarray:
      out = model.generate(
        input_ids=inputs,
        attention_mask=mask,
        max_new_tokens=LENGTH,
        do_sample=False,
        # With a cache, transformers 5.23 fails if the decoder is deeper than the encoder.
        use_cache=False,
        **more,
      )[:, 1:].numpy()
      # Beam search pads with EOS, because it takes 0 for no padding id at all.
      ends = out == model.config.eos_token_id
      ended = np.cumsum(ends, 1) - ends > 0
      return np.pad(np.where(ended, 0, out), ((0, 0), (0, LENGTH - out.shape[1])))

    return {
      **rows,
      'logits': logits.numpy(),
      'greedy': generate(num_beams=1).astype(np.int32),
      # T5X's length penalty differs from this one, except at 0.
      'beam': generate(num_beams=BEAMS, length_penalty=0.0).astype(np.int32),
    }


def make(name: str, folder: pathlib.Path) -> None:
  """Makes one model's folder."""
  folder.mkdir(parents=True, exist_ok=True)
  tied = name in TIED
  config_class, model_class = CLASSES.get(name, T5)
  config = config_class(
    **SIZES, **MODELS[name], decoder_start_token_id=0, tie_word_embeddings=tied
  )
  model = model_class(config)
  state = weights(model, SEEDS[name])
  if tied:
    del state['lm_head.weight']
  if name == 'mt5_tied':
    state['decoder.embed_tokens.weight'] = state.pop('shared.weight')
  if name == 'flan':
    names = sorted(state)
    files = {f'model-0000{i + 1}-of-00002.safetensors': names[i::2] for i in range(2)}
    for file, part in files.items():
      save_file({n: state[n] for n in part}, folder / file, metadata={'format': 'pt'})
    index = {n: file for file, part in files.items() for n in part}
    size = sum(t.numel() * 4 for t in state.values())
    (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'metadata': {'total_size': size}, 'weight_map': index}, indent=1)
    )
  else:
    save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})
  written = config.to_dict()
  if name in ('t5_1_1', 'madlad'):
    written.pop('scale_decoder_outputs', None)
    written['tie_word_embeddings'] = False
  (folder / 'config.json').write_text(json.dumps(written, indent=1, sort_keys=True) + '\n')
  loaded = model_class.from_pretrained(folder).eval()
  if not tied:
    assert torch.equal(loaded.lm_head.weight, state['lm_head.weight'])
  if model_class is T5[1]:
    assert loaded.config.scale_decoder_outputs == tied
  np.savez_compressed(folder / 'outputs.npz', **outputs(loaded))


def main(out: str) -> None:
  """Makes all folders."""
  transformers.logging.set_verbosity_error()
  for name in MODELS:
    make(name, pathlib.Path(out) / name)


if __name__ == '__main__':
  main(sys.argv[1])
