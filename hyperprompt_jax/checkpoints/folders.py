"""The kind of a folder: the one place that decides it, from the names of files alone."""

import dataclasses
import os
import re

from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.configuration.setting import LARGEST
from hyperprompt_jax.errors import UserError

HUGGING_FACE = 'Hugging Face'
BUNDLE = 'bundle'
ONNX = 'ONNX'
RUN = 'hyperprompt'
T5X = 'T5X'
T5X_ORBAX = 'T5X Orbax'

HUGGING_FACE_CONFIG = 'config.json'
# The first file of a bundle's parameters; the others have further numbers.
BUNDLE_PARAMETERS = 'parameters-00001.safetensors'
ONNX_ENCODER = 'encoder.onnx'
T5X_CHECKPOINT = 'checkpoint'
T5X_STATE = 'state'
ORBAX_FILE = '_METADATA'
CHECKPOINTS = 'checkpoints'

_KNOWN = (
  'a T5X checkpoint (checkpoint_1000000, with its file `checkpoint` or folder `state`), '
  'a Hugging Face folder (config.json), a MODEL_DIR of this project, or a bundle '
  f'({recorded.FILE} and {BUNDLE_PARAMETERS})'
)


@dataclasses.dataclass(frozen=True)
class Decided:
  """A folder and its kind.

  Attributes:
    kind: is one of the constants of this module.
    path: is the folder that was named.
    run: is the run's folder, or that of a bundle; None for the other kinds.
    step: is the number of the checkpoint, where a run's checkpoint was named itself.
  """

  kind: str
  path: str
  run: str | None = None
  step: int | None = None


def decide(path: str) -> Decided:
  """Decides the kind of a folder; none of its files is opened.

  A folder with the files of several kinds is the first of: Hugging Face, bundle, ONNX, a
  checkpoint of a run, run, T5X.

  Args:
    path: names a local folder, or `gs://…`, which is taken for a T5X checkpoint.

  Raises:
    UserError: if it is no folder, or of no kind; the message lists the kinds.
  """
  if '://' in path:
    return Decided(T5X, path)
  if not os.path.isdir(path):
    raise UserError(f'{path} is no folder: name {_KNOWN}')
  inside = lambda *names: os.path.join(path, *names)
  # The name is enough here: the reader refuses a pipe or a device, unopened.
  if os.path.lexists(inside(HUGGING_FACE_CONFIG)):
    return Decided(HUGGING_FACE, path)
  has_record = os.path.lexists(inside(recorded.FILE))
  if has_record and os.path.lexists(inside(BUNDLE_PARAMETERS)):
    return Decided(BUNDLE, path, run=path)
  if has_record and os.path.lexists(inside(ONNX_ENCODER)):
    return Decided(ONNX, path)
  absolute = os.path.abspath(path)
  if _is_step(os.path.basename(absolute)) and os.path.isdir(inside('params')):
    run = os.path.dirname(os.path.dirname(absolute))
    return Decided(RUN, path, run, int(os.path.basename(absolute)))
  if steps(path) or has_record:
    return Decided(RUN, path, path)
  if os.path.lexists(inside(T5X_CHECKPOINT)):
    return Decided(T5X, path)
  if os.path.lexists(inside(T5X_STATE, ORBAX_FILE)):
    return Decided(T5X_ORBAX, path)
  parts = sorted(
    name for name in os.listdir(path) if os.path.isfile(inside(name, recorded.FILE))
  )
  if parts:
    named = ', '.join(map(inside, parts))
    raise UserError(f'{path} holds a run for each task: name one of {named}')
  raise nothing(path, _hint(path))


def nothing(path: str, hint: str = '') -> UserError:
  """Returns the error for a folder that is none of these kinds."""
  return UserError(f'{path} is no checkpoint: name {_KNOWN}{hint}')


def is_bare(path: str) -> bool:
  """Whether a local folder is a checkpoint of T5X or Hugging Face, without tasks."""
  try:
    return '://' not in path and decide(path).run is None
  except UserError:
    return False


def steps(run: str) -> list[int]:
  """Returns the steps of a run's checkpoints, in ascending order."""
  folder = os.path.join(run, CHECKPOINTS)
  if not os.path.isdir(folder):
    return []
  for name in os.listdir(folder):
    check_step_name(os.path.join(folder, name))
  return sorted(int(name) for name in os.listdir(folder) if _is_step(name))


def check_step_name(path: str) -> None:
  """Checks a name among a run's steps which Orbax takes for a number.

  Other names, such as `copy of 2` or `007`, are left alone: they are no steps.

  Raises:
    UserError: if the name is a digit of another script, or a number that no step has.
  """
  name = os.path.basename(path)
  if name.isdigit() and (not name.isascii() or int(name[:20]) > LARGEST):
    raise UserError(f'{path} is the name of no step: move it out of the folder')


def _is_step(name: str) -> bool:
  return name.isdecimal() and name.isascii() and str(int(name[:20])) == name


def latest(decided: Decided) -> int:
  """Returns the step of a run's latest checkpoint.

  Raises:
    UserError: if it has none.
  """
  of_run = steps(decided.path)
  if not of_run:
    raise UserError(f'no checkpoint in {decided.path}')
  return of_run[-1]


def step_folder(run: str, step: int) -> str:
  """Returns the folder of a run's checkpoint."""
  return os.path.join(run, CHECKPOINTS, str(step))


def _hint(path: str) -> str:
  names = sorted(os.listdir(path))
  inside = [name for name in names if re.search(r'checkpoint_\d+$', name)]
  if inside:
    return f'; it has {", ".join(inside[:5])}: name one of them'
  weights = [name for name in names if name.endswith(('.safetensors', '.bin', '.index'))]
  return f'; it has {weights[0]} and no config.json' if weights else ''
