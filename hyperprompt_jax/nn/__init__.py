"""The T5 network in pure Flax: no SeqIO, no gin, no files, no TensorFlow.

To read the forward pass from the top: `transformer` (the network), `stacks` (encoder,
decoder and their layers), `multi_head_attention` (projections, dropout, cache),
`attention` (the equation), `segments` (which keys a query sees). `insertion` holds the
prompts and adapters that a method gives to the network, `layers` the other layers of T5.
`backend` chooses between operations that are written differently for CPUs and TPUs, such
as `fused_attention`, the TPU's kernel, and `joined_heads`, its products for a few queries.

Legend of axes, for every einsum, docstring and comment of `nn` and of the methods. Lower
case is an axis of parameters, upper case an axis of data.

  m  layers of a stack           B  rows of a batch
  t  tasks                       S  segments of a packed row (1 unless rows are packed)
  l  prompt length               Q  queries
  d  model width                 K  keys
  h  heads                       P  positions, of either stack
  k  head width                  V  vocabulary
  b  bottleneck                  F  MLP width
  e  task-embedding width        N  candidates of a row: beams or labels
  r  relative-position buckets   C  copies: groups of devices with rows of their own
                                 A  adapter positions of a layer (HyperFormer++)

`h * k` is one axis on which the heads stand side by side, as in T5X's `joined_kv`.

The letters m, t, l, d, h, k, b and e are the paper's; it has none for r and for the axes
of data. T5X has other letters in its einsums, and names in its logical axes:

  here   T5X's einsum   T5X's logical axis
  B      b              batch
  Q, K   q, k           length
  h, k   h, d           heads, kv
  d      -              embed
  r      -              relpos_buckets
  m      -              layers
  V, F   -              vocab, mlp

V and F are upper case in parameters, too. Our own logical axes are `tasks` (t), `prompt`
(l), `bottleneck` (b), `task_embed` (e) and `positions` (A).
"""
