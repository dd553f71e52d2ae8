"""A run as data: `MODEL_DIR/run.json`, all that is needed to use a trained model.

Training writes the file, and the verbs that use a run read it in place of its gin files.
Nothing that it names is imported or called. This module imports neither JAX nor TensorFlow.
"""

import dataclasses
import importlib.metadata
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.configuration import macros, static
from hyperprompt_jax.errors import UserError, shown
from hyperprompt_jax.runtime import plain_json

FILE = 'run.json'
FORMAT = 1
# The vocabulary that needs no file.
BYTES = 'bytes'
# The name under which a SentencePiece model is copied, which Hugging Face's folders use.
VOCABULARY_FILE = 'spiece.model'
# A further number is that of the sentinels to add, where it is not T5's.
_VOCABULARY = re.compile(rf'{BYTES}|{re.escape(VOCABULARY_FILE)}(:\d{{1,6}})?')
_LARGEST_BYTES = 2**24
_METHOD = 'METHOD'
# Fields of config.Config that macros set in gin/runs/settings.gin.
_OF_CONFIG = {
  'config.Config.dtype': 'DTYPE',
  'config.Config.remat_policy': 'REMAT_POLICY',
  'config.Config.dropout_rate': 'DROPOUT_RATE',
}
# The place of a cache belongs to a machine, not to a run.
_OF_MACHINES = ('DATA_CACHE', 'DATA_CACHE_GIGABYTES', 'VOCABULARY')
# A record can set no other names in gin.
_IDENTITY = re.compile(r'METHOD|config\.Config\.\w+|methods\.\w+\.\w+')
GREEDY = 'greedy'
# The methods that a record may name.
METHODS = (
  'HoulsbyAdapter',
  'HyperFormer',
  'HyperPromptGlobal',
  'HyperPromptSep',
  'HyperPromptShare',
  'MultiTaskLearning',
  'PromptTuning',
  'SingleTask',
)
_DECODERS = (GREEDY, 'beam_search')


@dataclasses.dataclass(frozen=True)
class RecordedRun:
  """The record of a run; all values are JSON values.

  Attributes:
    network: describes network and method by gin names (see `checkpoints.identity`).
    settings: holds the settings of data, evaluation and losses, by macro.
    task_list: names the conditioned tasks in the order of their ids.
    tasks: describes each SeqIO task of the mixture: its `conditioned_task`, `labels`,
      `metrics` and `postprocessor`, by name.
    vocabulary: is 'bytes', or `spiece.model`, a SentencePiece model in the same folder;
      `spiece.model:N` has N sentinels.
    declarations: are the calls that register the user's own tasks.
    decoding: has the `name` of the decoder, and its options.
    folders: are folders of benchmarks' files on the machine that trained, by benchmark.
    trained: describes the parameters of a bundle: `step`, `scores` and the like.
  """

  network: Mapping[str, Any]
  settings: Mapping[str, Any]
  task_list: tuple[str, ...]
  tasks: Mapping[str, Mapping[str, Any]]
  vocabulary: str = BYTES
  declarations: Sequence[Mapping[str, Any]] = ()
  decoding: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {'name': GREEDY})
  folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _check(self)

  @property
  def lengths(self) -> dict[str, int]:
    """The lengths of `inputs` and `targets`, in tokens."""
    return dict(self.settings['TASK_FEATURE_LENGTHS'])

  def labels(self, task: str) -> tuple[str, ...] | None:
    """Returns the closed set of labels of a conditioned task, or None if it has none."""
    for described in self.tasks.values():
      if described.get('conditioned_task') == task and described.get('labels'):
        return tuple(described['labels'])
    return None

  def to_json(self) -> str:
    """Returns the contents of the file."""
    version = importlib.metadata.version('hyperprompt-jax')
    values = {'format': FORMAT, 'version': version, **dataclasses.asdict(self)}
    return json.dumps(values, indent=1) + '\n'

  def vocabulary_in(self, folder: str) -> str:
    """Returns the vocabulary by the name that VOCABULARY takes.

    Args:
      folder: is the folder that holds the record.
    """
    if self.vocabulary == BYTES:
      return BYTES
    return f'{folder.rstrip("/")}/{self.vocabulary}'

  def bindings(self, folder: str) -> dict[str, str]:
    """Returns gin bindings that make the run's network, data and evaluation again.

    Args:
      folder: is the folder that holds the record.
    """
    values: dict[str, Any] = {
      'MODEL_DIR': folder,
      'VOCABULARY': self.vocabulary_in(folder),
      **self.settings,
    }
    for name, value in self.network.items():
      if name == _METHOD:
        check_method(folder, value)
        values[name] = static.Reference(f'@methods.{value}()')
      else:
        given = tuple(value) if isinstance(value, list) else value
        values[_OF_CONFIG.get(name, name)] = given
    decoder = self.decoding['name']
    if decoder != GREEDY:
      values['model.Model.decode_fn'] = static.Reference(f'@decoding.{decoder}')
    for option in self.decoding.keys() - {'name'}:
      values[f'decoding.{decoder}.{option}'] = self.decoding[option]
    for benchmark, path in self.folders.items():
      if os.path.isdir(path) and benchmark.upper() not in os.environ:
        values[f'hyperprompt_tasks.{benchmark}.path'] = path
    return {name: repr(value) for name, value in values.items()}


def check_method(where: str, name: str) -> None:
  """Checks that a method is one of this package, so that its name is enough to make it.

  Raises:
    UserError: if it is not.
  """
  if name not in METHODS:
    raise UserError(
      f'{where} was trained with the method {name}, which is none of this package: '
      '--trust_gin runs its config.gin, which is code and may import anything'
    )


def settings_of(*groups: Any) -> dict[str, Any]:
  """Returns the values of groups of settings by macro, as far as they belong to a run."""
  return {
    setting.macro: _plain(getattr(group, field))
    for group in groups
    for field, setting in group.described().items()
    if setting.macro not in _OF_MACHINES
  }


def read(folder: str) -> RecordedRun | None:
  """Reads the record in a folder; None if there is none.

  Args:
    folder: names a local folder, or `gs://…`.

  Raises:
    UserError: if the file cannot be read, or holds no record.
  """
  path = f'{folder.rstrip("/")}/{FILE}'
  contents = _contents(path)
  if contents is None:
    return None
  try:
    value = plain_json.parse(contents)
    if not isinstance(value, dict):
      raise ValueError('expected an object')
    if value.get('format') != FORMAT:
      raise ValueError(f'format {shown(value.get("format"))}; expected {FORMAT}')
    names = {field.name for field in dataclasses.fields(RecordedRun)}
    given = {name: entry for name, entry in value.items() if name in names}
    given['task_list'] = tuple(given.get('task_list', ()))
    return RecordedRun(**given)
  except (ValueError, TypeError) as error:
    raise UserError(f'{path} is no record of a run: {error}') from error


def _contents(path: str) -> bytes | None:
  if '://' in path:
    from etils import epath

    remote = epath.Path(path)
    return remote.read_bytes() if remote.exists() else None
  if not os.path.lexists(path):
    return None
  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_BYTES:
      raise UserError(f'{path} is no regular file of at most {_LARGEST_BYTES:,} bytes')
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error


def _plain(value: Any) -> Any:
  return dict(value) if isinstance(value, Mapping) else value


def _check(run: RecordedRun) -> None:
  """Checks the kinds of all entries, and every name that a binding is made of.

  Raises:
    ValueError: if one is not as it should be.
  """
  for name in ('network', 'settings', 'tasks', 'decoding', 'folders', 'trained'):
    if not isinstance(getattr(run, name), Mapping):
      raise ValueError(f'{name} is no object')
  if not run.task_list or not all(isinstance(t, str) and t for t in run.task_list):
    raise ValueError('task_list is no list of names')
  for name in run.network:
    if not _IDENTITY.fullmatch(name):
      raise ValueError(f'network names {shown(name)}')
  method = run.network.get(_METHOD)
  if not isinstance(method, str) or not method.isidentifier():
    raise ValueError(f'METHOD is {shown(method)}')
  described = macros.described()
  for name, value in run.settings.items():
    if name not in described or name in _OF_MACHINES:
      raise ValueError(f'settings name {shown(name)}')
    described[name].check(value)
  if 'TASK_FEATURE_LENGTHS' not in run.settings:
    raise ValueError('settings lack TASK_FEATURE_LENGTHS')
  _check_decoding(run.decoding)
  _check_tasks(run)
  vocabulary = run.vocabulary
  if not isinstance(vocabulary, str) or not _VOCABULARY.fullmatch(vocabulary):
    raise ValueError(
      f'vocabulary is {shown(vocabulary)}; expected {BYTES} or {VOCABULARY_FILE}'
    )
  if not {*run.folders} <= {'super_glue_dir', 'glue_dir'} or not all(
    isinstance(path, str) for path in run.folders.values()
  ):
    raise ValueError('folders names other than super_glue_dir and glue_dir')


def _check_decoding(decoding: Mapping[str, Any]) -> None:
  name, *options = decoding or ('',)
  if name != 'name' or decoding[name] not in _DECODERS:
    raise ValueError(f'decoding is none of {", ".join(_DECODERS)}')
  for option in options:
    if option not in ('num_decodes', 'alpha') or type(decoding[option]) not in (int, float):
      raise ValueError(f'decoding has {shown(option)}')


def _check_tasks(run: RecordedRun) -> None:
  for name, described in run.tasks.items():
    labels = described.get('labels') if isinstance(described, Mapping) else 0
    if labels is not None and not (
      isinstance(labels, list) and labels and all(isinstance(x, str) for x in labels)
    ):
      raise ValueError(f'task {shown(name)} is not described by labels and metrics')
  if not isinstance(run.declarations, list | tuple) or not all(
    isinstance(declaration, Mapping) for declaration in run.declarations
  ):
    raise ValueError('declarations is no list of calls')
