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
  folder: Any = pathlib.Path(os.path.abspath(model_dir))
  if '://' in model_dir:
    from etils import epath

    folder = epath.Path(model_dir)
  path = folder / CONFIG_FILE
  if path.is_file():
    return str(path)
  if parts := sorted(str(part.parent) for part in folder.glob(f'*/{CONFIG_FILE}')):
    raise UserError(
      f'{model_dir} holds a run for each task: name one of {", ".join(parts)}'
    )
  raise UserError(f'{model_dir} is no folder of a training run: it has no {CONFIG_FILE}')
