"""Products and sums whose gradients are written by hand, since XLA's own are slow on CPUs.

`backend` chooses them where they are faster. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import xla_metadata

from hyperprompt_jax.nn.segments import Array


@jax.custom_vjp
def transposing_product(x: Array, kernel: Array) -> Array:
  """`x` `[rows, inputs]` times a kernel `[inputs, outputs]`, on CPUs.

  The kernel's gradient is a sum over the rows of two matrices, which XLA computes by a slow
  library. Once `x` is transposed, XLA takes the library of other products.
  """
  return jnp.matmul(x, kernel)


@jax.jit
def _transposed(x: Array) -> Array:
  # The barrier keeps XLA from undoing the transposition.
  return jax.lax.optimization_barrier(x.T)


def product_and_inputs(x: Any, kernel: Any) -> tuple[Array, tuple[Array | None, ...]]:
  """The product, and those inputs that the wanted gradients need.

  A kernel that is not trained has no gradient, so that `x` is not kept for it.
  """
  kept = (x.value if kernel.perturbed else None, kernel.value if x.perturbed else None)
  return jnp.matmul(x.value, kernel.value), kept


def of_input(kernel: Array | None, gradient: Array) -> Array | None:
  """The gradient of a product's input, or None if the kernel was not kept for it."""
  return None if kernel is None else jnp.matmul(gradient, kernel.T)


def _gradients_of_product(
  kept: tuple[Array | None, ...], gradient: Array
) -> tuple[Array | None, ...]:
  x, kernel = kept
  of_x = of_input(kernel, gradient)
  if x is None:
    return of_x, None
  # XLA would take `x` out of a loop's stack and transpose it in one slow operation. Nothing
  # is fused into a function that is called.
  with xla_metadata.set_xla_metadata(inlineable='false'):
    transposed = _transposed(x)
  return of_x, jnp.matmul(transposed, gradient)


transposing_product.defvjp(product_and_inputs, _gradients_of_product, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeated(bias: Array, rows: int) -> Array:
  """Broadcasts `[1, h, Q, K]` to `[B, h, Q, K]`.

  XLA's own sum over the rows of the gradient takes a CPU as long as a matrix product.
  """
  return jnp.broadcast_to(bias, (rows, *bias.shape[1:]))


def _sum_of_rows(rows: int, _: None, gradient: Array) -> tuple[Array]:
  while rows > 1:
    half, odd = divmod(rows, 2)
    halves = gradient[:half] + gradient[half : 2 * half]
    gradient = jnp.concatenate([halves, gradient[-1:]]) if odd else halves
    rows = half + odd
  return (gradient,)


repeated.defvjp(lambda bias, rows: (repeated(bias, rows), None), _sum_of_rows)
