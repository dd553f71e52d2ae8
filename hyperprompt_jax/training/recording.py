"""The record of a run, `MODEL_DIR/run.json`, and the vocabulary's file beside it."""

import contextlib
import functools
import inspect
from typing import Any

from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints.identity import description_of
from hyperprompt_jax.configuration import bindings, recorded
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.model import Model
from hyperprompt_jax.runtime.files import write_whole
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings


def record_of(
  model: Model, data: DataSettings, evaluation: EvaluationSettings
) -> RecordedRun:
  """Describes a run by JSON values.

  Args:
    model: is the network that is trained.
    data: describes the mixture, its lengths and batches.
    evaluation: sets how much is evaluated, and how.
  """
  name = data.mixture_or_task_name
  losses = {'Z_LOSS': model.z_loss, 'LABEL_SMOOTHING': model.label_smoothing}
  directories = {
    'super_glue_dir': hyperprompt_tasks.super_glue_dir(),
    'glue_dir': hyperprompt_tasks.glue_dir(),
  }
  return RecordedRun(
    network=description_of(model),
    settings={**recorded.settings_of(data, evaluation), **losses},
    task_list=tuple(model.task_list),
    tasks=hyperprompt_tasks.describe_tasks(name),
    vocabulary=_vocabulary(data.vocabulary),
    declarations=hyperprompt_tasks.declarations(name),
    decoding=_decoding(model.decode_fn),
    folders={name: path for name, path in directories.items() if path},
  )


def _vocabulary(name: str) -> str:
  """Returns the name of a vocabulary's copy in the run's folder."""
  if name == recorded.BYTES or hyperprompt_tasks.is_bytes(name):
    return recorded.BYTES
  _, sentinels = hyperprompt_tasks.vocabulary_file(name)
  is_usual = sentinels == hyperprompt_tasks.EXTRA_IDS
  return recorded.VOCABULARY_FILE + ('' if is_usual else f':{sentinels}')


def write(record: RecordedRun, model_dir: str, vocabulary: str) -> None:
  """Writes a record, and a copy of its vocabulary, into a run's folder.

  Args:
    record: is the record.
    model_dir: is the run's folder.
    vocabulary: is the vocabulary by the name that VOCABULARY has.

  Raises:
    OSError: if the folder cannot be written.
  """
  folder = epath.Path(model_dir)
  if record.vocabulary != recorded.BYTES:
    file, _ = hyperprompt_tasks.vocabulary_file(vocabulary)
    copy, contents = folder / recorded.VOCABULARY_FILE, epath.Path(file).read_bytes()
    if not copy.exists() or copy.read_bytes() != contents:
      write_whole(copy, contents)
  write_whole(folder / recorded.FILE, record.to_json())


def _decoding(decode_fn: Any) -> dict[str, Any]:
  """Describes a decoder by its name and options."""
  options: dict[str, Any] = {}
  while isinstance(decode_fn, functools.partial):
    options = {**decode_fn.keywords, **options}
    decode_fn = decode_fn.func
  name = decode_fn.__name__
  for option in inspect.signature(decode_fn).parameters:
    with contextlib.suppress(ValueError):  # gin binds nothing to it
      options.setdefault(option, bindings.parameter(f'decoding.{name}.{option}'))
  return {'name': name, **options}
