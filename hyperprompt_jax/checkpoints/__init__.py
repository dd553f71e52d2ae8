"""Saving, restoring and choosing checkpoints."""

from hyperprompt_jax.checkpoints.manager import (
  AVERAGE,
  Checkpointer,
  Retention,
  TrainState,
)

__all__ = ['AVERAGE', 'Checkpointer', 'Retention', 'TrainState']
