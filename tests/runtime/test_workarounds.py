"""Memory that a training step frees is kept, and slow imports are postponed."""

import importlib
import platform
import subprocess
import sys

import pytest

from hyperprompt_jax.runtime import workarounds

FAULTS = """
import ctypes, resource
from hyperprompt_jax.runtime import workarounds
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 256 * 2**20

def share_of_new_pages():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = libc.malloc(size)
  libc.memset(block, 1, size)
  libc.free(block)
  faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
  return faults * resource.getpagesize() / size

share_of_new_pages()
MEMORY
workarounds.limit_malloc_arenas(1)
workarounds.reuse_freed_memory()
share_of_new_pages()
print(share_of_new_pages())
"""


# The workaround calls glibc's mallopt, and does nothing with another C library.
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other allocators differ')
@pytest.mark.parametrize(
  ('memory', 'variables', 'is_kept'),
  [
    (2**40, {}, True),
    (2**29, {}, False),  # a third of it is less than the block
    (2**40, {'MALLOC_TRIM_THRESHOLD_': '131072'}, False),  # the user's choice wins
  ],
)
def test_freed_memory_is_used_again(monkeypatch, memory, variables, is_kept):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  code = FAULTS.replace('MEMORY', f'workarounds._memory_bytes = lambda: {memory}')
  ended = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  share = float(ended.stdout)
  assert share < 0.01 if is_kept else share > 0.9


def test_a_postponed_module_is_imported_when_it_is_used(monkeypatch, tmp_path):
  (tmp_path / 'slow_module.py').write_text('answer = 42')
  monkeypatch.syspath_prepend(tmp_path)
  postponed = workarounds._Postponed('slow_module')
  monkeypatch.setitem(sys.modules, 'slow_module', postponed)
  assert not hasattr(postponed, '__path__')  # asking for what all modules have is no use
  assert sys.modules['slow_module'] is postponed
  assert postponed.answer == 42
  assert sys.modules['slow_module'].__file__ == str(tmp_path / 'slow_module.py')


def test_keras_is_halted_while_tensorflow_is_imported_and_not_after(monkeypatch):
  postponed = ('tensorflow_text.python.keras', 'tensorboard.plugins.hparams.api')
  for name in ('tensorflow', 'keras.src.optimizers', *postponed):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, name)
  with workarounds.without_keras(), pytest.raises(ImportError, match='halted'):
    importlib.import_module('keras.src.optimizers')
  assert 'keras.src.optimizers' not in sys.modules
  assert all(isinstance(sys.modules[name], workarounds._Postponed) for name in postponed)
