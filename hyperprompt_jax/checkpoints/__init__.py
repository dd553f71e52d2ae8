"""Saving, restoring and choosing checkpoints; reading and writing those of others.

The names below are loaded when they are first used: reading a checkpoint alone needs
neither Orbax's manager nor TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from hyperprompt_jax.checkpoints.initial import Initial, open_initial
  from hyperprompt_jax.checkpoints.manager import (
    Checkpointer,
    TrainState,
    has_checkpoints,
  )
  from hyperprompt_jax.checkpoints.retention import AVERAGE

__all__ = [
  'AVERAGE',
  'Checkpointer',
  'Initial',
  'TrainState',
  'has_checkpoints',
  'open_initial',
]
_MODULES = {'Initial': 'initial', 'open_initial': 'initial', 'AVERAGE': 'retention'}


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = _MODULES.get(name, 'manager')
  return getattr(importlib.import_module(f'{__name__}.{module}'), name)
