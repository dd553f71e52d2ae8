"""The configuration in the folder of a training run."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.configuration import checks, recorded, static
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError, nearest

CONFIG_FILE = 'config.gin'
# The macros of a run, whose values come from its record.
_RECORD_FILE = 'runs/record.gin'


def composed(
  model_dir: str,
  run_file: str,
  files: Sequence[str],
  bindings: Sequence[str],
  *,
  trust_gin: bool = False,
  record: RecordedRun | None = None,
) -> tuple[list[str], list[str]]:
  """Returns the gin files and bindings of a verb that opens a run.

  The run's own gin is read only if the user trusts it; else the values of its record are.

  Args:
    model_dir: is the run's folder.
    run_file: is the verb's own gin file.
    files: are the user's further gin files.
    bindings: are the user's bindings.
    trust_gin: says whether the run's config.gin, which is code, may be run.
    record: is the record of the folder; None reads it there.

  Raises:
    UserError: if the folder is not that of a run.
  """
  if trust_gin:
    # The folder may have been moved since it was trained.
    own_place = f'MODEL_DIR={model_dir!r}'
    return [config_of(model_dir), run_file, *files], [own_place, *bindings]
  values = (record or record_of(model_dir)).bindings(model_dir)
  own = [f'{name}={value}' for name, value in _without_set(values, files).items()]
  return [_RECORD_FILE, run_file, *files], [*own, *bindings]


def _without_set(values: Mapping[str, str], files: Sequence[str]) -> dict[str, str]:
  """Returns a record's values without those that the user's own files set."""
  user = static.Configuration()
  for file in files:
    user.add_file(file)
  own_method = 'METHOD' in user.values
  return {
    name: value
    for name, value in values.items()
    if name not in user.values and not (own_method and name.startswith('methods.'))
  }


def check(
  model_dir: str,
  run_file: str,
  files: Sequence[str],
  bindings: Sequence[str],
  *,
  trust_gin: bool = False,
) -> None:
  """Finds the mistakes that are visible in a run's configuration and a verb's flags.

  The arguments are those of `composed`. A folder that is not on this machine is left to
  the verb itself: to reach it takes seconds.
  """
  if '://' not in model_dir:
    checks.check(*composed(model_dir, run_file, files, bindings, trust_gin=trust_gin))


def check_step(model_dir: str, step: str, choices: Sequence[str]) -> None:
  """Refuses a step of which a run on this machine has no checkpoint.

  Args:
    model_dir: is the folder. One without checkpoints of its own is left to the verb.
    step: is a number or one of the choices.
    choices: are the names of steps that the verb knows.

  Raises:
    UserError: if there is no such step.
  """
  folder = pathlib.Path(model_dir) / 'checkpoints'
  if step in choices or '://' in model_dir or not folder.is_dir():
    return
  steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
  if steps and step not in map(str, steps):
    raise no_such_step(step, steps, choices)


def no_such_step(step: str, steps: Sequence[int], choices: Sequence[str]) -> UserError:
  """Returns the error for a step of which there is no checkpoint.

  Args:
    step: is the step that was asked for.
    steps: are the steps of the checkpoints.
    choices: are the names of steps that the verb knows.
  """
  return UserError(
    f'--step={step}: there is no such checkpoint; there are '
    f'{", ".join(map(str, steps))}, {", ".join(choices[:-1])} and {choices[-1]}'
    f'{nearest(step, choices)}'
  )


def record_of(model_dir: str) -> RecordedRun:
  """Returns the record of a run.

  Raises:
    UserError: if the folder has none.
  """
  if record := recorded.read(model_dir):
    return record
  config_of(model_dir)  # raises an error where there is no run at all
  raise UserError(
    f'{model_dir} has no {recorded.FILE}, the record of a run: --trust_gin runs its '
    f'{CONFIG_FILE} in place of it, which is code and may import anything'
  )


def config_of(model_dir: str) -> str:
  """Returns the path of a run's configuration.

  Raises:
    UserError: if the folder has none.
  """
  parts = parts_of(model_dir)
  path = _path(model_dir) / CONFIG_FILE
  if [path.parent] == parts:
    return str(path)
  raise UserError(
    f'{model_dir} holds a run for each task: name one of {", ".join(map(str, parts))}'
  )


def parts_of(model_dir: str) -> list[Any]:
  """Returns the folders of the runs in a folder: itself, or one for each single task.

  Raises:
    UserError: if there is no run.
  """
  folder = _path(model_dir)
  if (folder / CONFIG_FILE).is_file():
    return [folder]
  if parts := sorted(part.parent for part in folder.glob(f'*/{CONFIG_FILE}')):
    return parts
  raise UserError(f'{model_dir} is no folder of a training run: it has no {CONFIG_FILE}')


def _path(model_dir: str) -> Any:
  if '://' in model_dir:
    from etils import epath

    return epath.Path(model_dir)
  return pathlib.Path(os.path.abspath(model_dir))
