"""All changes to other libraries' behaviour, and all uses of their private parts.

Each function names the library and its versions, a reproduction of the problem, the
measured gain, and the condition for its removal.
"""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import pathlib
import platform
import re
import resource
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# The numbers of these parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# A part of the paths of Orbax's source files.
_ORBAX = os.path.join('', 'orbax', 'checkpoint', '')


def limit_malloc_arenas(number: int = 2) -> None:
  """Limits glibc to a few memory arenas, where its default is eight for each core.

  Library: glibc, all versions. Memory that one of many threads frees stays in that thread's
  arena. Reproduction: `make endurance` with this call removed.
  Gain: 20,000 small steps grew by 83 MiB without it, and stay level with two arenas.
  Remove when: training uses another allocator. A `MALLOC_ARENA_MAX` of the user's wins.

  Args:
    number: is the number of arenas. `reuse_freed_memory` needs a single one, because the
      others cannot hold a block of more than 64 MiB.
  """
  if platform.libc_ver()[0] == 'glibc' and 'MALLOC_ARENA_MAX' not in os.environ:
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, number)


def reuse_freed_memory() -> None:
  """Keeps memory that a training step frees for the next step, with glibc on a CPU.

  Library: glibc, all versions. It returns a large block to the system when the block is
  freed, and the system clears each page of the next one. Memory that is kept can double,
  because other objects come to lie between two large blocks. It is therefore kept only if
  the process has used at most a third of the machine's memory so far, which is to be
  asked after a first step.
  Reproduction: `python -m benchmarks.speed --what 'train step'`.
  Gain: a step of Small on a busy machine had no page fault in place of 299,000, and took
  3.7 s of CPU in place of 6.9. The process held 3.9 GiB in place of 3.0, at Base 12.0 GiB
  in place of 5.9.
  Remove when: XLA keeps the memory of a program on CPUs from one run to the next.
  GLIBC_TUNABLES and MALLOC_ variables of the user's win.
  """
  is_set = any(name.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for name in os.environ)
  if platform.libc_ver()[0] != 'glibc' or is_set:
    return
  used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  if 3 * used <= _memory_bytes():
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never


def _memory_bytes() -> int:
  """Returns the memory of the machine, or of the container if that is less."""
  machine = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  try:
    limit = pathlib.Path('/sys/fs/cgroup/memory.max').read_text().strip()
  except OSError:
    return machine
  return min(machine, int(limit)) if limit.isdigit() else machine


@contextlib.contextmanager
def imports_without_collection() -> Iterator[None]:
  """Keeps Python's garbage collector away from imports, and from the objects they create.

  Library: CPython 3.11 to 3.13. Importing TensorFlow and JAX makes a million objects that
  live as long as the process, and every collection walks through all of them.
  Gain: the imports of `train` take 4.4 s of CPU in place of 5.3, a small run 20.7 s in
  place of 22.1 (four runs each, interleaved).
  Remove when: a start without it is not measurably slower.
  """
  was_enabled, modules_before = gc.isenabled(), len(sys.modules)
  gc.disable()
  try:
    yield
  finally:
    if len(sys.modules) > modules_before:  # a second call would freeze the caller's garbage
      gc.freeze()
    if was_enabled:
      gc.enable()


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
  """Postpones the import of Keras, while TensorFlow is imported, to its first use.

  Libraries: TensorFlow 2.21, which imports Keras at its end if it can; TensorFlow Text 2.21
  and TensorBoard 2.20, two modules of which define classes of Keras. None of that is used
  here, and Keras imports scikit-learn, SciPy and Matplotlib. `tf.keras` and those modules
  are there for all who use them.
  Reproduction: `python -c 'import seqio, sys; print("keras" in sys.modules)'`.
  Gain: the imports of `train` take 5.4 to 6.2 s of CPU on a busy machine in place of 6.5 to
  7.1 (interleaved), and 100 MiB less memory.
  Remove when: that command prints False.
  """
  if 'tensorflow' in sys.modules:
    yield
    return
  for name in ('tensorflow_text.python.keras', 'tensorboard.plugins.hparams.api'):
    sys.modules.setdefault(name, _Postponed(name))
  entries: Any = sys.modules  # None, which halts an import, is no module
  optimizers = 'keras.src.optimizers'
  halted = optimizers not in entries
  if halted:
    entries[optimizers] = None
  try:
    yield
  finally:
    if halted:
      del entries[optimizers]


class _Postponed(types.ModuleType):
  """Stands for a module that is imported when it is first used."""

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    if sys.modules.get(self.__name__) is self:
      del sys.modules[self.__name__]
    return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def without_tensorflow_notes() -> Iterator[None]:
  """Holds back standard error while TensorFlow is imported, and drops its notes.

  Library: TensorFlow 2.21. Its C++ code reports on import that there is no GPU, whatever
  `TF_CPP_MIN_LOG_LEVEL` says. Reproduction: `TF_CPP_MIN_LOG_LEVEL=3 python -c 'import
  tensorflow'`. All other lines are passed on.
  Gain: four lines less at every start on a machine without a GPU.
  Remove when: that command prints nothing.
  """
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(original, 2)
      os.close(original)
      captured.seek(0)
      for line in captured.read().decode('utf-8', 'replace').splitlines():
        if not re.match(r'WARNING: All log messages before absl|[IW]\d{4} ', line):
          print(line, file=sys.stderr)


def skip_tensorstore_metrics() -> None:
  """Keeps Orbax from asking TensorStore for its metrics at every save.

  Libraries: Orbax 0.12, TensorStore 0.1.86. Orbax only logs the metrics, and TensorStore
  never frees the lists that it returns. Reproduction: tools/tests/test_saving.py
  without this call.
  Gain: a tenth of a MiB for each checkpoint.
  Remove when: that test passes without it.
  """
  import tensorstore

  tensorstore.experimental_collect_matching_metrics = lambda *args, **kwargs: []


def silence_abandoned_reads() -> None:
  """Keeps Python's notes on reads that Orbax has abandoned off the terminal.

  Libraries: Orbax 0.12, asyncio of Python 3.11 to 3.13. When one of several reads fails,
  Orbax closes the event loop in which the others are running. They report that when they
  end or are collected, as late as the end of the process, so the filters stay in place.
  Reproduction: tools/tests/test_damage.py without this call.
  Gain: a damaged checkpoint is reported in one line, in place of up to 60.
  Remove when: that test passes without it.
  """
  if not isinstance(sys.unraisablehook, _UnraisableHook):
    sys.unraisablehook = _UnraisableHook(sys.unraisablehook)
    _silence_unawaited_reads()
  logging.getLogger('asyncio').addFilter(_is_not_abandoned_read)  # is added only once


def _silence_unawaited_reads() -> None:
  """Silences the warning about coroutines that were never awaited, for Orbax's alone."""
  # This is the function that Python calls: the warning itself does not name a source file.
  name = '_warn_unawaited_coroutine'
  warn = getattr(warnings, name, None)
  if warn:
    setattr(warnings, name, lambda task: None if _is_of_orbax(task) else warn(task))


def _is_of_orbax(coroutine: Any) -> bool:
  code = getattr(coroutine, 'cr_code', None)
  return code is not None and _ORBAX in code.co_filename


class _UnraisableHook:
  """Python's hook for exceptions that cannot be raised, without those of Orbax's reads.

  Args:
    other: handles all other exceptions.
  """

  def __init__(self, other: Callable[[Any], None]):
    self._other = other

  def __call__(self, unraisable: Any) -> None:
    first = unraisable.exc_traceback and unraisable.exc_traceback.tb_frame.f_code
    # TensorStore's threads call this function directly, without Python code in between.
    from_tensorstore = first and first.co_name == 'call_soon_threadsafe'
    closed = str(unraisable.exc_value) == 'Event loop is closed'
    if not _is_of_orbax(unraisable.object) and not (from_tensorstore and closed):
      self._other(unraisable)


def _is_not_abandoned_read(note: logging.LogRecord) -> bool:
  """Filters asyncio's notes, which quote a task's source file and its exception."""
  message = note.getMessage()
  return _ORBAX not in message and 'tensorstore' not in message.lower()


def set_gin_file_readers(readers: Sequence[tuple[Any, Callable[[str], bool]]]) -> None:
  """Replaces gin's readers of files, which it has no public way to remove.

  Library: gin-config 0.5. Its reader of package resources takes any folder of the working
  directory, `runs` say, for a package, and raises a TypeError. Reproduction: tests/cli
  with the folders `runs`, `models` and `methods` in the working directory.
  Gain: a run starts with any folders in the working directory.
  Remove when: gin ignores namespace packages, and offers a search order.

  Args:
    readers: are pairs of a context manager that opens a path, and a test of whether it can.
  """
  import gin

  gin.config._FILE_READERS[:] = readers


def gin_bindings() -> dict[tuple[str, str], dict[str, Any]]:
  """Returns gin's bindings: values of parameters, by scope and selector.

  Library: gin-config 0.5, which can print its bindings and query one by name, but not list
  them. They are only read. A macro's scope is its name.
  Remove when: gin lists them.
  """
  import gin

  return gin.config._CONFIG


def gin_function(selector: str) -> Callable[..., Any]:
  """Returns the function or class behind a selector, without gin's wrapper.

  Library: gin-config 0.5, whose wrapper of a class has the signature (*args, **kwargs).
  Remove when: gin has a public way.

  Args:
    selector: is a complete selector, or an unambiguous end of one.
  """
  import gin

  return gin.config._REGISTRY.get_match(selector).wrapped
