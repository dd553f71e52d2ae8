"""The inputs of attention: queries, and the prompts and tokens that they attend to.

One struct for attention that is written out (`attention`), for the TPU's kernel
(`fused_attention`) and for the decoding cache. Heads stay side by side on one axis,
`h * k`, until logits are made: a TPU would pad axes of their own to its tiles, and move
them. Axis letters: see `hyperprompt_jax.nn`.
"""

from flax import struct

from hyperprompt_jax.nn.segments import Array

# The logit of a key that a query does not see. It is finite, so that a query that sees
# none (a padding query) gets uniform weights instead of NaN.
MASKED_LOGIT = -1e10


class Keys(struct.PyTreeNode):
  """Keys and values that queries attend to: a row's tokens, or the prompts before them.

  Attributes:
    key: has shape `[B, K, h * k]`.
    value: has shape `[B, K, h * k]`.
    segments: holds the segment whose queries see each key (`segments.sees`), `[B, K]`
      int32.
    value_scale: holds the factor by which dropout multiplies each value, `[B, K, h]`
      float32; None is for no dropout.
  """

  key: Array
  value: Array
  segments: Array
  value_scale: Array | None = None


class AttentionInputs(struct.PyTreeNode):
  """The inputs of one layer's attention.

  Attributes:
    query: has shape `[B, Q, h * k]`.
    query_segments: holds the segment of each query, `[B, Q]` int32; 0 is padding.
    tokens: holds the keys and values of the tokens, `[B, K, h * k]`.
    prompts: holds the prompts of each row, `[B, S * l, h * k]`; None is for no prompts.
    bias: is added to the logits of tokens, `[C, h, Q, K]`; prompts take zero bias.
    first_query: is the index among the keys at which the first query of causal attention
      stands, an int32 scalar; None is 0.
    visible: tells which tokens each query sees, `[B, Q, K]` bool, in place of segments and
      order; None is for these.
    head_dim: is the width of a head, k.
    causal: tells whether a query sees no later tokens. Prompts come before all tokens.
  """

  query: Array
  query_segments: Array
  tokens: Keys
  prompts: Keys | None = None
  bias: Array | None = None
  first_query: Array | None = None
  visible: Array | None = None
  head_dim: int = struct.field(pytree_node=False, kw_only=True)
  causal: bool = struct.field(pytree_node=False, default=False)

  @property
  def num_heads(self) -> int:
    """The number of heads h."""
    return self.query.shape[-1] // self.head_dim


class DecodePosition(struct.PyTreeNode):
  """The position of a decoded token, and its place in the caches.

  Attributes:
    index: is the position, an int32 scalar.
    slots: names the slot in which each candidate's past has each position, `[B * N, P]`
      int32. The cache of a row has N slots for each position, side by side, and candidate n
      writes slot n. None is for candidates that have a cache each.
    layer: is the number of the layer, an int32 scalar, if the cache is that of all layers
      of a stack; else None.
  """

  index: Array
  slots: Array | None = None
  layer: Array | None = None
