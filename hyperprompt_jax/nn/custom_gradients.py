"""Products and sums whose gradients are written by hand, since XLA's own are slower.

`backend` chooses them where they are faster. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
import math
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


# GELU by tanh: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, as in T5X.
_RATE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _RATE


def gelu_and_slope(x: Array) -> tuple[Array, Array]:
  """GELU and its derivative, in float32.

  With p = (1 + tanh u) / 2, the derivative of p is 2 p (1 - p) u'. It takes half of the
  operations of JAX's derivative.
  """
  x = x.astype(jnp.float32)
  square = x * x
  p = 0.5 + 0.5 * jnp.tanh(x * (_RATE + _CUBIC * square))
  gelu = x * p
  return gelu, p + gelu * (1 - p) * (2 * _RATE + 6 * _CUBIC * square)


@jax.custom_vjp
def gated_product(gate: Array, linear: Array, scale: Array, kernel: Array) -> Array:
  """The last product of a gated MLP: `(gelu(gate) * linear * scale) @ kernel`, `[B, P, d]`.

  The barrier of the gradients makes a TPU write the gradients of both branches, and the
  hidden layer again, as it computes the product that they depend on. Without it, GELU is
  computed again within each of the five products that read them.

  Args:
    gate: has shape `[B, P, F]`.
    linear: has the shape and dtype of `gate`.
    scale: is that of dropout, which broadcasts to `gate`, float32; it has no gradient.
    kernel: has shape `[F, d]`.
  """
  return jnp.matmul(_hidden(gate, linear, scale), kernel)


def _hidden(gate: Array, linear: Array, scale: Array) -> Array:
  gelu, _ = gelu_and_slope(gate)
  return (gelu * linear.astype(jnp.float32) * scale).astype(gate.dtype)


def _gated_product_forward(
  gate: Any, linear: Any, scale: Any, kernel: Any
) -> tuple[Array, tuple[Any, ...]]:
  inputs = (gate.value, linear.value, scale.value, kernel.value)
  # A kernel that is not trained has no gradient. The residuals tell it by their structure.
  return gated_product(*inputs), (*inputs, () if kernel.perturbed else None)


def _gradients_of_gated_product(
  kept: tuple[Any, ...], gradient: Array
) -> tuple[Array | None, ...]:
  gate, linear, scale, kernel, is_trained = kept
  of_hidden = jnp.matmul(gradient, kernel.T).astype(jnp.float32) * scale
  gelu, slope = gelu_and_slope(gate)
  of_gate = (of_hidden * linear.astype(jnp.float32) * slope).astype(gate.dtype)
  of_linear = (of_hidden * gelu).astype(gate.dtype)
  if is_trained is None:
    return *jax.lax.optimization_barrier((of_gate, of_linear)), None, None
  hidden = _hidden(gate, linear, scale)
  *of_branches, hidden = jax.lax.optimization_barrier((of_gate, of_linear, hidden))
  return *of_branches, None, jnp.einsum('BPF,BPd->Fd', hidden, gradient)


gated_product.defvjp(
  _gated_product_forward, _gradients_of_gated_product, symbolic_zeros=True
)


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
