"""The `hyperprompt` command: one verb for each module that it runs."""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from hyperprompt_jax.runtime import libtpu

# What each verb does. The module of a verb bears its name, and is imported when the verb is
# run: the help must not wait for TensorFlow and JAX.
VERBS = {
  'demo': 'train on a built-in mixture on a CPU, in minutes',
  'train': 'train, evaluate and checkpoint; goes on where it stopped',
  'eval': 'evaluate checkpoints: one, all, or the best of each task',
  'infer': 'predictions for a JSONL file or a SeqIO task',
  'peek': 'attention on prompts, entropy, similarity of tasks, in pictures',
  'convert': 'checkpoints from and to T5X and Hugging Face',
  'plan': 'what a step needs on a TPU slice, without a TPU',
  'params': 'parameters of a model and of what a method adds',
}
# The others read data, and wait some seconds for it.
WITHOUT_TENSORFLOW = ('params',)

USAGE = 'usage: hyperprompt VERB [--help] [flags]\n\n' + '\n'.join(
  f'  {verb:8}{text}' for verb, text in VERBS.items()
)

# Of glibc's malloc.h.
_M_ARENA_MAX = -8

INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a verb; returns the exit status, 2 for a user's mistake."""
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  if not arguments or arguments[0] in ('-h', '--help'):
    print(USAGE)
    return 0 if arguments else 2
  verb, *rest = arguments
  if verb not in VERBS:
    return _mistake(f'there is no verb {verb!r}; there are {", ".join(VERBS)}')
  _keep_memory_together()
  _quieten_libraries()
  from hyperprompt_jax.runtime.interrupts import Interrupted

  try:
    with _collector_at_rest():
      if verb not in WITHOUT_TENSORFLOW:
        with _without_notes():
          import tensorflow  # noqa: F401
      module = importlib.import_module(f'hyperprompt_jax.cli.{verb}')
    try:
      module.main(rest)
      sys.stdout.flush()
      _wait_for_all()
    except _mistakes() as error:
      return _end(_mistake(str(error)))
    except Exception as error:
      hosts = _hosts()
      if not (hosts and hosts.describe()):
        raise
      hosts.end_if_lost(error)
      traceback.print_exc()
      return _end(1)
  except Interrupted as interrupted:
    return interrupted.exit_status
  except KeyboardInterrupt:
    return INTERRUPTED_STATUS
  except BrokenPipeError:
    # Who reads our output (`| head`) has had enough; Python must not write more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE_STATUS
  return 0


def _mistakes() -> tuple[type[Exception], ...]:
  """The errors of users' mistakes; those of tasks too, if the verb has imported them."""
  from hyperprompt_jax.errors import UserError

  tasks = sys.modules.get('hyperprompt_tasks')
  if tasks is None:
    return (UserError,)
  of_tasks = tasks.DataError, tasks.TaskError, tasks.UnknownNameError, tasks.VocabularyError
  return UserError, *of_tasks


def _mistake(message: str) -> int:
  # What gin appends says through which configurable the error came.
  own, *_ = message.split('\n  In call to ')
  hosts = _hosts()
  who = hosts.describe() if hosts else ''
  print(f'hyperprompt: {who}{own}', file=sys.stderr)
  return 2


def _end(status: int) -> int:
  """Ends one of several hosts at once: an orderly end would wait for the others."""
  hosts = _hosts()
  if hosts and hosts.describe():
    hosts.leave(status)
  return status


def _wait_for_all() -> None:
  """Waits for the other hosts here, where it can be told that one is lost."""
  hosts = _hosts()
  if hosts and hosts.describe():
    hosts.wait_for_all('the command has ended')


def _hosts() -> Any:
  """The module of several hosts, if the verb has imported it."""
  return sys.modules.get('hyperprompt_jax.runtime.distributed')


def _keep_memory_together() -> None:
  """Lets glibc have two arenas of memory, where it has eight for each core by default.

  What one of many threads frees is kept for its arena: a long run holds ever more.
  """
  if platform.libc_ver()[0] == 'glibc' and 'MALLOC_ARENA_MAX' not in os.environ:
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
  """Spares the garbage collector what is imported: a million objects, there for good.

  It walks through them again and again: a fifth of the time that importing takes.
  """
  enabled, loaded = gc.isenabled(), len(sys.modules)
  gc.disable()
  try:
    yield
  finally:
    if len(sys.modules) > loaded:  # else who calls this again freezes its own garbage
      gc.freeze()
    if enabled:
      gc.enable()


def _quieten_libraries() -> None:
  """Keeps libraries' notes off the terminal; their errors and our notes stay."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # Else TensorFlow takes the accelerators' memory that JAX needs.
  os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
  libtpu.prepare()
  handler = logging.StreamHandler()
  handler.addFilter(
    lambda record: (
      'hyperprompt' in record.pathname
      # Orbax raises what it logs, in tracebacks from several threads.
      or (record.levelno >= logging.ERROR and 'orbax' not in record.pathname)
    )
  )
  logging.basicConfig(level=logging.WARNING, handlers=[handler], format='%(message)s')


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
  """Holds standard error back, and lets through what is no note of TensorFlow's.

  On import it writes, from C++ and whatever the log level is, that it finds no GPU.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(kept, 2)
      os.close(kept)
      held.seek(0)
      for line in held.read().decode('utf-8', 'replace').splitlines():
        if not re.match(r'WARNING: All log messages before absl|[IW]\d{4} ', line):
          print(line, file=sys.stderr)
