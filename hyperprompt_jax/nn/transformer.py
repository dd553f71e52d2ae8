"""T5's encoder-decoder, conditioned on tasks by any method.

Unrolled (`scan_layers=False`), the parameters of `encoder`, `decoder` and
`token_embedder` are those of T5X's `examples/t5/network.py` to the name, shape and
logical axis; the method's are under `method`. Axis letters: see `hyperprompt_jax.nn`.
"""

import jax.numpy as jnp
from flax import linen as nn

from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.insertion import Conditioning
from hyperprompt_jax.nn.layers import Embed
from hyperprompt_jax.nn.segments import Array, Segments
from hyperprompt_jax.nn.stacks import Decoder, Encoded, Encoder


class Transformer(nn.Module):
  """T5 with a method of task-conditioning.

  Attributes:
    config: holds the sizes and options of the network.
    method: is the module that makes the conditioning from the configuration, the number of
      tasks and the token embedding `[V, d]`; the Transformer only consumes it.
    num_tasks: is t, the length of the task list.
  """

  config: Config
  method: nn.Module
  num_tasks: int

  def setup(self):
    """Makes the embedding that encoder and decoder share, and the two stacks."""
    cfg = self.config
    self.token_embedder = Embed(cfg.vocab_size, cfg.emb_dim, dtype=cfg.activation_dtype)
    self.encoder = Encoder(cfg, self.token_embedder)
    self.decoder = Decoder(cfg, self.token_embedder)

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
      encoder_input_tokens: has shape `[B, K]`, int32; 0 is padding.
      decoder_input_tokens: are the targets shifted right, `[B, Q]` int32.
      decoder_target_tokens: has shape `[B, Q]`, int32; 0 is padding.
      task_ids: are the tasks of each row's segments, `[B, S]` int32.
      encoder_segment_ids: are the segments of packed rows, from 1, `[B, K]` int32.
      decoder_segment_ids: are the segments of packed rows, from 1, `[B, Q]` int32.
      enable_dropout: tells whether dropout is on; it takes the rng `dropout`.
      conditioning: replaces the conditioning that the method would make.

    Returns:
      `[B, Q, V]` float32.
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
      encoder_input_tokens: has shape `[B, K]`, int32; 0 is padding.
      task_ids: are the tasks of each row's segments, `[B, S]` int32.
      conditioning: is the result of `condition`.
      encoder_segment_ids: are the segments of packed rows, from 1, `[B, K]` int32.
      enable_dropout: tells whether dropout is on; it takes the rng `dropout`.
    """
    segments = Segments.from_tokens(
      task_ids,
      encoder_input_tokens,
      encoder_segment_ids,
      by_segment=conditioning.by_segment,
    )
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
      encoded: is the result of `encode`.
      decoder_input_tokens: are the targets shifted right, `[B, Q]` int32.
      decoder_target_tokens: has shape `[B, Q]`, int32; 0 is padding.
      task_ids: are the tasks of each row's segments, `[B, S]` int32.
      conditioning: is the result of `condition`.
      decoder_segment_ids: are the segments of packed rows, from 1, `[B, Q]` int32.
      enable_dropout: tells whether dropout is on; it takes the rng `dropout`.

    Returns:
      `[B, Q, V]` float32.
    """
    segments = Segments.from_tokens(
      task_ids,
      decoder_target_tokens,
      decoder_segment_ids,
      by_segment=conditioning.by_segment,
    )
    return self.decoder(
      encoded,
      decoder_input_tokens,
      segments,
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
    slots: Array | None = None,
  ) -> Array:
    """Logits of one position, from a cache of those before; call with mutable `cache`.

    The first call makes the caches; in it N is 1 and `ENCODER_CACHE` is mutable, too. It
    projects the encoder's keys and values once for all positions, and its logits belong to
    no position. Rows are not packed here.

    Args:
      encoded: is the result of `encode` for B rows; only the first call reads its
        activations.
      tokens: are the tokens at this position, `[B * N, 1]` int32; the N beams of a row
        follow one another.
      task_ids: is the task of each row, `[B * N, 1]` int32.
      conditioning: is the result of `condition`.
      decode_index: is the position, an int32 scalar.
      max_decode_length: is the length of the cache.
      slots: are those of a `DecodePosition`, if the beams of a row share its cache.

    Returns:
      `[B * N, V]` float32.
    """
    logits = self.decoder(
      encoded,
      tokens,
      Segments(task_ids, jnp.ones_like(tokens), conditioning.by_segment),
      conditioning.decoder,
      True,
      cache_length=max_decode_length,
      decode_index=decode_index,
      slots=slots,
    )
    return logits[:, 0]
