"""The configuration in the folder of a training run."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from hyperprompt_jax.configuration import static
from hyperprompt_jax.errors import UserError

CONFIG_FILE = 'config.gin'


def composed(
  model_dir: str, run_file: str, files: Sequence[str], bindings: Sequence[str]
) -> tuple[list[str], list[str]]:
  """Returns the gin files and bindings of a verb that opens a run.

  Args:
    model_dir: is the run's folder.
    run_file: is the verb's own gin file.
    files: are the user's further gin files.
    bindings: are the user's bindings.

  Raises:
    UserError: if the folder is not that of a run.
  """
  # The folder may have been moved since it was trained.
  own_place = f'MODEL_DIR={model_dir!r}'
  return [config_of(model_dir), run_file, *files], [own_place, *bindings]


def check(
  model_dir: str, run_file: str, files: Sequence[str], bindings: Sequence[str]
) -> None:
  """Finds the mistakes that are visible in a run's configuration and a verb's flags.

  The arguments are those of `composed`. A folder that is not on this machine is left to
  the verb itself: to reach it takes seconds.
  """
  if '://' not in model_dir:
    static.check(*composed(model_dir, run_file, files, bindings))


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
