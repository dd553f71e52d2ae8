"""The encoder and the decoder of T5, with their layers.

Unrolled (`scan_layers=False`), their parameters are those of T5X's `examples/t5/network.py`
to the name, shape and logical axis. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen import partitioning as nn_partitioning
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.nn import backend, statistics
from hyperprompt_jax.nn.attention import ENCODER_CACHE, MultiHeadDotProductAttention
from hyperprompt_jax.nn.attention_inputs import DecodePosition
from hyperprompt_jax.nn.backend import (
  gather_positions,
  scatter_positions,
  spread_positions,
  with_scattered_gradient,
)
from hyperprompt_jax.nn.config import REMAT_POLICIES, SAVED, Config
from hyperprompt_jax.nn.insertion import (
  Conditioning,
  LayerConditioning,
  adapt,
  insert_input_prompts,
)
from hyperprompt_jax.nn.int8 import SCALES
from hyperprompt_jax.nn.layers import (
  Dense,
  Embed,
  LayerNorm,
  MlpBlock,
  RelativePositionBiases,
  broadcast_dropout,
)
from hyperprompt_jax.nn.segments import Array, Segments
from hyperprompt_jax.nn.stacking import STACK


@struct.dataclass
class Encoded:
  """The encoder's output.

  Attributes:
    activations: has shape `[B, K, d]` and the activations' dtype; K counts input prompts,
      too.
    segment_ids: holds the segment of each position, from 1, `[B, K]` int32; 0 is padding.
  """

  activations: Array
  segment_ids: Array


class Encoder(nn.Module):
  """A stack of encoder layers, and their relative position bias."""

  config: Config
  shared_embedding: Embed

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    segments: Segments,
    conditioning: Conditioning,
    deterministic: bool,
  ) -> Encoded:
    """Encodes `[B, P]` int32 tokens, and the input prompts before them."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)

    # Embedding, and input prompts before it.
    x = scatter_positions(self.shared_embedding(tokens))  # [B, P, d]
    if conditioning.input_prompts is not None:
      x, segments = insert_input_prompts(conditioning.input_prompts, segments, x)
    bias = None
    if not cfg.position_bias_per_layer:
      bias = _position_bias(cfg, x.shape[0], x.shape[1], bidirectional=True)
    x = dropout(x)

    # Layers.
    x = _apply_layers(
      EncoderLayer,
      {'config': cfg, 'deterministic': deterministic},
      cfg.num_encoder_layers,
      spread_positions(x),
      conditioning.encoder,
      segments,
      bias,
    )

    # Final norm. Unlike all other dropouts of T5X, this one is drawn for each position.
    x = LayerNorm(dtype=cfg.activation_dtype, name='encoder_norm')(x)
    x = nn.Dropout(cfg.dropout_rate, deterministic=deterministic)(x)
    # Every decoder layer needs all positions: they are gathered once.
    return Encoded(gather_positions(x), segments.ids)


class Decoder(nn.Module):
  """A stack of decoder layers, their relative position bias, and the output layer."""

  config: Config
  shared_embedding: Embed

  @nn.compact
  def __call__(
    self,
    encoded: Encoded,
    tokens: Array,
    segments: Segments,
    conditioning: LayerConditioning,
    deterministic: bool,
    cache_length: int | None = None,
    decode_index: Array | None = None,
    slots: Array | None = None,
  ) -> Array:
    """Logits `[B, Q, V]`, float32, of `[B, Q]` int32 tokens (Q = 1 while decoding)."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)

    # Embedding.
    bias = None
    if not cfg.position_bias_per_layer:
      length = tokens.shape[1] if cache_length is None else cache_length
      bias = _position_bias(
        cfg, tokens.shape[0], length, bidirectional=False, query_index=decode_index
      )
    x = dropout(scatter_positions(self.shared_embedding(tokens)))  # [B, Q, d]

    # Layers. A loop over them writes the caches of all layers in place. Beams that have
    # caches of their own move them between two steps: they would be copied once more.
    stay = slots is not None or tokens.shape[0] == encoded.segment_ids.shape[0]
    carries = cfg.scan_layers and self.has_variable('cache', STACK) and stay
    x = _apply_layers(
      DecoderLayer,
      {'config': cfg, 'deterministic': deterministic, 'cache_length': cache_length},
      cfg.num_decoder_layers,
      spread_positions(x),
      conditioning,
      segments,
      encoded,
      bias,
      None if decode_index is None else DecodePosition(decode_index, slots),
      carries=carries,
    )

    # Final norm and output layer.
    x = LayerNorm(dtype=cfg.activation_dtype, name='decoder_norm')(x)
    x = dropout(x)
    # In int8 a tied output layer has a kernel of its own.
    if cfg.logits_via_embedding and not self.has_variable(SCALES, 'logits_dense'):
      logits = self.shared_embedding.attend(x)
    else:
      x = x.astype(jnp.float32)
      logits = Dense(
        features=cfg.vocab_size, kernel_axes=('embed', 'vocab'), name='logits_dense'
      )(x, functools.partial(backend.output_product, x))
    # Keeps the logits of a tied layer at the scale of an untied one at initialisation.
    return logits / jnp.sqrt(float(cfg.emb_dim)) if cfg.scales_logits else logits


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each after a norm, with the layer's conditioning."""

  config: Config
  deterministic: bool

  @nn.compact
  def __call__(
    self,
    x: Array,
    conditioning: LayerConditioning,
    segments: Segments,
    bias: Array | None,
  ) -> tuple[Array, None]:
    """Maps `[B, P, d]` to the same shape, with one layer's conditioning `[t, ...]`."""
    cfg = self.config
    if bias is None:
      bias = _position_bias(cfg, x.shape[0], x.shape[1], bidirectional=True)
    norm = functools.partial(_norm, cfg)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)

    # Self-attention, to prompts and tokens.
    y = norm('pre_attention_layer_norm', x)
    y = _attention(cfg, self.deterministic, 'attention')(
      y, segments=segments, prompts=conditioning.prompts, bias=bias
    )
    y = adapt(conditioning.attention_adapter, segments, scatter_positions(y))
    x = checkpoint_name(x + dropout(y), SAVED)

    # MLP.
    y = norm('pre_mlp_layer_norm', x)
    y = _mlp(cfg, self.deterministic)(y)
    y = adapt(conditioning.mlp_adapter, segments, scatter_positions(y))
    x = x + dropout(y)
    return spread_positions(x), None


class DecoderLayer(nn.Module):
  """Causal self-attention, cross-attention to the encoder, and MLP, each after a norm."""

  config: Config
  deterministic: bool
  cache_length: int | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    conditioning: LayerConditioning,
    segments: Segments,
    encoded: Encoded,
    bias: Array | None,
    position: DecodePosition | None,
    layer: Array | None = None,
  ) -> tuple[Array, None]:
    """Maps `[B, Q, d]` to the same shape, with one layer's conditioning `[t, ...]`.

    While decoding in a loop over layers, `layer` is the number of the layer.
    """
    cfg = self.config
    if position is not None:
      position = position.replace(layer=layer)
    if bias is None:
      length = self.cache_length or x.shape[1]
      bias = _position_bias(
        cfg,
        x.shape[0],
        length,
        bidirectional=False,
        query_index=None if position is None else position.index,
      )
    norm = functools.partial(_norm, cfg)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)
    attention = functools.partial(
      _attention, cfg, self.deterministic, cache_length=self.cache_length
    )

    # Causal self-attention, to prompts and tokens.
    y = norm('pre_self_attention_layer_norm', x)
    y = attention('self_attention', causal=True)(
      y,
      segments=segments,
      prompts=conditioning.prompts,
      bias=bias,
      position=position,
    )
    y = adapt(conditioning.attention_adapter, segments, scatter_positions(y))
    x = checkpoint_name(x + dropout(y), SAVED)

    # Cross-attention, to the encoder's output.
    y = norm('pre_cross_attention_layer_norm', x)
    inputs = with_scattered_gradient(encoded.activations)
    y = attention('encoder_decoder_attention')(
      y, inputs, segments=segments, key_segments=encoded.segment_ids
    )
    x = checkpoint_name(x + dropout(scatter_positions(y)), SAVED)

    # MLP.
    y = norm('pre_mlp_layer_norm', x)
    y = _mlp(cfg, self.deterministic)(y)
    y = adapt(conditioning.mlp_adapter, segments, scatter_positions(y))
    x = x + dropout(y)
    return spread_positions(x), None


def _norm(config: Config, name: str, x: Array) -> Array:
  return gather_positions(LayerNorm(dtype=config.activation_dtype, name=name)(x))


def _attention(
  config: Config, deterministic: bool, name: str, **attributes: Any
) -> MultiHeadDotProductAttention:
  return MultiHeadDotProductAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    dropout_rate=0.0 if deterministic else config.dropout_rate,
    dtype=config.activation_dtype,
    name=name,
    **attributes,
  )


def _mlp(config: Config, deterministic: bool) -> MlpBlock:
  return MlpBlock(
    intermediate_dim=config.mlp_dim,
    activations=config.mlp_activations,
    dropout_rate=config.dropout_rate,
    deterministic=deterministic,
    dtype=config.activation_dtype,
    name='mlp',
  )


def _position_bias(
  config: Config,
  rows: int,
  length: int,
  *,
  bidirectional: bool,
  query_index: Array | None = None,
) -> Array:
  """The bias of self-attention in a stack or a layer, `[C, h, Q, K]`.

  It is called by a compact method.

  The kernel takes float32, in which the bias's gradients are summed over layers.
  """
  layout = None
  if query_index is None:
    layout = backend.kernel_layout(rows, config.num_heads, config.head_dim, length, length)
  return RelativePositionBiases(
    config.num_heads,
    bidirectional=bidirectional,
    dtype=jnp.float32 if layout else config.activation_dtype,
    name='relpos_bias',
  )(length, length, query_index, copies=layout.copies if layout else 1)


def _apply_layers(
  layer: type[nn.Module],
  attributes: dict[str, Any],
  num_layers: int,
  x: Array,
  conditioning: LayerConditioning,
  *shared: Any,
  carries: bool = False,
) -> Array:
  """Runs the layers of a stack, in a loop or unrolled; for a compact method.

  Args:
    layer: is the class of the layers.
    attributes: are the attributes of every layer. Its `config` tells whether to scan, and
      which arrays to recompute in the backward pass.
    num_layers: is m.
    x: has shape `[B, P, d]`.
    conditioning: is the stack's conditioning, `[m, t, ...]`; each layer is given its own.
    *shared: are further arguments, which all layers share.
    carries: tells whether a loop carries the caches of all layers, in place of giving each
      layer its own. Each layer then gets its number, as the last argument.

  Returns:
    `[B, P, d]`.
  """
  config = attributes['config']
  trains = not attributes['deterministic']
  loops = config.scan_layers and not (trains and backend.unrolls_training(config.emb_dim))
  if config.remat_policy != 'none':
    # Within a loop the loop itself keeps XLA from merging the two computations.
    layer = nn.remat(
      layer, policy=REMAT_POLICIES[config.remat_policy], prevent_cse=not loops
    )
  if config.scan_layers:
    numbers = (jnp.arange(num_layers),) if carries else ()
    stacked = ['params', SCALES, ENCODER_CACHE, statistics.COLLECTION]
    scanned = nn_partitioning.scan_with_axes(
      layer,
      variable_axes=dict.fromkeys(stacked if carries else [*stacked, 'cache'], 0),
      variable_carry='cache' if carries else False,
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, *(nn.broadcast for _ in shared), *(0 for _ in numbers)),
      length=num_layers,
      axis_name='layers',
      unroll=1 if loops else num_layers,
    )
    return scanned(**attributes, name=STACK)(x, conditioning, *shared, *numbers)[0]
  for index in range(num_layers):
    own = jax.tree.map(lambda leaf, i=index: leaf[i], conditioning)
    x, _ = layer(**attributes, name=f'{STACK}_{index}')(x, own, *shared)
  return x
