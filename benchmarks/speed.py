"""Training and decoding on a CPU or a GPU: ours, T5X's and Transformers', interleaved.

    python -m benchmarks.speed --size=small     (part of make bench)
    python -m benchmarks.speed --dtype=bfloat16 --batch=64 --inputs=512 --targets=64

HyperPrompt-Global with eight tasks, against T5 without prompts of whatever else can be
imported: T5X (docs/t5x.md), and Transformers on PyTorch; where asked for, against our own
network without prompts, too. Random weights, batches of random tokens; of interleaved
repeats the median, and the median ratio of pairs. Each is in a process of its own, as it is
for its users: a step takes gigabytes anew, of a heap that others would have parted. It runs
where JAX does: where that is a GPU, Transformers is on it, too, and what a training step
needs of its memory is told. Of what is not asked for, results stay as they were.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from hyperprompt_jax import configuration, decoding, features
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import HyperPromptGlobal, Method, MultiTaskLearning
from hyperprompt_jax.nn.config import REMAT_POLICIES, Config
from hyperprompt_jax.optimizers import adafactor
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.train_step import abstract_state, initial_state, make_train_step

OURS, MTL, T5X, TORCH = 'ours', 'mtl', 't5x', 'transformers'
TRAIN, GREEDY, BEAM, SCORE, RANK = 'train step', 'greedy', 'beam search', 'score', 'rank'
NUM_BEAMS = 4
LEARNING_RATE = 1e-3
BY_TASKS = 'by tasks'  # greedy decoding, of models of few tasks and of many
GIB = 2**30
# Not timed, but asked for: the peak of a training step's memory, in GiB.
MEMORY = 'train step GiB'
METHOD = HyperPromptGlobal(prompt_length=16, bottleneck_dim=24, task_embed_dim=32)

# A thing to time: runs once, and waits for the result.
Work = Callable[[], Any]
# Does a thing once, and returns the seconds that it took.
Timed = Callable[[], float]


def ours(
  config: Config, batch: Batch, num_tasks: int = 8, method: Method = METHOD
) -> dict[str, Work]:
  """What is timed of ours, by name."""
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
    # The step takes over what it is given.
    params = jax.jit(lambda of: jax.tree.map(jnp.copy, of))(held[0].params)
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

  def memory() -> float:
    with partitioner.activate():
      needs = step.lower(held[0], on_device).compile().memory_analysis()  # type: ignore[attr-defined]
    # What is donated is in both.
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
    RANK: waited(rank, inputs, labels),
    MEMORY: memory,
  }


def _config(size: str, **options: str) -> Config:
  configuration.parse([f'models/{size}.gin'], [])
  return dataclasses.replace(configuration.call(Config), **options)


def _on_gpu() -> bool:
  return jax.default_backend() == 'gpu'


def _beam_search(*args: Any, **kwargs: Any) -> Any:
  return decoding.beam_search(*args, num_decodes=NUM_BEAMS, **kwargs)


def t5x(config: Config, batch: Batch) -> dict[str, Work]:
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


def transformers(config: Config, batch: Batch) -> dict[str, Work]:
  """What is timed of Transformers; its optimizer is PyTorch's Adafactor.

  With bfloat16, training has PyTorch's mixed precision, and what needs no gradient has
  weights of bfloat16. Attention is of the kind that Transformers chooses.
  """
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
  on_gpu, half = _on_gpu(), config.dtype == 'bfloat16'
  device = 'cuda' if on_gpu else 'cpu'
  if on_gpu:
    torch.set_float32_matmul_precision('high')  # TF32, as XLA has it
  network.to(device)
  # By default it works through its parameters one by one, which leaves a GPU idle.
  optimizer = torch.optim.Adafactor(
    network.parameters(), lr=LEARNING_RATE, foreach=on_gpu or None
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
      found = network.generate(inputs, do_sample=False, num_beams=num_beams, **lengths)
      return found.cpu()  # waits

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


def features_of(batch: Batch, vocab_size: int) -> dict[str, np.ndarray]:
  """Random tokens, none of them padding."""
  rng = np.random.default_rng(0)
  shape = {'encoder': (batch.size, batch.inputs), 'decoder': (batch.size, batch.targets)}
  names = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  found = {
    name: rng.integers(2, vocab_size, shape[name[:7]]).astype(np.int32) for name in names
  }
  return found | {'decoder_loss_weights': np.ones(shape['decoder'], np.int32)}


WAYS: dict[str, Callable[..., dict[str, Work]]] = {
  OURS: ours,
  MTL: functools.partial(ours, method=MultiTaskLearning()),
  T5X: t5x,
  TORCH: transformers,
}


class Worker(contextlib.AbstractContextManager):
  """A process that does what it is asked to of one of `WAYS`."""

  def __init__(self, name: str, *args: Any):
    """Starts it.

    Args:
      name: of `WAYS`.
      *args: what that is called with.
    """
    context = multiprocessing.get_context('spawn')
    self._asks, answers = context.Pipe()
    self._process = context.Process(target=_serve, args=(answers, name, args))
    self._process.start()
    answers.close()  # so that the end of the process ends `recv`

  def ask(self, what: str) -> tuple[float, Any]:
    """Does a thing; returns the seconds that it took and, if it is a number, what it gave.

    Raises:
      EOFError: the process ended, after its own message.
    """
    self._asks.send(what)
    return self._asks.recv()

  def timed(self, what: str) -> Timed:
    """That thing, to be timed."""
    return lambda: self.ask(what)[0]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: Any) -> None:
    self._process.kill()
    self._process.join()


def _serve(asked: Connection, name: str, args: Sequence[Any]) -> None:
  """What a worker's process runs."""
  works = WAYS[name](*args)
  with contextlib.suppress(EOFError):  # who asked has ended
    while True:
      work = works[asked.recv()]
      start = time.perf_counter()
      given = work()
      seconds = time.perf_counter() - start
      asked.send((seconds, given if isinstance(given, float) else None))


def interleaved(ways: dict[str, Timed], repeats: int) -> dict[str, Any]:
  """Times ways in turn.

  Returns:
    Of each the median of its seconds, and of all but ours the median, over the rounds, of
    its time by ours.
  """
  for way in ways.values():
    way()  # compiles
  rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats)]
  median = lambda of: statistics.median(map(of, rounds))
  return {
    'seconds': {name: median(lambda times, n=name: times[n]) for name in ways},
    'times_ours': {
      name: median(lambda times, n=name: times[n] / times[OURS]) for name in ways
    },
  }


def measure(
  size: str,
  config: Config,
  batch: Batch,
  repeats: int,
  against: Sequence[str],
  wanted: Sequence[str],
) -> dict[str, Any]:
  """What is wanted at one size, by name."""
  needs = {MTL: (), T5X: ('t5x',), TORCH: ('torch', 'transformers')}
  names = [name for name in against if all(map(results.has, needs[name]))]
  found: dict[str, Any] = {}
  with contextlib.ExitStack() as stack:
    workers = {
      name: stack.enter_context(Worker(name, config, batch)) for name in (OURS, *names)
    }
    for what in wanted:
      if what in (RANK, BY_TASKS):
        continue
      ways = {name: worker.timed(what) for name, worker in workers.items()}
      found[what] = interleaved(ways, repeats)
      print(f'{size}, {what}: {found[what]}', file=sys.stderr, flush=True)
      if what == TRAIN and _on_gpu():
        found[MEMORY] = {
          name: worker.ask(MEMORY)[1] for name, worker in workers.items() if name != T5X
        }
        print(f'{size}, {MEMORY}: {found[MEMORY]}', file=sys.stderr, flush=True)
    if RANK in wanted:
      # Ranking the labels of a task in place of generating one.
      ways = {OURS: workers[OURS].timed(RANK), GREEDY: workers[OURS].timed(GREEDY)}
      found[RANK] = interleaved(ways, repeats)
  return found


def decoding_by_tasks(config: Config, batch: Batch, repeats: int) -> dict[str, Any]:
  """Greedy decoding of models of few tasks and of many."""
  with contextlib.ExitStack() as stack:
    ways = {
      str(tasks): stack.enter_context(Worker(OURS, config, batch, tasks)).timed(GREEDY)
      for tasks in (1, 8, 64)
    }
    return interleaved({OURS: ways.pop('1'), **ways}, repeats)


def main(arguments: Sequence[str]) -> None:
  """Measures into results/cpu_speed.json, or gpu_speed.json."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', nargs='+', default=['small', 'base'])
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128)
  parser.add_argument('--targets', type=int, default=16)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
  parser.add_argument('--remat_policy', choices=list(REMAT_POLICIES), default='none')
  others = [MTL, T5X, TORCH]
  parser.add_argument('--against', nargs='*', choices=others, default=[T5X, TORCH])
  everything = [TRAIN, GREEDY, BEAM, SCORE, RANK, BY_TASKS]
  parser.add_argument('--what', nargs='+', choices=everything, default=everything)
  flags = parser.parse_args(arguments)
  # JAX takes three quarters of a GPU's memory at once, which PyTorch would lack.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  batch = Batch(flags.batch, flags.inputs, flags.targets)
  options = {'dtype': flags.dtype, 'remat_policy': flags.remat_policy}
  found: dict[str, Any] = {'batch': [batch.size, batch.inputs, batch.targets]}
  if _on_gpu():
    found['device'] = jax.devices()[0].device_kind
    found |= options
  for size in flags.size:
    config = _config(size, **options)
    found[size] = measure(size, config, batch, flags.repeats, flags.against, flags.what)
  if BY_TASKS in flags.what:
    config = _config(flags.size[0], **options)
    found[BY_TASKS] = decoding_by_tasks(config, batch, flags.repeats)
  results.merge(f'{jax.default_backend()}_speed', found)


if __name__ == '__main__':
  main(sys.argv[1:])
