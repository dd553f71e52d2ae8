"""The size that the checkpoint of a run's start gives, where no gin file gives one.

This module tells what is missing. `checkpoints.folder_settings` reads it in the checkpoint.
It imports neither JAX nor TensorFlow.
"""

from collections.abc import Mapping
from typing import Any

# A gin file that sets this parameter is one of a size.
SIZE = 'config.Config.emb_dim'
_SIZES = tuple(
  f'config.Config.{name}'
  for name in (
    'emb_dim',
    'head_dim',
    'mlp_dim',
    'num_decoder_layers',
    'num_encoder_layers',
    'num_heads',
    'vocab_size',
  )
)
# The macros that files of models/ set besides.
VOCABULARY, BOTTLENECK, TASK_EMBEDDING = 'VOCABULARY', 'BOTTLENECK_DIM', 'TASK_EMBED_DIM'
MACROS = (VOCABULARY, BOTTLENECK, TASK_EMBEDDING)


def missing(values: Mapping[str, Any], used_macros: set[str]) -> list[str]:
  """Returns the names that a file of models/ would set, and nothing sets.

  Args:
    values: holds the values of a configuration by name.
    used_macros: are the macros that some value refers to.
  """
  names = (*_SIZES, *(macro for macro in MACROS if macro in used_macros))
  return [name for name in names if name not in values]


def widths(emb_dim: int) -> dict[str, int]:
  """Returns the widths of the methods for a network, as the files of models/ set them.

  The bottleneck is about emb_dim / 32, and half of it from XL on. The width of task
  embeddings keeps the additions of HyperPrompt-Global near those that the authors state.

  Args:
    emb_dim: is the width of the network.
  """
  bottleneck = emb_dim // (32 if emb_dim < 2048 else 64)
  return {BOTTLENECK: max(8, bottleneck), TASK_EMBEDDING: 32 if emb_dim < 4096 else 14}
