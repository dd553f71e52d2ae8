"""How long evaluation takes by ranking labels and by generating, interleaved.

    python benchmarks/rank_speed.py --size=small

Random weights, two labels; the median of the ratios of pairs that follow one another.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax import configuration
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.conditioning import HyperPromptGlobal
from hyperprompt_jax.nn.config import Config

TASKS = tuple('abcdefgh')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='small', help='a gin file of models/')
  parser.add_argument('--rows', type=int, default=16)
  parser.add_argument('--inputs', type=int, default=128)
  parser.add_argument('--targets', type=int, default=16, help='generated at most')
  parser.add_argument('--pairs', type=int, default=5)
  flags = parser.parse_args()
  configuration.parse([f'models/{flags.size}.gin'], [])
  method = HyperPromptGlobal(16, 24, task_embed_dim=32)
  model = Model(configuration.call(Config), method, TASKS)
  params = jax.jit(model.init)(jax.random.key(0))
  conditioning = jax.jit(model.condition)(params)
  rng = np.random.default_rng(0)
  batch = {
    'encoder_input_tokens': jnp.asarray(
      rng.integers(2, model.config.vocab_size, (flags.rows, flags.inputs)), jnp.int32
    ),
    'task_ids': jnp.asarray(rng.integers(0, len(TASKS), (flags.rows, 1)), jnp.int32),
  }
  # `True` and `False` have three pieces and EOS at most.
  labels = jnp.asarray([[10, 1, 0, 0], [11, 12, 13, 1]], jnp.int32)
  rank = jax.jit(model.rank)
  generate = jax.jit(model.predict, static_argnames='max_decode_length')

  def seconds(of):
    start = time.perf_counter()
    jax.block_until_ready(of())
    return time.perf_counter() - start

  ways = (
    lambda: generate(params, conditioning, batch, max_decode_length=flags.targets),
    lambda: rank(params, conditioning, batch, labels),
  )
  for way in ways:
    way()
  pairs = [[seconds(way) for way in ways] for _ in range(flags.pairs)]
  generating, ranking = (statistics.median(times) for times in zip(*pairs, strict=True))
  ratio = statistics.median(g / r for g, r in pairs)
  print(
    f'{flags.size}, {flags.rows} rows of {flags.inputs} tokens: {flags.targets} tokens '
    f'generated in {generating:.3f} s, two labels ranked in {ranking:.3f} s: {ratio:.1f} x'
  )


if __name__ == '__main__':
  main()
