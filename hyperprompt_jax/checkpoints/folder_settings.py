"""Gin bindings of a network's size and vocabulary, as the checkpoint of the start has them.

So `--init=FOLDER` is enough, and needs no gin file of a size.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from hyperprompt_jax.checkpoints.source import OF_RUNS, open_source
from hyperprompt_jax.configuration import checks, initial_size, run_folder, static
from hyperprompt_jax.errors import UserError

_NETWORK = 'config.Config.'


def completed(files: Sequence[str], bindings: Sequence[str]) -> list[str]:
  """Returns a run's bindings, with those that its initial checkpoint gives before them.

  A run that has begun has them in its own configuration, and the checkpoint is not opened.

  Args:
    files: are the gin files of the run.
    bindings: are the bindings of the command line.

  Raises:
    UserError: as `checks.check` does; or if the checkpoint cannot be read, or does not tell
      the vocabulary.
  """
  composed = checks.check(files, bindings)
  path = composed.size_from
  if path is None:
    return [*bindings]
  wanted = {
    name for name, value in composed.values.items() if isinstance(value, static.Promise)
  }
  values = _of_begun_run(composed, wanted) or settings(path)
  if initial_size.VOCABULARY in wanted and values.get(initial_size.VOCABULARY) is None:
    raise UserError(
      f'{path} does not tell its vocabulary: add --vocabulary= with the SentencePiece file '
      "that it was trained with, or 'bytes'"
    )
  own = [
    f'{name}={value!r}'
    for name, value in values.items()
    if name in wanted or (name.startswith(_NETWORK) and name not in composed.values)
  ]
  return [*own, *bindings]


def settings(path: str) -> dict[str, Any]:
  """Returns the settings that a checkpoint gives, by their names in gin.

  Args:
    path: names the checkpoint, as for `open_source`.

  Raises:
    UserError: if it cannot be read, or is no T5.
  """
  source = open_source(path)
  config = source.network()
  vocabulary = source.vocabulary
  if vocabulary is not None and os.path.exists(vocabulary):
    vocabulary = os.path.abspath(vocabulary)
  return {
    **{
      f'{_NETWORK}{field.name}': getattr(config, field.name)
      for field in dataclasses.fields(config)
      if field.name not in OF_RUNS
    },
    initial_size.VOCABULARY: vocabulary,
    **initial_size.widths(config.emb_dim),
  }


def _of_begun_run(
  composed: static.Configuration, wanted: set[str]
) -> Mapping[str, Any] | None:
  """Returns the settings in MODEL_DIR; None if no run has begun there."""
  model_dir = composed.values.get('MODEL_DIR')
  if not isinstance(model_dir, str):
    return None
  folder = epath.Path(model_dir)
  places = [folder / run_folder.CONFIG_FILE, *folder.glob(f'*/{run_folder.CONFIG_FILE}')]
  file = next((str(place) for place in places if place.is_file()), None)
  if file is None:
    return None
  begun = static.Configuration()
  begun.add_file(file)
  names = {name for name in begun.values if name.startswith(_NETWORK)}
  names -= {f'{_NETWORK}{name}' for name in OF_RUNS}
  if not wanted <= begun.values.keys():
    return None
  return {name: begun.resolved(name) for name in names | wanted}
