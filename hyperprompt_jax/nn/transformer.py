"""T5's encoder-decoder, conditioned on tasks by whatever method it is given.

Unrolled (`scan_layers=False`), the parameters of `encoder`, `decoder` and
`token_embedder` are those of T5X's `examples/t5/network.py` to the name, shape and
logical axis; the method's are under `method`. Axis letters: see `hyperprompt_jax.nn`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning

from hyperprompt_jax.nn.conditioning.base import Conditioning, Method
from hyperprompt_jax.nn.config import REMAT_POLICIES, Config
from hyperprompt_jax.nn.layers import (
  Array,
  DenseGeneral,
  Embed,
  LayerNorm,
  MlpBlock,
  MultiHeadDotProductAttention,
  Prompts,
  RelativePositionBiases,
  broadcast_dropout,
  with_sharding_constraint,
)

ACTIVATION_AXES = ('batch', 'length', 'embed')


def _attention(config: Config, deterministic: bool, name: str, **kwargs):
  return MultiHeadDotProductAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    dropout_rate=0.0 if deterministic else config.dropout_rate,
    dtype=config.activation_dtype,
    name=name,
    **kwargs,
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


class EncoderLayer(nn.Module):
  """Self-attention, with the layer's prompts, and MLP; each normalised before."""

  config: Config
  deterministic: bool

  @nn.compact
  def __call__(
    self, x: Array, prompts: Prompts | None, task_ids: Array, bias: Array, mask: Array
  ) -> tuple[Array, None]:
    """Maps `[b, k, e]` to the same; prompts are this layer's, `[t, p, h, d]`."""
    cfg = self.config
    norm = lambda name: LayerNorm(dtype=cfg.activation_dtype, name=name)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)

    y = norm('pre_attention_layer_norm')(x)
    y = _attention(cfg, self.deterministic, 'attention')(
      y, prompts=_select(prompts, task_ids), bias=bias, mask=mask
    )
    x = x + dropout(y)

    y = norm('pre_mlp_layer_norm')(x)
    y = _mlp(cfg, self.deterministic)(y)
    x = x + dropout(y)
    return with_sharding_constraint(x, ACTIVATION_AXES), None


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and MLP; each normalised before."""

  config: Config
  deterministic: bool
  cache_length: int | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    prompts: Prompts | None,
    task_ids: Array,
    encoded: Array,
    bias: Array,
    mask: Array | None,
    cross_mask: Array,
    decode_index: Array | None,
  ) -> tuple[Array, None]:
    """Maps `[b, q, e]` to the same; prompts are this layer's, `[t, p, h, d]`."""
    cfg = self.config
    norm = lambda name: LayerNorm(dtype=cfg.activation_dtype, name=name)
    dropout = broadcast_dropout(cfg.dropout_rate, self.deterministic)

    y = norm('pre_self_attention_layer_norm')(x)
    y = _attention(
      cfg, self.deterministic, 'self_attention', cache_length=self.cache_length
    )(
      y,
      prompts=_select(prompts, task_ids),
      bias=bias,
      mask=mask,
      decode_index=decode_index,
    )
    x = x + dropout(y)

    y = norm('pre_cross_attention_layer_norm')(x)
    y = _attention(
      cfg,
      self.deterministic,
      'encoder_decoder_attention',
      cache_length=self.cache_length,
    )(y, encoded, mask=cross_mask)
    x = x + dropout(y)

    y = norm('pre_mlp_layer_norm')(x)
    y = _mlp(cfg, self.deterministic)(y)
    x = x + dropout(y)
    return with_sharding_constraint(x, ACTIVATION_AXES), None


def _select(prompts: Prompts | None, task_ids: Array) -> Prompts | None:
  return None if prompts is None else prompts.select(task_ids)


def _apply_layers(
  layer: type[nn.Module],
  attributes: dict[str, Any],
  num_layers: int,
  x: Array,
  prompts: Prompts | None,
  *shared: Any,
) -> Array:
  """Runs the layers of a stack, scanned or unrolled; for a compact method.

  Args:
    layer: the layer's class.
    attributes: of every layer; `config` says whether to scan, and what to
      rematerialise.
    num_layers: m.
    x: `[b, length, e]`.
    prompts: `[m, t, p, h, d]` or None; each layer is given its own.
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
      variable_axes={'params': 0, 'cache': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, *(nn.broadcast for _ in shared)),
      length=num_layers,
      axis_name='layers',
    )
    return scanned(**attributes, name='layers')(x, prompts, *shared)[0]
  for index in range(num_layers):
    own = None if prompts is None else jax.tree.map(lambda leaf: leaf[index], prompts)  # noqa: B023
    x, _ = layer(**attributes, name=f'layers_{index}')(x, own, *shared)
  return x


class Encoder(nn.Module):
  """A stack of encoder layers under one relative position bias."""

  config: Config
  shared_embedding: Embed

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    task_ids: Array,
    mask: Array,
    prompts: Prompts | None,
    deterministic: bool,
  ) -> Array:
    """Encodes `[b, k]` int32 tokens as `[b, k, e]`."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)
    bias = RelativePositionBiases(
      cfg.num_heads, bidirectional=True, dtype=cfg.activation_dtype, name='relpos_bias'
    )(tokens.shape[1], tokens.shape[1])
    x = dropout(self.shared_embedding(tokens))
    x = _apply_layers(
      EncoderLayer,
      {'config': cfg, 'deterministic': deterministic},
      cfg.num_encoder_layers,
      with_sharding_constraint(x, ACTIVATION_AXES),
      prompts,
      task_ids,
      bias,
      mask,
    )
    x = LayerNorm(dtype=cfg.activation_dtype, name='encoder_norm')(x)
    # Unlike all the others, this dropout of T5X's is not shared by the positions.
    return nn.Dropout(cfg.dropout_rate, deterministic=deterministic)(x)


class Decoder(nn.Module):
  """A stack of decoder layers under one relative position bias, and the output layer."""

  config: Config
  shared_embedding: Embed

  @nn.compact
  def __call__(
    self,
    encoded: Array,
    tokens: Array,
    task_ids: Array,
    mask: Array | None,
    cross_mask: Array,
    prompts: Prompts | None,
    deterministic: bool,
    cache_length: int | None = None,
    decode_index: Array | None = None,
  ) -> Array:
    """Logits `[b, q, v]`, float32, of `[b, q]` int32 tokens (q = 1 while decoding)."""
    cfg = self.config
    dropout = broadcast_dropout(cfg.dropout_rate, deterministic)
    length = tokens.shape[1] if cache_length is None else cache_length
    bias = RelativePositionBiases(
      cfg.num_heads, bidirectional=False, dtype=cfg.activation_dtype, name='relpos_bias'
    )(length, length, query_index=decode_index)
    x = dropout(self.shared_embedding(tokens))
    x = _apply_layers(
      DecoderLayer,
      {'config': cfg, 'deterministic': deterministic, 'cache_length': cache_length},
      cfg.num_decoder_layers,
      with_sharding_constraint(x, ACTIVATION_AXES),
      prompts,
      task_ids,
      encoded,
      bias,
      mask,
      cross_mask,
      decode_index,
    )
    x = LayerNorm(dtype=cfg.activation_dtype, name='decoder_norm')(x)
    x = dropout(x)
    if cfg.logits_via_embedding:
      # Keeps logits at the scale of an untied output layer at initialisation.
      return self.shared_embedding.attend(x) / jnp.sqrt(float(cfg.emb_dim))
    return DenseGeneral(
      features=(cfg.vocab_size,), kernel_axes=('embed', 'vocab'), name='logits_dense'
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
    return self.method(self.config, self.num_tasks)

  def encode(
    self,
    encoder_input_tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    *,
    enable_dropout: bool,
  ) -> Array:
    """Encodes a batch.

    Args:
      encoder_input_tokens: `[b, k]` int32, 0 is padding.
      task_ids: `[b, s]` int32, the tasks of each row's segments.
      conditioning: from `condition`.
      enable_dropout: whether dropout is on; it takes the rng `dropout`.

    Returns:
      `[b, k, e]` in the activations' dtype.
    """
    valid = encoder_input_tokens > 0
    mask = (valid[:, :, None] & valid[:, None, :])[:, None]
    return self.encoder(
      encoder_input_tokens,
      task_ids,
      mask,
      conditioning.encoder_prompts,
      not enable_dropout,
    )

  def decode(
    self,
    encoded: Array,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    *,
    enable_dropout: bool,
  ) -> Array:
    """Logits of all target positions at once (teacher forcing).

    Args:
      encoded: `[b, k, e]`.
      encoder_input_tokens: `[b, k]` int32, for the mask.
      decoder_input_tokens: `[b, q]` int32, the targets shifted right.
      decoder_target_tokens: `[b, q]` int32, 0 is padding.
      task_ids: `[b, s]` int32.
      conditioning: from `condition`.
      enable_dropout: whether dropout is on.

    Returns:
      `[b, q, v]` float32.
    """
    valid = decoder_target_tokens > 0
    length = decoder_target_tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), jnp.bool_))
    mask = (valid[:, :, None] & valid[:, None, :] & causal)[:, None]
    cross_mask = (valid[:, :, None] & (encoder_input_tokens > 0)[:, None, :])[:, None]
    return self.decoder(
      encoded,
      decoder_input_tokens,
      task_ids,
      mask,
      cross_mask,
      conditioning.decoder_prompts,
      not enable_dropout,
    )

  def decode_step(
    self,
    encoded: Array,
    encoder_input_tokens: Array,
    tokens: Array,
    task_ids: Array,
    conditioning: Conditioning,
    decode_index: Array,
    *,
    max_decode_length: int,
  ) -> Array:
    """Logits of one position, by the cache of those before; call with mutable `cache`.

    The first call, with no cache, makes it, and projects the encoder's keys and values
    once and for all.

    Args:
      encoded: `[b, k, e]`; only read by the first call.
      encoder_input_tokens: `[b, k]` int32, for the mask.
      tokens: `[b, 1]` int32, the tokens at this position.
      task_ids: `[b, s]` int32.
      conditioning: from `condition`.
      decode_index: int32 scalar, the position.
      max_decode_length: length of the cache.

    Returns:
      `[b, v]` float32.
    """
    cross_mask = (encoder_input_tokens > 0)[:, None, None, :]
    logits = self.decoder(
      encoded,
      tokens,
      task_ids,
      None,
      cross_mask,
      conditioning.decoder_prompts,
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
    enable_dropout: bool = True,
    conditioning: Conditioning | None = None,
  ) -> Array:
    """Logits of a batch; see `encode` and `decode`.

    Args:
      encoder_input_tokens: `[b, k]` int32.
      decoder_input_tokens: `[b, q]` int32.
      decoder_target_tokens: `[b, q]` int32.
      task_ids: `[b, s]` int32.
      enable_dropout: whether dropout is on.
      conditioning: if given, used in place of what the method would make.

    Returns:
      `[b, q, v]` float32.
    """
    if conditioning is None:
      conditioning = self.condition()
    encoded = self.encode(
      encoder_input_tokens, task_ids, conditioning, enable_dropout=enable_dropout
    )
    return self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      task_ids,
      conditioning,
      enable_dropout=enable_dropout,
    )
