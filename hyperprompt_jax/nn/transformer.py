"""T5's encoder-decoder, conditioned on tasks by whatever method it is given.

Unrolled (`scan_layers=False`), the parameters of `encoder`, `decoder` and
`token_embedder` are those of T5X's `examples/t5/network.py` to the name, shape and
logical axis; the method's are under `method`. Axis letters: see `hyperprompt_jax.nn`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen import partitioning as nn_partitioning
from jax.ad_checkpoint import checkpoint_name

from hyperprompt_jax.methods.conditioning import Conditioning, LayerConditioning, Method
from hyperprompt_jax.nn import statistics
from hyperprompt_jax.nn.attention import ENCODER_CACHE, MultiHeadDotProductAttention
from hyperprompt_jax.nn.config import REMAT_POLICIES, SAVED, Config
from hyperprompt_jax.nn.fusion import Fusion
from hyperprompt_jax.nn.insertion import Mask, Segments, adapt, insert_input_prompts
from hyperprompt_jax.nn.layers import (
  Array,
  Dense,
  Embed,
  LayerNorm,
  MlpBlock,
  RelativePositionBiases,
  broadcast_dropout,
  gather_positions,
  scatter_positions,
  spread_positions,
)


def _attention(config: Config, deterministic: bool, name: str, **kwargs):
  return MultiHeadDotProductAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    dropout_rate=0.0 if deterministic else config.dropout_rate,
    dtype=config.activation_dtype,
    attention=config.attention,
    name=name,
    **kwargs,
  )


def _position_bias(
  config: Config,
  rows: int,
  length: int,
  *,
  bidirectional: bool,
  query_index: Array | None = None,
) -> Array:
  """The bias of a stack's self-attention, `[c, h, q, k]`, for a compact method.

  A kernel takes float32, in which the layers' gradients of it are summed.
  """
  sizes = (rows, config.num_heads, config.head_dim, length, length)
  fusion = Fusion.of(config.attention, *sizes) if query_index is None else None
  return RelativePositionBiases(
    config.num_heads,
    bidirectional=bidirectional,
    dtype=jnp.float32 if fusion else config.activation_dtype,
    name='relpos_bias',
  )(length, length, query_index, copies=fusion.copies if fusion else 1)


def _norm(config: Config, name: str, x: Array) -> Array:
  return gather_positions(LayerNorm(dtype=config.activation_dtype, name=name)(x))


def _mlp(config: Config, deterministic: bool) -> MlpBlock:
  return MlpBlock(
    intermediate_dim=config.mlp_dim,
    activations=config.mlp_activations,
    dropout_rate=config.dropout_rate,
    deterministic=deterministic,
    dtype=config.activation_dtype,
    name='mlp',
  )


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each normalised before, with what conditions the layer."""

  config: Config
  deterministic: bool

  @nn.compact
  def __call__(
    self,
    x: Array,
    conditioning: LayerConditioning,
    segments: Segments,
    bias: Array,
    mask: Mask,
  ) -> tuple[Array, None]:
    """Maps `[b, k, e]` to the same; the conditioning is this layer's, `[t, ...]`."""
    cfg = self.config
    norm = functools.partial(_norm, cfg)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)

    y = norm('pre_attention_layer_norm', x)
    y = _attention(cfg, self.deterministic, 'attention')(
      y, prompts=conditioning.prompts, segments=segments, bias=bias, mask=mask
    )
    y = adapt(conditioning.attention_adapter, segments, scatter_positions(y))
    x = checkpoint_name(x + dropout(y), SAVED)

    y = norm('pre_mlp_layer_norm', x)
    y = _mlp(cfg, self.deterministic)(y)
    y = adapt(conditioning.mlp_adapter, segments, scatter_positions(y))
    x = x + dropout(y)
    return spread_positions(x), None


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and MLP; each normalised before."""

  config: Config
  deterministic: bool
  cache_length: int | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    conditioning: LayerConditioning,
    segments: Segments,
    encoded: Array,
    bias: Array,
    mask: Mask | None,
    cross_mask: Mask,
    decode_index: Array | None,
  ) -> tuple[Array, None]:
    """Maps `[b, q, e]` to the same; the conditioning is this layer's, `[t, ...]`."""
    cfg = self.config
    norm = functools.partial(_norm, cfg)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)

    y = norm('pre_self_attention_layer_norm', x)
    y = _attention(
      cfg, self.deterministic, 'self_attention', cache_length=self.cache_length
    )(
      y,
      prompts=conditioning.prompts,
      segments=segments,
      bias=bias,
      mask=mask,
      decode_index=decode_index,
    )
    y = adapt(conditioning.attention_adapter, segments, scatter_positions(y))
    x = checkpoint_name(x + dropout(y), SAVED)

    y = norm('pre_cross_attention_layer_norm', x)
    y = _attention(
      cfg,
      self.deterministic,
      'encoder_decoder_attention',
      cache_length=self.cache_length,
    )(y, encoded, mask=cross_mask)
    x = checkpoint_name(x + dropout(scatter_positions(y)), SAVED)

    y = norm('pre_mlp_layer_norm', x)
    y = _mlp(cfg, self.deterministic)(y)
    y = adapt(conditioning.mlp_adapter, segments, scatter_positions(y))
    x = x + dropout(y)
    return spread_positions(x), None


def _apply_layers(
  layer: type[nn.Module],
  attributes: dict[str, Any],
  num_layers: int,
  x: Array,
  conditioning: LayerConditioning,
  *shared: Any,
) -> Array:
  """Runs the layers of a stack, scanned or unrolled; for a compact method.

  Args:
    layer: the layer's class.
    attributes: of every layer; `config` says whether to scan, and what to
      rematerialise.
    num_layers: m.
    x: `[b, length, e]`.
    conditioning: the stack's, `[m, t, ...]`; each layer is given its own.
    *shared: what all layers are given as it is.

  Returns:
    `[b, length, e]`.
  """
  config = attributes['config']
  if config.remat_policy != 'none':
    # Within a scan the loop itself keeps XLA from merging the two computations.
    layer = nn.remat(
      layer,
      policy=REMAT_POLICIES[config.remat_policy],
      prevent_cse=not config.scan_layers,
    )
  if config.scan_layers:
    scanned = nn_partitioning.scan_with_axes(
      layer,
      variable_axes=dict.fromkeys(
        ('params', 'cache', ENCODER_CACHE, statistics.COLLECTION), 0
      ),
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, *(nn.broadcast for _ in shared)),
      length=num_layers,
      axis_name='layers',
    )
    return scanned(**attributes, name='layers')(x, conditioning, *shared)[0]
  for index in range(num_layers):
    own = jax.tree.map(lambda leaf, i=index: leaf[i], conditioning)
    x, _ = layer(**attributes, name=f'layers_{index}')(x, own, *shared)
  return x


@struct.dataclass
class Encoded:
  """The encoder's output.

  Attributes:
    activations: `[b, k, e]` in the activations' dtype; k counts input prompts, too.
    segment_ids: segment of each position, from 1, `[b, k]` int32; 0 is padding.
  """

  activations: Array
  segment_ids: Array


class Encoder(nn.Module):
  """A stack of encoder layers under one relative position bias."""

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
    """Encodes `[b, k]` int32 tokens, and the input prompts before them."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)
    x = self.shared_embedding(tokens)
    if conditioning.input_prompts is not None:
      x, segments = insert_input_prompts(conditioning.input_prompts, segments, x)
    bias = _position_bias(cfg, x.shape[0], x.shape[1], bidirectional=True)
    x = dropout(x)
    x = _apply_layers(
      EncoderLayer,
      {'config': cfg, 'deterministic': deterministic},
      cfg.num_encoder_layers,
      spread_positions(x),
      conditioning.encoder,
      segments,
      bias,
      Mask.of(segments.ids, segments.ids),
    )
    x = LayerNorm(dtype=cfg.activation_dtype, name='encoder_norm')(x)
    # Unlike all the others, this dropout of T5X's is not shared by the positions.
    x = nn.Dropout(cfg.dropout_rate, deterministic=deterministic)(x)
    return Encoded(x, segments.ids)


class Decoder(nn.Module):
  """A stack of decoder layers under one relative position bias, and the output layer."""

  config: Config
  shared_embedding: Embed

  @nn.compact
  def __call__(
    self,
    encoded: Encoded,
    tokens: Array,
    segments: Segments,
    mask: Mask | None,
    conditioning: LayerConditioning,
    deterministic: bool,
    cache_length: int | None = None,
    decode_index: Array | None = None,
  ) -> Array:
    """Logits `[b, q, v]`, float32, of `[b, q]` int32 tokens (q = 1 while decoding)."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)
    length = tokens.shape[1] if cache_length is None else cache_length
    bias = _position_bias(
      cfg, tokens.shape[0], length, bidirectional=False, query_index=decode_index
    )
    x = dropout(self.shared_embedding(tokens))
    x = _apply_layers(
      DecoderLayer,
      {'config': cfg, 'deterministic': deterministic, 'cache_length': cache_length},
      cfg.num_decoder_layers,
      spread_positions(x),
      conditioning,
      segments,
      encoded.activations,
      bias,
      mask,
      # While decoding, the beams of a row are its queries.
      Mask.of(segments.ids.reshape(len(encoded.segment_ids), -1), encoded.segment_ids),
      decode_index,
    )
    x = LayerNorm(dtype=cfg.activation_dtype, name='decoder_norm')(x)
    x = dropout(x)
    if cfg.logits_via_embedding:
      # Keeps logits at the scale of an untied output layer at initialisation.
      return self.shared_embedding.attend(x) / jnp.sqrt(float(cfg.emb_dim))
    return Dense(
      features=cfg.vocab_size, kernel_axes=('embed', 'vocab'), name='logits_dense'
    )(x)


class Transformer(nn.Module):
  """T5 with a method of task-conditioning.

  Attributes:
    config: sizes and options.
    method: what makes the conditioning; the Transformer only consumes it.
    num_tasks: t, the length of the task list.
  """

  config: Config
  method: Method
  num_tasks: int

  def setup(self):
    """Makes the embedding that encoder and decoder share, and the two."""
    cfg = self.config
    self.token_embedder = Embed(cfg.vocab_size, cfg.emb_dim, dtype=cfg.activation_dtype)
    self.encoder = Encoder(cfg, self.token_embedder)
    self.decoder = Decoder(cfg, self.token_embedder)

  def condition(self) -> Conditioning:
    """The conditioning of all tasks: the hypernetworks run here and nowhere else."""
    return self.method(self.config, self.num_tasks, self.token_embedder.embedding)

  def encode(
    self,
    encoder_input_tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    *,
    encoder_segment_ids: Array | None = None,
    enable_dropout: bool,
  ) -> Encoded:
    """Encodes a batch.

    Args:
      encoder_input_tokens: `[b, k]` int32, 0 is padding.
      task_ids: `[b, s]` int32, the tasks of each row's segments.
      conditioning: from `condition`.
      encoder_segment_ids: of packed rows, `[b, k]` int32, from 1; 0 is padding.
      enable_dropout: whether dropout is on; it takes the rng `dropout`.
    """
    segments = Segments.of(task_ids, encoder_input_tokens, encoder_segment_ids)
    return self.encoder(encoder_input_tokens, segments, conditioning, not enable_dropout)

  def decode(
    self,
    encoded: Encoded,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    *,
    decoder_segment_ids: Array | None = None,
    enable_dropout: bool,
  ) -> Array:
    """Logits of all target positions at once (teacher forcing).

    Args:
      encoded: from `encode`.
      decoder_input_tokens: `[b, q]` int32, the targets shifted right.
      decoder_target_tokens: `[b, q]` int32, 0 is padding.
      task_ids: `[b, s]` int32.
      conditioning: from `condition`.
      decoder_segment_ids: of packed rows, `[b, q]` int32, from 1; 0 is padding.
      enable_dropout: whether dropout is on.

    Returns:
      `[b, q, v]` float32.
    """
    segments = Segments.of(task_ids, decoder_target_tokens, decoder_segment_ids)
    return self.decoder(
      encoded,
      decoder_input_tokens,
      segments,
      Mask.of(segments.ids, segments.ids, causal=True),
      conditioning.decoder,
      not enable_dropout,
    )

  def decode_step(
    self,
    encoded: Encoded,
    tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    decode_index: Array,
    *,
    max_decode_length: int,
  ) -> Array:
    """Logits of one position, by the cache of those before; call with mutable `cache`.

    The first call, in which `ENCODER_CACHE` is mutable, too, and n is 1, makes both: it
    projects the encoder's keys and values once and for all. Its logits are of no position.
    Rows are not packed here.

    Args:
      encoded: from `encode`, of b rows; its activations are only read by the first call.
      tokens: `[b * n, 1]` int32, the tokens at this position; n beams of a row follow one
        another.
      task_ids: `[b * n, 1]` int32.
      conditioning: from `condition`.
      decode_index: int32 scalar, the position.
      max_decode_length: length of the cache.

    Returns:
      `[b * n, v]` float32.
    """
    logits = self.decoder(
      encoded,
      tokens,
      Segments(task_ids, jnp.ones_like(tokens)),
      None,
      conditioning.decoder,
      True,
      cache_length=max_decode_length,
      decode_index=decode_index,
    )
    return logits[:, 0]

  def __call__(
    self,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    task_ids: Array,
    *,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
    conditioning: Conditioning | None = None,
  ) -> Array:
    """Logits of a batch; see `encode` and `decode`.

    Args:
      encoder_input_tokens: `[b, k]` int32.
      decoder_input_tokens: `[b, q]` int32.
      decoder_target_tokens: `[b, q]` int32.
      task_ids: `[b, s]` int32.
      encoder_segment_ids: of packed rows, `[b, k]` int32.
      decoder_segment_ids: of packed rows, `[b, q]` int32.
      enable_dropout: whether dropout is on.
      conditioning: if given, used in place of what the method would make.

    Returns:
      `[b, q, v]` float32.
    """
    if conditioning is None:
      conditioning = self.condition()
    encoded = self.encode(
      encoder_input_tokens,
      task_ids,
      conditioning,
      encoder_segment_ids=encoder_segment_ids,
      enable_dropout=enable_dropout,
    )
    return self.decode(
      encoded,
      decoder_input_tokens,
      decoder_target_tokens,
      task_ids,
      conditioning,
      decoder_segment_ids=decoder_segment_ids,
      enable_dropout=enable_dropout,
    )
