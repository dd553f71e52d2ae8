"""The `hyperprompt` command: one verb for each module that it runs.

A verb's module has `parse`, which returns the parsed words and imports neither TensorFlow
nor JAX; `NEEDS`, the modules that the verb is about to use; and `run`.
"""

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import hyperprompt_jax
from hyperprompt_jax.cli import advice
from hyperprompt_jax.errors import Interrupted, UserError
from hyperprompt_jax.runtime import compilation_cache, libtpu, temporary, workarounds

# The purpose of each verb, whose module bears its name.
VERBS = {
  'demo': 'HyperPrompt and multi-task learning on tasks in conflict, in minutes',
  'train': 'train, evaluate and checkpoint; goes on where it stopped',
  'eval': 'evaluate checkpoints: one, all, or the best of each task',
  'infer': 'answers for a file of questions or a SeqIO task',
  'serve': 'answers over HTTP; tasks share batches, checkpoints change while it runs',
  'report': 'one HTML page about runs: curves, tables, predictions, settings',
  'peek': 'attention on prompts, entropy, similarity of tasks, in pictures',
  'convert': 'checkpoints from and to T5X and Hugging Face',
  'plan': 'what a step needs on a TPU slice, without a TPU',
  'params': 'parameters of a model and of what a method adds',
  'config': 'every setting, a resolved configuration, or how two runs differ',
  'data': 'the cache of examples; the batch of a step in words',
  'completion': 'a script that completes commands in bash and zsh',
}

TRAINING_VERBS = ('train',)

USAGE = '\n'.join(
  (
    'usage: hyperprompt VERB [--help] [flags]',
    '       hyperprompt --version',
    '',
    *(f'  {verb:12}{text}' for verb, text in VERBS.items()),
    '',
    'exit status:',
    '  0    success',
    '  1    a failure that may pass, such as a lost host: start the same command again',
    '  2    a mistake or a loss that is not finite: do not restart, change something',
    '  130  ended by Ctrl-C, 143 by SIGTERM; training has saved its state: start it again',
  )
)

# The files by which programs reach the GPUs of NVIDIA and AMD.
_GPU_FILES = ('/dev/nvidia0', '/dev/kfd')
INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a verb; returns the exit status, 2 for a user's mistake."""
  _open_closed_streams()
  output: Any = _Output(sys.stdout)
  with contextlib.redirect_stdout(output):
    try:
      own_process = arguments is None
      status = _main(sys.argv[1:] if own_process else list(arguments or ()), own_process)
      sys.stdout.flush()
      return status
    except BrokenPipeError:
      # The reader of our output (`| head`) has closed it.
      output.discard()
      return BROKEN_PIPE_STATUS
    except UserError as error:
      return _mistake(str(error))


class _Output:
  """Standard output, whose failure is the user's error.

  Args:
    stream: is standard output, or a stream in its place.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes a text."""
    with self._checked():
      return self._stream.write(text)

  def flush(self) -> None:
    """Writes the buffered text."""
    with self._checked():
      self._stream.flush()

  def discard(self) -> None:
    """Leads the stream nowhere: Python would write the rest at its own end, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

  @contextlib.contextmanager
  def _checked(self) -> Iterator[None]:
    try:
      yield
    except BrokenPipeError:
      raise
    except OSError as error:
      self.discard()
      reason = error.strerror or str(error)
      raise UserError(f'standard output cannot be written: {reason}') from error


def _main(arguments: Sequence[str], own_process: bool) -> int:
  """Runs a verb, or prints the usage or the version; returns the exit status."""
  if not arguments or arguments[0] in ('-h', '--help'):
    print(USAGE)
    return 0 if arguments else 2
  verb, *rest = arguments
  if verb == '--version':
    print(f'hyperprompt {hyperprompt_jax.__version__}')
    return 0
  if verb not in VERBS:
    return _mistake(unknown_verb(verb))
  reuses_memory = verb in TRAINING_VERBS and _runs_on_cpu()
  workarounds.limit_malloc_arenas(1 if reuses_memory else 2)
  _quieten_libraries()
  if own_process:
    temporary.use_own_folder()
  try:
    return _run(verb, rest)
  except Interrupted as interrupted:
    return interrupted.exit_status
  except KeyboardInterrupt:
    return INTERRUPTED_STATUS


def _open_closed_streams() -> None:
  """Opens the standard streams that the caller has closed, onto nothing.

  Otherwise the first file that a library opened would become standard output.
  """
  for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
    if getattr(sys, name) is None:
      opened = os.open(os.devnull, os.O_RDWR)
      if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
      mode = 'w' if descriptor else 'r'
      setattr(sys, name, os.fdopen(descriptor, mode, encoding='utf-8'))


def unknown_verb(verb: str) -> str:
  """Returns the message about a verb that does not exist."""
  hint = advice.for_verb(verb, VERBS)
  return f'there is no verb {verb!r}{hint}; there are {", ".join(VERBS)}'


def _run(verb: str, words: Sequence[str]) -> int:
  """Parses a verb's words, imports its module, and runs it."""
  module = importlib.import_module(f'hyperprompt_jax.cli.{verb}')
  try:
    parsed = module.parse(words)
    _load(parsed.needs or module.NEEDS)
    with _memory_explained():
      module.run(parsed)
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
  return 0


@contextlib.contextmanager
def _memory_explained() -> Iterator[None]:
  """Turns a lack of memory into one line, unless the verb has done so."""
  if 'jax' not in sys.modules:
    yield
    return
  from hyperprompt_jax.runtime import memory

  with memory.explained(
    'lower BATCH_SIZE or TASK_FEATURE_LENGTHS, or raise NUM_PARTITIONS, which spreads the '
    'model over devices'
  ):
    yield


def _load(names: Sequence[str]) -> None:
  """Imports modules, after the arguments have been parsed: they take seconds."""
  with workarounds.imports_without_collection():
    for name in names:
      if name == 'tensorflow':
        with workarounds.without_tensorflow_notes(), workarounds.without_keras():
          importlib.import_module(name)
      else:
        importlib.import_module(name)
  if 'jax' in sys.modules:
    compilation_cache.enable()


def _runs_on_cpu() -> bool:
  """Returns whether JAX will use a CPU, as far as can be told before it is imported."""
  if platforms := os.environ.get('JAX_PLATFORMS'):
    return platforms.split(',')[0] == 'cpu'
  return not (libtpu.has_tpu() or any(map(os.path.exists, _GPU_FILES)))


def _mistakes() -> tuple[type[Exception], ...]:
  """The errors of users' mistakes; those of tasks too, if the verb has imported them."""
  tasks = sys.modules.get('hyperprompt_tasks')
  if tasks is None:
    return (UserError,)
  return UserError, tasks.UserMistake


def _mistake(message: str) -> int:
  # gin appends the names of the configurables that the error passed through.
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


def _is_for_users(record: logging.LogRecord) -> bool:
  """Whether a log record is shown: our own, JAX's on devices, and others' errors."""
  # Absl's logger, which Orbax uses too, has one name for all who log through it; what
  # Orbax logs as an error it raises as well.
  if record.name == 'absl' and os.path.join('', 'orbax', '') in record.pathname:
    return False
  ours = ('hyperprompt_jax', 'hyperprompt_tasks', 'jax._src.xla_bridge')
  return record.name.startswith(ours) or record.levelno >= logging.ERROR


def _quieten_libraries() -> None:
  """Keeps libraries' notes off the terminal; their errors and our notes stay."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # Else TensorFlow takes the accelerators' memory that JAX needs.
  os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
  libtpu.prepare()
  handler = logging.StreamHandler()
  handler.addFilter(_is_for_users)
  logging.basicConfig(level=logging.WARNING, handlers=[handler], format='%(message)s')
