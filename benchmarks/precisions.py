"""Products of Small's shapes on a CPU in float32, bfloat16 and int8, compiled by XLA.

    taskset -c 0 python -m benchmarks.precisions

Eight rows of 128 tokens are encoded, and eight rows are decoded by one token. An int8
product multiplies bytes into 32-bit integers; rounding activations, which it would need as
well, is left out. Results are microseconds of CPU time, the best of interleaved repeats, in
`benchmarks/results/precisions.json`.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results

# Rows, width and columns of a product.
SHAPES = {
  'attention of the encoder': (1024, 512, 384),
  'MLP of the encoder': (1024, 512, 1024),
  'MLP of a step of decoding': (8, 512, 1024),
  'output layer of a step of decoding': (8, 512, 32128),
}
# The dtypes of the operands and of the result.
PRECISIONS = {
  'float32': (jnp.float32, jnp.float32),
  'bfloat16': (jnp.bfloat16, jnp.bfloat16),
  'int8': (jnp.int8, jnp.int32),
}


def main(arguments: Sequence[str]) -> None:
  """Measures into results/precisions.json."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=20)
  repeats = parser.parse_args(arguments).repeats
  measured = {name: microseconds(*shape, repeats) for name, shape in SHAPES.items()}
  for name, by_precision in measured.items():
    print(f'{name}: {by_precision}', file=sys.stderr)
  results.write('precisions', measured)


def microseconds(rows: int, width: int, columns: int, repeats: int) -> dict[str, float]:
  """Returns the least CPU time of a product, by precision."""
  rng = np.random.default_rng(0)
  products = {}
  for name, (dtype, result) in PRECISIONS.items():
    draw = lambda *shape, dtype=dtype: jnp.asarray(rng.integers(-99, 99, shape), dtype)
    multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=result))
    products[name] = functools.partial(multiply, draw(rows, width), draw(width, columns))
  times: dict[str, list[float]] = {name: [] for name in products}
  for repeat in range(repeats + 1):
    for name, product in products.items():
      start = time.process_time()
      product().block_until_ready()
      if repeat:  # the first compiles
        times[name].append(time.process_time() - start)
  return {name: 1e6 * min(seconds) for name, seconds in times.items()}


if __name__ == '__main__':
  main(sys.argv[1:])
