"""Training and decoding on the CPU: ours, T5X's and Transformers', interleaved.

    python -m benchmarks.cpu_speed --size=small     (part of make bench)

HyperPrompt-Global with eight tasks, against T5 without prompts of whatever else can be
imported: T5X (docs/t5x.md), and Transformers on PyTorch. float32, random weights, batches
of random tokens; of interleaved repeats the median, and the median ratio of pairs.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import results
from hyperprompt_jax import configuration, decoding, features
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import HyperPromptGlobal
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.optimizers import adafactor
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.train_step import abstract_state, initial_state, make_train_step

OURS, T5X, TORCH = 'ours', 't5x', 'transformers'
TRAIN, GREEDY, BEAM, SCORE, RANK = 'train step', 'greedy', 'beam search', 'score', 'rank'
NUM_BEAMS = 4
LEARNING_RATE = 1e-3

# A thing to time: runs once, and waits for the result.
Timed = Callable[[], Any]


def ours(size: str, batch: Batch, num_tasks: int = 8) -> dict[str, Timed]:
  """What is timed of ours, by name."""
  config = _config(size)
  method = HyperPromptGlobal(prompt_length=16, bottleneck_dim=24, task_embed_dim=32)
  tasks = tuple(f'task_{number}' for number in range(num_tasks))
  model = Model(config, method, tasks)
  beams = Model(config, method, tasks, decode_fn=_beam_search)
  optimizer = adafactor(LEARNING_RATE)
  partitioner = Partitioner()
  rows = features_of(batch, config.vocab_size)
  rows[features.TASK_IDS] = np.arange(batch.size, dtype=np.int32)[:, None] % num_tasks
  inputs = {name: rows[name] for name in ('encoder_input_tokens', features.TASK_IDS)}
  # Two labels of three pieces and EOS.
  labels = np.asarray([[10, 1, 0, 0], [11, 12, 13, 1]], np.int32)
  with partitioner.activate():
    like = abstract_state(model, optimizer, partitioner)
    held = [initial_state(model, optimizer, like, seed=0)]
    step = make_train_step(model, optimizer, partitioner, like, seed=0)
    params = jax.jit(model.init)(jax.random.key(1))
    conditioning = jax.jit(model.condition)(params)
    on_device = partitioner.put(rows)
    inputs = partitioner.put(inputs)
  decode = jax.jit(model.predict, static_argnames='max_decode_length')
  search = jax.jit(beams.predict, static_argnames='max_decode_length')
  score, rank = jax.jit(model.score), jax.jit(model.rank)

  def train() -> Any:
    with partitioner.activate():
      held[0], sums = step(held[0], on_device)
      return jax.block_until_ready(sums)

  def waited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Timed:
    def timed() -> Any:
      with partitioner.activate():
        return jax.block_until_ready(function(params, conditioning, *args, **kwargs))

    return timed

  return {
    TRAIN: train,
    GREEDY: waited(decode, inputs, max_decode_length=batch.targets),
    BEAM: waited(search, inputs, max_decode_length=batch.targets),
    SCORE: waited(score, on_device),
    RANK: waited(rank, inputs, labels),
  }


def _config(size: str) -> Config:
  configuration.parse([f'models/{size}.gin'], [])
  return configuration.call(Config)


def _beam_search(*args: Any, **kwargs: Any) -> Any:
  return decoding.beam_search(*args, num_decodes=NUM_BEAMS, **kwargs)


def t5x(config: Config, batch: Batch) -> dict[str, Timed]:
  """What is timed of T5X."""
  from t5x import decoding as t5x_decoding

  from benchmarks import t5x_baseline

  model = t5x_baseline.make_model(config, scanned=False)
  held = [jax.jit(lambda: t5x_baseline.initial_state(model, batch))()]
  rows = features_of(batch, config.vocab_size)
  params = jax.jit(lambda: t5x_baseline.initial_state(model, batch).params)()
  step = jax.jit(
    lambda state, of: t5x_baseline.train_step(model, state, of), donate_argnums=0
  )
  search_model = t5x_baseline.make_model(config, scanned=False)
  search_model._decode_fn = t5x_decoding.beam_search  # as T5X sets it by gin
  decode = jax.jit(lambda params, of: model.predict_batch(params, of))
  search = jax.jit(
    lambda params, of: search_model.predict_batch_with_aux(
      params, of, num_decodes=NUM_BEAMS
    )
  )
  score = jax.jit(lambda params, of: model.score_batch(params, of))

  def train() -> Any:
    held[0], loss = step(held[0], rows)
    return jax.block_until_ready(loss)

  return {
    TRAIN: train,
    GREEDY: lambda: jax.block_until_ready(decode(params, rows)),
    BEAM: lambda: jax.block_until_ready(search(params, rows)),
    SCORE: lambda: jax.block_until_ready(score(params, rows)),
  }


def transformers(config: Config, batch: Batch) -> dict[str, Timed]:
  """What is timed of Transformers; its optimizer is PyTorch's Adafactor."""
  import torch
  from transformers import T5Config, T5ForConditionalGeneration

  torch.manual_seed(0)
  network = T5ForConditionalGeneration(
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
  optimizer = torch.optim.Adafactor(network.parameters(), lr=LEARNING_RATE)
  rows = features_of(batch, config.vocab_size)
  inputs = torch.tensor(rows['encoder_input_tokens']).long()
  labels = torch.tensor(rows['decoder_target_tokens']).long()

  def train() -> float:
    network.train()
    loss = network(input_ids=inputs, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss)

  def generate(num_beams: int) -> Any:
    network.eval()
    lengths = {'max_new_tokens': batch.targets, 'min_new_tokens': batch.targets}
    with torch.no_grad():
      return network.generate(inputs, do_sample=False, num_beams=num_beams, **lengths)

  def score() -> float:
    network.eval()
    with torch.no_grad():
      return float(network(input_ids=inputs, labels=labels).loss)

  return {
    TRAIN: train,
    GREEDY: lambda: generate(1),
    BEAM: lambda: generate(NUM_BEAMS),
    SCORE: score,
  }


def features_of(batch: Batch, vocab_size: int) -> dict[str, np.ndarray]:
  """Random tokens, none of them padding."""
  rng = np.random.default_rng(0)
  shape = {'encoder': (batch.size, batch.inputs), 'decoder': (batch.size, batch.targets)}
  names = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  found = {
    name: rng.integers(2, vocab_size, shape[name[:7]]).astype(np.int32) for name in names
  }
  return found | {'decoder_loss_weights': np.ones(shape['decoder'], np.int32)}


def interleaved(ways: dict[str, Timed], repeats: int) -> dict[str, Any]:
  """Times ways in turn.

  Returns:
    Of each the median of its seconds, and of all but ours the median, over the rounds, of
    its time by ours.
  """
  for way in ways.values():
    way()  # compiles
  rounds = []
  for _ in range(repeats):
    times = {}
    for name, way in ways.items():
      start = time.perf_counter()
      way()
      times[name] = time.perf_counter() - start
    rounds.append(times)
  median = lambda of: statistics.median(map(of, rounds))
  return {
    'seconds': {name: median(lambda times, n=name: times[n]) for name in ways},
    'times_ours': {
      name: median(lambda times, n=name: times[n] / times[OURS]) for name in ways
    },
  }


def measure(size: str, batch: Batch, repeats: int) -> dict[str, Any]:
  """All that is timed at one size, by name."""
  ways = {OURS: ours(size, batch)}
  config = _config(size)
  if results.has('t5x'):
    ways[T5X] = t5x(config, batch)
  if results.has('torch') and results.has('transformers'):
    ways[TORCH] = transformers(config, batch)
  found = {}
  for what in (TRAIN, GREEDY, BEAM, SCORE):
    found[what] = interleaved({name: of[what] for name, of in ways.items()}, repeats)
    print(f'{size}, {what}: {found[what]}', file=sys.stderr)
  # Ranking the labels of a task in place of generating one.
  mine = ways[OURS]
  found[RANK] = interleaved({OURS: mine[RANK], GREEDY: mine[GREEDY]}, repeats)
  return found


def decoding_by_tasks(size: str, batch: Batch, repeats: int) -> dict[str, Any]:
  """Greedy decoding of models of few tasks and of many."""
  ways = {str(tasks): ours(size, batch, tasks)[GREEDY] for tasks in (1, 8, 64)}
  return interleaved({OURS: ways.pop('1'), **ways}, repeats)


def main(arguments: Sequence[str]) -> None:
  """Measures into results/cpu_speed.json."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', nargs='+', default=['small', 'base'])
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128)
  parser.add_argument('--targets', type=int, default=16)
  parser.add_argument('--repeats', type=int, default=7)
  flags = parser.parse_args(arguments)
  batch = Batch(flags.batch, flags.inputs, flags.targets)
  found: dict[str, Any] = {'batch': [batch.size, batch.inputs, batch.targets]}
  for size in flags.size:
    found[size] = measure(size, batch, flags.repeats)
  found['by tasks'] = decoding_by_tasks(flags.size[0], batch, flags.repeats)
  results.write('cpu_speed', found)


if __name__ == '__main__':
  main(sys.argv[1:])
