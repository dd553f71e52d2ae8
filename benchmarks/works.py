"""The work that `benchmarks.speed` times: our T5 and those of T5X and others."""

import contextlib
import copy
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax import decoding
from hyperprompt_jax.data import features
from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.methods import HyperPromptGlobal, Method, MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.training.optimizers import adafactor
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)

OURS, MTL, T5X, TORCH = 'ours', 'mtl', 't5x', 'transformers'
# CTranslate2 only decodes and scores; the second has weights and activations of 8 bits.
CT2, CT2_INT8 = 'ctranslate2', 'ctranslate2 int8'
# Our exports to ONNX Runtime decode, score and rank.
ONNX, ONNX_INT8 = 'ours, onnx', 'ours, onnx int8'
TRAIN, GREEDY, BEAM, SCORE, RANK = 'train step', 'greedy', 'beam search', 'score', 'rank'
ENCODE = 'encoder alone'
# Our layers are in a loop by default; T5X's are unrolled here.
UNROLLED = 'train step, unrolled'
NUM_BEAMS = 4
LEARNING_RATE = 1e-3
GIB = 2**30
# This is not a time but the peak memory of a training step, in GiB.
MEMORY = 'train step GiB'
# Two labels, of which one has three pieces and EOS.
LABELS = np.asarray([[10, 1, 0, 0], [11, 12, 13, 1]], np.int32)
METHOD = HyperPromptGlobal(prompt_length=16, bottleneck_dim=24, task_embed_dim=32)

# Runs once, and waits for the result.
Work = Callable[[], Any]


def ours(
  config: Config, batch: Batch, num_tasks: int = 8, method: Method = METHOD
) -> dict[str, Work]:
  """Returns our work, by name."""
  tasks = tuple(f'task_{number}' for number in range(num_tasks))
  model = Model(config, method, tasks)
  beams = Model(config, method, tasks, decode_fn=_beam_search)
  optimizer = adafactor(LEARNING_RATE)
  partitioner = Partitioner()
  rows = features_of(batch, config.vocab_size)
  rows[features.TASK_IDS] = np.arange(batch.size, dtype=np.int32)[:, None] % num_tasks
  with partitioner.activate():
    like = abstract_state(model, optimizer, partitioner)
    held = [initial_state(model, optimizer, like, seed=0)]
    step = make_train_step(model, optimizer, partitioner, like, seed=0)
    # The step donates the buffers of its argument.
    params = jax.jit(lambda params: jax.tree.map(jnp.copy, params))(held[0].params)
    conditioning = jax.jit(model.condition)(params)
    on_device = partitioner.put(rows)
    inputs = partitioner.put(
      {name: rows[name] for name in ('encoder_input_tokens', features.TASK_IDS)}
    )
  decode = jax.jit(model.predict, static_argnames='max_decode_length')
  search = jax.jit(beams.predict, static_argnames='max_decode_length')
  score, rank = jax.jit(model.score), jax.jit(model.rank)
  encode = jax.jit(model.encode)

  def train() -> Any:
    with partitioner.activate():
      held[0], sums = step(held[0], on_device)
      return jax.block_until_ready(sums)

  def memory() -> float:
    with partitioner.activate():
      needs = step.lower(held[0], on_device).compile().memory_analysis()  # type: ignore[attr-defined]
    # Donated buffers are counted in both.
    sizes = needs.argument_size_in_bytes + needs.output_size_in_bytes
    return (sizes - needs.alias_size_in_bytes + needs.temp_size_in_bytes) / GIB

  def waited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Work:
    def work() -> Any:
      with partitioner.activate():
        return jax.block_until_ready(function(params, conditioning, *args, **kwargs))

    return work

  return {
    TRAIN: train,
    GREEDY: waited(decode, inputs, max_decode_length=batch.targets),
    BEAM: waited(search, inputs, max_decode_length=batch.targets),
    SCORE: waited(score, on_device),
    RANK: waited(rank, inputs, LABELS),
    ENCODE: waited(encode, inputs),
    MEMORY: memory,
  }


def on_gpu() -> bool:
  """Whether JAX runs on a GPU."""
  return jax.default_backend() == 'gpu'


def _beam_search(*args: Any, **kwargs: Any) -> Any:
  return decoding.beam_search(*args, num_decodes=NUM_BEAMS, **kwargs)


def t5x(config: Config, batch: Batch) -> dict[str, Work]:
  """Returns T5X's work, by name."""
  from t5x import decoding as t5x_decoding

  from benchmarks import t5x_baseline

  model = t5x_baseline.make_model(config, scanned=False)
  held = [jax.jit(lambda: t5x_baseline.initial_state(model, batch))()]
  rows = features_of(batch, config.vocab_size)
  params = jax.jit(lambda: t5x_baseline.initial_state(model, batch).params)()
  step = jax.jit(
    lambda state, batch_rows: t5x_baseline.train_step(model, state, batch_rows),
    donate_argnums=0,
  )
  search_model = t5x_baseline.make_model(config, scanned=False)
  search_model._decode_fn = t5x_decoding.beam_search  # as T5X sets it by gin
  decode = jax.jit(lambda params, batch_rows: model.predict_batch(params, batch_rows))
  search = jax.jit(
    lambda params, batch_rows: search_model.predict_batch_with_aux(
      params, batch_rows, num_decodes=NUM_BEAMS
    )
  )
  score = jax.jit(lambda params, batch_rows: model.score_batch(params, batch_rows))

  def train() -> Any:
    held[0], loss = step(held[0], rows)
    return jax.block_until_ready(loss)

  return {
    TRAIN: train,
    GREEDY: lambda: jax.block_until_ready(decode(params, rows)),
    BEAM: lambda: jax.block_until_ready(search(params, rows)),
    SCORE: lambda: jax.block_until_ready(score(params, rows)),
  }


def transformers(config: Config, batch: Batch) -> dict[str, Work]:
  """Returns the work of Transformers, by name; its optimizer is PyTorch's Adafactor.

  With bfloat16, training uses PyTorch's mixed precision, and decoding and scoring use
  bfloat16 weights. Transformers chooses the implementation of attention.
  """
  import torch

  network = _torch_network(config)
  gpu, half = on_gpu(), config.dtype == 'bfloat16'
  device = 'cuda' if gpu else 'cpu'
  if gpu:
    torch.set_float32_matmul_precision('high')  # TF32, as XLA has it
  network.to(device)
  # The default updates parameters one by one, which leaves a GPU idle.
  optimizer = torch.optim.Adafactor(
    network.parameters(), lr=LEARNING_RATE, foreach=gpu or None
  )
  rows = features_of(batch, config.vocab_size)
  inputs = torch.tensor(rows['encoder_input_tokens']).long().to(device)
  labels = torch.tensor(rows['decoder_target_tokens']).long().to(device)
  mixed = functools.partial(torch.autocast, device, torch.bfloat16)

  def train() -> float:
    network.train()
    with mixed() if half else contextlib.nullcontext():
      loss = network(input_ids=inputs, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss)

  @functools.cache
  def without_gradients() -> Any:
    return copy.deepcopy(network).to(torch.bfloat16) if half else network

  def generate(num_beams: int) -> Any:
    network = without_gradients().eval()
    lengths = {'max_new_tokens': batch.targets, 'min_new_tokens': batch.targets}
    with torch.no_grad():
      tokens = network.generate(inputs, do_sample=False, num_beams=num_beams, **lengths)
      return tokens.cpu()  # waits

  def score() -> float:
    network = without_gradients().eval()
    with torch.no_grad():
      return float(network(input_ids=inputs, labels=labels).loss)

  def memory() -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train()
    return torch.cuda.max_memory_allocated() / GIB

  return {
    TRAIN: train,
    GREEDY: lambda: generate(1),
    BEAM: lambda: generate(NUM_BEAMS),
    SCORE: score,
    MEMORY: memory,
  }


def _torch_network(config: Config) -> Any:
  """Returns Transformers' T5 of the same sizes, with random weights."""
  import torch
  from transformers import T5Config, T5ForConditionalGeneration

  torch.manual_seed(0)
  return T5ForConditionalGeneration(
    T5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      dropout_rate=config.dropout_rate,
      feed_forward_proj='gated-gelu',
      tie_word_embeddings=False,
      decoder_start_token_id=0,
    )
  )


def ctranslate2(config: Config, batch: Batch, compute_type: str) -> dict[str, Work]:
  """Returns the work of CTranslate2, by name, with the network of Transformers.

  Args:
    config: is our configuration, which the network follows.
    batch: is the shape of a batch.
    compute_type: is the precision of CTranslate2: float32, or int8 for weights of 8 bits
      and activations that are rounded to 8 bits at every product.
  """
  import ctranslate2 as runtime
  from ctranslate2.converters.transformers import T5Loader

  spec = T5Loader().get_model_spec(_torch_network(config))
  names = ['<pad>', '</s>', '<unk>', *map(str, range(3, config.vocab_size))]
  spec.register_source_vocabulary(names)
  spec.register_target_vocabulary(names)
  spec.config.bos_token = spec.config.decoder_start_token = names[0]
  spec.config.eos_token, spec.config.unk_token = names[1:3]
  spec.validate()
  spec.optimize(quantization=compute_type)
  threads = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:
    spec.save(folder)
    translator = runtime.Translator(
      folder, 'cpu', compute_type=compute_type, intra_threads=threads
    )
  rows = features_of(batch, config.vocab_size)
  named = lambda feature: [[names[token] for token in row] for row in rows[feature]]
  inputs, targets = named('encoder_input_tokens'), named('decoder_target_tokens')
  lengths = {'max_decoding_length': batch.targets, 'min_decoding_length': batch.targets}
  generate = functools.partial(translator.translate_batch, inputs, **lengths)
  return {
    GREEDY: lambda: generate(beam_size=1),
    BEAM: lambda: generate(beam_size=NUM_BEAMS),
    SCORE: lambda: translator.score_batch(inputs, targets),
  }


def exported(config: Config, batch: Batch, *, int8: bool) -> dict[str, Work]:
  """Returns the work of our export to ONNX Runtime, by name.

  Args:
    config: configures the network.
    batch: is the shape of a batch.
    int8: tells whether kernels and activations are rounded to int8.
  """
  from hyperprompt_jax.onnx import folder
  from hyperprompt_jax.onnx.engine import OnnxEngine
  from hyperprompt_jax.onnx.network import Network

  model = Model(config, METHOD, tuple(f'task_{number}' for number in range(8)))
  network = Network.from_params(model, model.init(jax.random.key(0)))
  # No token ends an answer.
  with tempfile.TemporaryDirectory() as place:
    folder.write(pathlib.Path(place), network, int8=int8)
    engine = OnnxEngine(place, -1, config.num_decoder_layers)
  rows = features_of(batch, config.vocab_size)
  rows[features.TASK_IDS] = np.arange(batch.size, dtype=np.int32)[:, None] % 8
  places = np.zeros(batch.size, np.int64)
  labels = np.broadcast_to(LABELS, (batch.size, *LABELS.shape))
  return {
    GREEDY: lambda: engine.generate(rows, Generation(), batch.targets, places),
    SCORE: lambda: engine.score(rows),
    RANK: lambda: engine.rank(rows, labels),
    ENCODE: lambda: engine.encode(rows),
  }


def features_of(batch: Batch, vocab_size: int) -> dict[str, np.ndarray]:
  """Returns random tokens without padding."""
  rng = np.random.default_rng(0)
  shape = {'encoder': (batch.size, batch.inputs), 'decoder': (batch.size, batch.targets)}
  names = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  tokens = {
    name: rng.integers(2, vocab_size, shape[name[:7]]).astype(np.int32) for name in names
  }
  return tokens | {'decoder_loss_weights': np.ones(shape['decoder'], np.int32)}


WAYS: dict[str, Callable[..., dict[str, Work]]] = {
  OURS: ours,
  MTL: functools.partial(ours, method=MultiTaskLearning()),
  T5X: t5x,
  TORCH: transformers,
  CT2: functools.partial(ctranslate2, compute_type='float32'),
  CT2_INT8: functools.partial(ctranslate2, compute_type='int8'),
  ONNX: functools.partial(exported, int8=False),
  ONNX_INT8: functools.partial(exported, int8=True),
}
