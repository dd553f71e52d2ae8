"""Pure Flax: the T5 network and the methods that condition it on tasks.

Axis legend, used in every einsum and docstring of the project (the paper's letter, where
it has one, in brackets):

  b batch rows               s segments of a row (1 unless rows are packed)
  q query length             k key length (tokens)
  p prompt length [l]        e model width, "embed" [d]
  h heads [h]                d head width, "kv" [k]
  f MLP width                v vocabulary
  m layers of a stack [m]    t tasks [t]
  r bottleneck [b]           z task-embedding width [e]
  n adapter positions of a layer

Parameters carry T5X's logical axis names (`embed mlp heads kv joined_kv vocab
relpos_buckets layers`) and ours (`tasks prompt bottleneck task_embed positions`);
activations `batch length` besides.
"""
