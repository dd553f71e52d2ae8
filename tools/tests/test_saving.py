"""Saving a checkpoint does not let memory grow."""

import contextlib
import dataclasses
import gc

import jax.numpy as jnp

from hyperprompt_jax.checkpoints import Checkpointer
from hyperprompt_jax.training.settings import Retention
from tools.reliability import files


def test_a_save_leaves_nothing_in_memory(tmp_path):
  data, state = files.Data(), files.made_state(1)
  with contextlib.closing(
    Checkpointer(str(tmp_path), files.TASKS, Retention(), {}, {'SEED': 0})
  ) as checkpointer:
    checkpointer.start(state, None)
    # What earlier tests left need not be walked through at each step.
    gc.collect()
    gc.freeze()
    lists = []
    for step in range(2, 10):
      checkpointer.save(dataclasses.replace(state, step=jnp.int32(step)), data)
      checkpointer.wait()
      gc.collect()
      lists.append(sum(type(x) is list for x in gc.get_objects()))
  # TensorStore's metrics would add 49 for each of five saves; Orbax keeps its last ten.
  assert lists[-1] - lists[2] < 5 * 10
