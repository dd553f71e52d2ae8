"""Saving, restoring and choosing checkpoints; reading and writing those of others."""

from hyperprompt_jax.checkpoints.initial import Initial, open_initial
from hyperprompt_jax.checkpoints.manager import Checkpointer, TrainState, has_checkpoints
from hyperprompt_jax.checkpoints.retention import AVERAGE

__all__ = [
  'AVERAGE',
  'Checkpointer',
  'Initial',
  'TrainState',
  'has_checkpoints',
  'open_initial',
]
