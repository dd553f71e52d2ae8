"""Every macro of a run: one list for the help, the flags, the checks and `config`.

It imports neither JAX nor TensorFlow.
"""

import functools

from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.configuration.setting import Setting, Settings
from hyperprompt_jax.training import settings

GROUPS: tuple[type[Settings], ...] = (
  settings.CheckpointSettings,
  settings.DataSettings,
  settings.OptimisationSettings,
  settings.EvaluationSettings,
  settings.EarlyStopping,
  settings.InitialCheckpoint,
  settings.Retention,
  settings.LogSettings,
  ObjectSettings,
)


@functools.cache
def described() -> dict[str, Setting]:
  """Returns the descriptions of all settings, by macro."""
  return {
    setting.macro: setting for group in GROUPS for setting in group.described().values()
  }
