"""The cache of compiled programs: where it is, its bound, and who may set it otherwise."""

import os
import subprocess
import sys

from hyperprompt_jax.runtime import compilation_cache


def test_the_oldest_files_go_first(tmp_path):
  for age, name in enumerate(['new', 'middle', 'old']):
    (tmp_path / name).write_bytes(bytes(10))
    os.utime(tmp_path / name, (1000 - age, 1000 - age))
  compilation_cache.cut(tmp_path, 30)
  assert len(list(tmp_path.iterdir())) == 3
  compilation_cache.cut(tmp_path, 25)
  assert {path.name for path in tmp_path.iterdir()} == {'new', 'middle'}


def folder_of(**environment):
  code = (
    'import jax; from hyperprompt_jax.runtime import compilation_cache as c; c.enable()\n'
    "print(jax.config.values['jax_compilation_cache_dir'])"
  )
  clean = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  ended = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    env={**clean, **environment},
  )
  return ended.stdout.strip()


def test_the_cache_is_in_the_users_folder_unless_jax_is_told_otherwise(tmp_path):
  own = folder_of(XDG_CACHE_HOME=str(tmp_path))
  assert own.startswith(f'{tmp_path}/hyperprompt/compiled/') and os.path.isdir(own)
  other = str(tmp_path / 'other')
  assert folder_of(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=other) == other
  off = {'XDG_CACHE_HOME': str(tmp_path), 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
  assert folder_of(**off) == 'None'
