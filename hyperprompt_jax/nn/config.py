"""The network's configuration."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.errors import UserError, shown

# The name by which layers mark the arrays that are costly to recompute: those that depend
# on the other kept arrays by a matrix product.
SAVED = 'saved'
# The arrays that the backward pass may keep instead of recomputing them. `minimal` keeps
# the costly ones, so that no matrix product is computed twice; `full` keeps only each
# layer's input.
REMAT_POLICIES = {
  'none': None,
  'minimal': jax.checkpoint_policies.save_only_these_names(SAVED),
  'full': jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and options of the T5 encoder-decoder; the names are T5X's.

  Attributes:
    vocab_size: is V; it may exceed the vocabulary's own size (T5 rounds 32,100 to 32,128).
    emb_dim: is d, the width of the model.
    num_heads: is h.
    num_encoder_layers: is m of the encoder.
    num_decoder_layers: is m of the decoder.
    head_dim: is k, the width of a head.
    mlp_dim: is F, the width of the MLP.
    mlp_activations: is `('relu',)` for T5 1.0 and `('gelu', 'linear')` for T5 1.1.
    dropout_rate: is the rate of all dropouts.
    logits_via_embedding: tells whether the output layer is tied to the embedding (T5 1.0).
    scale_logits: tells whether logits are divided by sqrt(d). None does what T5X does: it
      divides where the output layer is tied to the embedding.
    position_bias_per_layer: tells whether each layer has a relative position bias of its
      own (umT5), in place of one for each stack.
    eos_id: is the token that ends a text: 1 for T5, 2 for MADLAD-400.
    dtype: is the dtype of activations; parameters, softmax, norms and loss are float32.
    scan_layers: tells whether one layer is compiled for a stack, with the parameters of all
      layers stacked along a leading axis `layers`. False gives each layer its own
      parameters, in the tree of T5X.
    remat_policy: is 'none', 'minimal' or 'full'; see REMAT_POLICIES.

  Raises:
    UserError: if a size, a rate, an activation, a dtype or a policy is invalid.
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
  scale_logits: bool | None = None
  position_bias_per_layer: bool = False
  eos_id: int = 1
  dtype: str = 'float32'
  scan_layers: bool = True
  remat_policy: str = 'none'

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
    for activation in self.mlp_activations:
      if activation != 'linear' and not callable(getattr(nn, activation, None)):
        raise UserError(
          f'Config.mlp_activations: {activation!r} is neither "linear" nor a function '
          'of flax.linen'
        )
    if self.dtype not in ('float32', 'bfloat16'):
      raise UserError(f"Config.dtype must be 'float32' or 'bfloat16', not {self.dtype!r}")

  @property
  def scales_logits(self) -> bool:
    """Whether logits are divided by sqrt(d)."""
    if self.scale_logits is None:
      return self.logits_via_embedding
    return self.scale_logits

  @property
  def activation_dtype(self) -> jnp.dtype:
    """`dtype` as a dtype."""
    return jnp.dtype(self.dtype)

  def check_vocabulary(self, vocabulary: Any) -> None:
    """Checks that a `seqio.Vocabulary` fits the network.

    Raises:
      UserError: if the embedding has too few rows for the ids, or EOS is another token.
    """
    if vocabulary.vocab_size > self.vocab_size:
      raise UserError(
        f'VOCABULARY has {vocabulary.vocab_size} ids but Config.vocab_size is '
        f'{self.vocab_size}: set config.Config.vocab_size to at least '
        f'{vocabulary.vocab_size}'
      )
    if vocabulary.eos_id != self.eos_id:
      raise UserError(
        f'VOCABULARY ends sequences with id {vocabulary.eos_id}, and the network '
        f'with {self.eos_id} (Config.eos_id): choose the vocabulary that the network was '
        'trained with'
      )
