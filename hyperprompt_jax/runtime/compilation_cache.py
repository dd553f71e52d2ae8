"""A cache of compiled programs that outlives a command, within a bound."""

import hashlib
import os
import pathlib
import platform

# Older programs are deleted when a command starts and there are more bytes than this.
MAX_BYTES = 2 * 1024**3
# Programs that compile in less time are not kept. JAX's default of 1 s would leave out many
# that a small network needs.
MIN_COMPILE_SECONDS = 0.1
_MIN_SECONDS_VARIABLE = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'


def enable(folder: pathlib.Path | None = None, max_bytes: int = MAX_BYTES) -> None:
  """Lets JAX keep compiled programs in a folder of the user's, unless JAX has been told.

  JAX's own settings come first: JAX_COMPILATION_CACHE_DIR names another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.

  Args:
    folder: is the folder of the cache; None for one in the user's folder of caches.
    max_bytes: is the size to which the folder is cut.
  """
  import jax

  set_by_user, enabled = (
    jax.config.values[f'jax_{name}']
    for name in ('compilation_cache_dir', 'enable_compilation_cache')
  )
  if set_by_user or not enabled:
    return
  folder = folder or _default_folder()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    cut(folder, max_bytes)
  except OSError:  # a home that cannot be written
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  if _MIN_SECONDS_VARIABLE not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_COMPILE_SECONDS)


def cut(folder: pathlib.Path, max_bytes: int) -> None:
  """Deletes the oldest files of a folder until the rest have at most `max_bytes`.

  Another process may delete the same files meanwhile.
  """
  files = []
  for path in folder.iterdir():
    try:
      files.append((path.stat().st_mtime, path.stat().st_size, path))
    except FileNotFoundError:
      continue
  total = sum(size for _, size, _ in files)
  for _, size, path in sorted(files):
    if total <= max_bytes:
      return
    path.unlink(missing_ok=True)
    total -= size


def _default_folder() -> pathlib.Path:
  """Returns a folder for this kind of processor.

  A home may be shared by machines, and XLA compiles for the processor that it runs on.
  """
  caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  features = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
  kind = hashlib.sha256(f'{platform.machine()} {features}'.encode()).hexdigest()[:12]
  return pathlib.Path(caches) / 'hyperprompt' / 'compiled' / kind
