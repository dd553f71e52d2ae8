"""Saving, restoring and choosing checkpoints; reading and writing those of others."""

from hyperprompt_jax.checkpoints.initial import Initial, InitialCheckpoint
from hyperprompt_jax.checkpoints.manager import (
  AVERAGE,
  Checkpointer,
  Retention,
  TrainState,
  has_checkpoints,
)

__all__ = [
  'AVERAGE',
  'Checkpointer',
  'Initial',
  'InitialCheckpoint',
  'Retention',
  'TrainState',
  'has_checkpoints',
]
