"""Bundles: a run's record, parameters and vocabulary, without anything to train on."""

import dataclasses
import hashlib
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from hyperprompt_jax.checkpoints.formats.huggingface import in_shards, open_file, save_file
from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.checkpoints.storage import check_file
from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation.scores import scores_by_step
from hyperprompt_jax.runtime.metrics_file import METRICS_FILE, read_metrics

# The bytes of the arrays in one file.
_SHARD_BYTES = 5 * 10**9
_SHARD = re.compile(r'parameters-\d{5}\.safetensors')


def write(
  folder: pathlib.Path,
  run: str,
  record: RecordedRun,
  arrays: Mapping[str, LazyArray],
  step: int,
) -> Iterator[str]:
  """Writes a bundle.

  Args:
    folder: is the new folder.
    run: is the folder of the run, which has the vocabulary and the scores.
    record: is the run's record; paths of its machine are left out.
    arrays: are the parameters, by their paths in the unrolled network.
    step: is their training step.

  Yields:
    The path of each array that is done.

  Raises:
    OSError: if the folder cannot be written.
  """
  files = []
  for number, paths in enumerate(in_shards(arrays, _SHARD_BYTES), 1):
    tensors = {}
    for path in paths:
      tensors[path] = np.ascontiguousarray(arrays[path].read())
      yield path
    file = folder / f'parameters-{number:05d}.safetensors'
    save_file(tensors, file)
    files.append(file.name)
  describe(folder, run, record, step, files)


def describe(
  folder: pathlib.Path, run: str, record: RecordedRun, step: int, files: Iterable[str]
) -> None:
  """Writes the vocabulary, and a record that leaves out the paths of this machine.

  Args:
    folder: is the new folder.
    run: is the folder of the run, which has the vocabulary and the scores.
    record: is the run's record.
    step: is the training step of the parameters.
    files: are the names of the files of parameters, whose digests the record gets.
  """
  if record.vocabulary != recorded.BYTES:
    vocabulary = recorded.VOCABULARY_FILE
    shutil.copyfile(f'{run}/{vocabulary}', folder / vocabulary)
  digests = {name: _digest(folder / name) for name in files}
  made = {**trained(run, record, step), 'sha256': digests}
  described = dataclasses.replace(record, declarations=(), folders={}, trained=made)
  (folder / recorded.FILE).write_text(described.to_json(), encoding='utf-8')


def read(path: str) -> tuple[dict[str, LazyArray], RecordedRun]:
  """Opens the parameters of a bundle, and its record.

  Raises:
    UserError: if a file is missing, or differs from the one that was written.
  """
  record = recorded.read(path)
  assert record is not None  # it makes the folder a bundle
  arrays: dict[str, LazyArray] = {}
  for name in checked_files(path, record, _SHARD):
    arrays |= open_file(pathlib.Path(path) / name)
  return arrays, record


def checked_files(path: str, record: RecordedRun, names: re.Pattern[str]) -> list[str]:
  """Returns the names of the files of parameters that a record describes.

  Args:
    path: is the folder.
    record: is the record in it.
    names: is the pattern of the files' names.

  Raises:
    UserError: if a file is missing, or differs from the one that was written.
  """
  step, digests = record.trained.get('step'), record.trained.get('sha256')
  if type(step) is not int or not isinstance(digests, dict) or not digests:
    raise UserError(f'{path}/{recorded.FILE} does not describe the files beside it')
  for name, digest in digests.items():
    if not names.fullmatch(name):
      raise UserError(f'{path}/{recorded.FILE} names {name!r}, which is none of its files')
    file = pathlib.Path(path) / name
    check_file(str(file))
    if _digest(file) != digest:
      raise UserError(f'{file} is damaged: it is not what was written; get it again')
  return [*digests]


def _digest(file: pathlib.Path) -> str:
  with open(file, 'rb') as opened:
    return hashlib.file_digest(opened, 'sha256').hexdigest()


def trained(run: str, record: RecordedRun, step: int) -> dict[str, Any]:
  """Returns the step of parameters, and the scores of the step.

  Args:
    run: is the folder of the run, or a bundle, which has its own scores.
    record: is its record.
    step: is the training step.
  """
  if record.trained:
    scores = record.trained.get('scores', {})
  else:
    metrics = read_metrics(epath.Path(run) / METRICS_FILE)
    scores = scores_by_step(metrics).get(step, {})
  return {'step': step, 'scores': dict(scores)}
