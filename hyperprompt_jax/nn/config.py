"""The network's configuration."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.errors import UserError, shown

# The name of what layers mark as costly: what is a product of matrices away from what
# else is kept.
SAVED = 'saved'
# What the backward pass may keep instead of computing again. `minimal` keeps what is
# costly, so that no product of matrices is worked out twice; `full` keeps only each
# layer's input.
REMAT_POLICIES = {
  'none': None,
  'minimal': jax.checkpoint_policies.save_only_these_names(SAVED),
  'full': jax.checkpoint_policies.nothing_saveable,
}

# Attention by a kernel or written out: by a kernel where there are TPUs and it fits the
# sizes; never; or by a kernel also where it has to be interpreted, which is for tests.
AUTO, PLAIN, FUSED = 'auto', 'plain', 'fused'


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and options of the T5 encoder-decoder; the names are T5X's.

  Attributes:
    vocab_size: v; may exceed the vocabulary's own size (T5 rounds 32,100 to 32,128).
    emb_dim: e.
    num_heads: h.
    num_encoder_layers: layers of the encoder.
    num_decoder_layers: layers of the decoder.
    head_dim: d.
    mlp_dim: f.
    mlp_activations: `('relu',)` for T5 1.0, `('gelu', 'linear')` for T5 1.1.
    dropout_rate: of all dropouts.
    logits_via_embedding: ties the output layer to the embedding (T5 1.0).
    dtype: of activations; parameters, softmax, norms and loss are float32.
    scan_layers: compiles one layer for a stack, its parameters stacked along a leading
      `layers` axis; False gives each layer its own, with the parameter tree of T5X.
    remat_policy: 'none', 'minimal' or 'full'; see REMAT_POLICIES.
    attention: 'auto' for `nn/fused_attention.py` on a TPU, 'plain' for attention that is
      written out, 'fused' for the kernel everywhere, interpreted where there is no TPU.

  Raises:
    UserError: for a size, an activation, a dtype or a policy that cannot be.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  dtype: str = 'float32'
  scan_layers: bool = True
  remat_policy: str = 'none'
  attention: str = AUTO

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (type(value) is not int or not 0 < value < 2**31):
        raise UserError(
          f'Config.{field.name} must be a positive integer of 32 bits, not {shown(value)}'
        )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise UserError(f'Config.dropout_rate must be in [0, 1), not {self.dropout_rate!r}')
    if self.remat_policy not in REMAT_POLICIES:
      raise UserError(
        f'Config.remat_policy {self.remat_policy!r} is unknown; it is one of '
        f'{", ".join(REMAT_POLICIES)}'
      )
    if self.attention not in (AUTO, PLAIN, FUSED):
      raise UserError(
        f'Config.attention {self.attention!r} is unknown; it is one of {AUTO}, {PLAIN}, '
        f'{FUSED}'
      )
    for activation in self.mlp_activations:
      if activation != 'linear' and not callable(getattr(nn, activation, None)):
        raise UserError(
          f'Config.mlp_activations: {activation!r} is neither "linear" nor a function '
          'of flax.linen'
        )
    if self.dtype not in ('float32', 'bfloat16'):
      raise UserError(f"Config.dtype must be 'float32' or 'bfloat16', not {self.dtype!r}")

  @property
  def activation_dtype(self) -> jnp.dtype:
    """`dtype` as a dtype."""
    return jnp.dtype(self.dtype)
