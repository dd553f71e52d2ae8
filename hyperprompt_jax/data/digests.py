"""Digests of a task's rows, its definition and the vocabulary, which give its examples.

The values that go into a digest are described as text. A function is described by its code,
by what it closes over, and by the functions of the same project that it calls, so that an
edited preprocessor is another one. What a function reads from elsewhere is not seen.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hyperprompt_jax.data.columns import digest_of
from hyperprompt_jax.runtime import files
from hyperprompt_tasks import sources, text_files, vocabulary

# Another form of the cache is another key.
_FORMAT = 1
_PACKAGES = ('hyperprompt_jax', 'seqio', 'tensorflow', 'tensorflow-text')
_INSTALLED = (
  os.path.dirname(os.path.dirname(seqio.__file__)),
  os.path.dirname(os.__file__),
)
_DEEPEST = 12


@dataclasses.dataclass(frozen=True)
class Identity:
  """Digests of everything that the examples of a task's split depend on.

  Attributes:
    rows: is a digest of the contents of the source.
    definition: is a digest of the preprocessors and features of the task.
    vocabulary: is a digest of the contents of the vocabularies.
    packages: is a digest of the versions of the packages that read and tokenize.
  """

  rows: str
  definition: str
  vocabulary: str
  packages: str

  @property
  def key(self) -> str:
    """A digest of them all."""
    return of_value(dataclasses.astuple(self))


def identity(
  task: seqio.Task, split: str, known: 'FileDigests', *, use_cached: bool, also: Any = None
) -> Identity:
  """Digests everything that the examples of a task's split depend on.

  Args:
    task: is the SeqIO task.
    split: names its split.
    known: keeps the digests of files.
    use_cached: says whether SeqIO's own cache of the task is read in place of its source.
    also: is whatever else decides how examples are made; it is part of the definition.
  """
  source = task._get_cached_source(split) if use_cached else task.source
  features = {
    name: (feature.add_eos, str(feature.dtype), feature.rank)
    for name, feature in task.output_features.items()
  }
  preprocessors = [_described(step, set(), 0) for step in task.preprocessors]
  return Identity(
    rows=_rows(source, split, known),
    definition=of_value((features, preprocessors, use_cached, also)),
    vocabulary=of_value(
      {
        name: known.vocabulary(feature.vocabulary)
        for name, feature in task.output_features.items()
      }
    ),
    packages=_packages(),
  )


class FileDigests:
  """Digests of vocabularies and files; a file is read once, as long as it stays as it is.

  Args:
    path: the file that they are kept in; None keeps none.
  """

  def __init__(self, path: str | None):
    self._path = path
    self._known: dict[str, list[Any]] = {}
    if path and os.path.isfile(path):
      try:
        with open(path, encoding='utf-8') as file:
          self._known = dict(json.load(file))
      except (OSError, ValueError):  # another version's, or damaged: files are read again
        self._known = {}
    self._changed = False
    # With the object itself, so that no other has its id.
    self._vocabularies: dict[int, tuple[Any, Any]] = {}

  def vocabulary(self, vocab: seqio.Vocabulary) -> Any:
    """Describes the parts of a vocabulary that decide its ids."""
    vocab = vocabulary.in_use(vocab)
    if id(vocab) not in self._vocabularies:
      self._vocabularies[id(vocab)] = vocab, _vocabulary(vocab)
    return self._vocabularies[id(vocab)][1]

  def digest(self, path: str) -> str:
    """The digest of a file's contents, or of its size where it is not on this machine."""
    if re.match(r'\w+://', path):
      status = tf.io.gfile.stat(path)
      return of_value((path, status.length, status.mtime_nsec))
    path = os.path.abspath(path)
    now = os.stat(path)
    signature = [now.st_size, now.st_mtime_ns, now.st_ino]
    if self._known.get(path, [])[:3] != signature:
      self._known[path] = [*signature, digest_of(path)]
      self._changed = True
    return self._known[path][3]

  def write(self) -> None:
    """Keeps the digests on disk; if they cannot be written, they are computed again."""
    if self._path and self._changed:
      try:
        files.write_whole(self._path, json.dumps(self._known))
      except OSError:
        return
      self._changed = False


def _rows(source: seqio.DataSource, split: str, known: FileDigests) -> str:
  """The digest of a split's rows: of their files, or of what is in memory, or of code."""
  if isinstance(source, text_files.TextSource):
    return source.digest(split)
  if paths := _paths(source, split):
    return of_value(
      [(os.path.basename(path), known.digest(path)) for path in sorted(paths)]
    )
  if isinstance(source, sources.ColumnSource) and source.in_memory:
    digest = hashlib.blake2b(digest_size=16)
    for part in _column_bytes(source.columns(split)):
      digest.update(part)
    return digest.hexdigest()
  return of_value((split, _described(vars(source), set(), 0)))


def _paths(source: seqio.DataSource, split: str) -> list[str]:
  """The files that a split is read from, if it is read from files alone."""
  paths = [str(path) for path in source.list_shards(split)]
  if paths == [split]:  # of a source without files, and no file of this folder
    return []
  reader = getattr(source, 'tfds_dataset', None)
  if reader is not None:
    paths = [os.path.join(str(reader.builder.data_dir), path) for path in paths]
  return paths if all(tf.io.gfile.exists(path) for path in paths) else []


def _column_bytes(columns: Mapping[str, Any]) -> Iterator[bytes]:
  for name, column in sorted(columns.items()):
    yield f'{name}:'.encode()
    if isinstance(column, Mapping):
      yield from _column_bytes(column)
      continue
    if isinstance(column, tf.RaggedTensor):
      yield column.row_lengths().numpy().tobytes()
      column = column.flat_values
    array = column.numpy()
    if array.dtype == object:
      yield np.array([len(text) for text in array.ravel()], np.int64).tobytes()
      yield b''.join(array.ravel().tolist())
    else:
      yield array.tobytes()


def _vocabulary(vocab: Any) -> Any:
  """The description of the parts of a vocabulary that decide its ids."""
  vocab = vocabulary.in_use(vocab)
  model = getattr(vocab, 'sp_model', None)
  if isinstance(model, bytes):
    contents: Any = hashlib.blake2b(model, digest_size=16).hexdigest()
  else:
    contents = {
      name: value
      for name, value in vars(vocab).items()
      if isinstance(value, str | int | float | bool | tuple)
    }
  return type(vocab).__qualname__, vocab.extra_ids, vocab.vocab_size, contents


@functools.cache
def _packages() -> str:
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return of_value((_FORMAT, sys.version_info[:2], versions))


def _described(value: Any, seen: set[int], depth: int) -> Any:
  """Describes a value as nested lists, the same in every process."""
  if value is None or isinstance(value, str | int | float | bool | bytes | complex):
    return repr(value)
  if depth > _DEEPEST or id(value) in seen:
    return 'above'
  inner = functools.partial(_described, seen={*seen, id(value)}, depth=depth + 1)
  if isinstance(value, Mapping):
    return sorted([str(inner(k)), inner(v)] for k, v in value.items())
  if isinstance(value, frozenset | set):
    return sorted(str(inner(x)) for x in value)
  if isinstance(value, list | tuple):
    return [inner(x) for x in value]
  if isinstance(value, functools.partial):
    return ['partial', inner(value.func), inner(value.args), inner(value.keywords)]
  if isinstance(value, types.CodeType):
    return [value.co_code.hex(), inner(value.co_consts), inner(value.co_names)]
  if isinstance(value, types.MethodType):
    return ['method', inner(value.__func__), inner(value.__self__)]
  if isinstance(value, types.FunctionType):
    return _function(value, inner)
  if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
    return [getattr(value, '__module__', ''), getattr(value, '__qualname__', str(value))]
  if isinstance(value, seqio.Vocabulary):
    return inner(_vocabulary(value))
  if isinstance(value, tf.Tensor | np.ndarray):
    return np.asarray(value).tolist().__repr__()
  state = getattr(value, '__dict__', {})
  return [type(value).__module__, type(value).__qualname__, inner(state)]


def _function(function: types.FunctionType, inner: Any) -> Any:
  name = [function.__module__, function.__qualname__]
  if _is_installed(function):
    return name  # the version of its package says which it is
  cells = []
  for cell in function.__closure__ or ():
    try:
      cells.append(inner(cell.cell_contents))
    except ValueError:  # not filled yet
      cells.append('empty')
  called = {
    word: inner(function.__globals__[word])
    for word in sorted(_names(function.__code__))
    if _is_of_a_project(function.__globals__.get(word))
  }
  return [name, inner(function.__code__), inner(function.__defaults__), cells, called]


def _names(code: types.CodeType) -> Iterable[str]:
  """The global names that code and the code within it use."""
  yield from code.co_names
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


def _is_installed(function: types.FunctionType) -> bool:
  file = os.path.abspath(function.__code__.co_filename)
  return file.startswith(_INSTALLED)


def _is_of_a_project(value: Any) -> bool:
  """Whether a global is code or a constant that a project's own files define."""
  if isinstance(value, str | int | float | bool | bytes | tuple | list | dict | frozenset):
    return True
  inner = inspect.unwrap(value) if callable(value) else value
  return isinstance(inner, types.FunctionType) and not _is_installed(inner)


def of_value(value: Any) -> str:
  """The digest of plain values, the same in every process."""
  text = json.dumps(value, sort_keys=True, default=str)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
