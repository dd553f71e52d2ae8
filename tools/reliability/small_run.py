"""The small run that the campaigns break: its command, its processes, and its end."""

import collections
import contextlib
import dataclasses
import faulthandler
import io
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from etils import epath

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import TrainState
from hyperprompt_jax.checkpoints.formats import t5x
from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.checkpoints.storage import Folder
from hyperprompt_jax.data import access
from hyperprompt_jax.data.cache import Cache, default_directory
from hyperprompt_jax.data.indexed import BatchSettings
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import reporting
from hyperprompt_jax.training.loop import TrainingLoop
from tools.fast_compilation import XLA_FLAGS
from tools.reliability import subject

STEPS, SAVED, EVALUATED = 40, 4, 10
# A host that has lost another must end within this time.
LOST_SECONDS = 60
HUNG_SECONDS = 600
# For a run in this process.
HUNG_HERE_SECONDS = 240
# Announcements of `subject`, and notes of TensorFlow's import.
_NOT_FOR_PEOPLE = r'@ |WARNING: All log messages before absl|[IWE]\d{4} |[IWE]0000 '
# Lines about a run's progress: its header, its steps and its phases.
_OF_A_RUN = r'[a-z]+ {2,}\S|step |resuming |.* …$|.*: [\d.]+ s$'
FILES = ('models/tiny.gin', 'methods/hyperprompt_global.gin', 'runs/finetune.gin')
# One layer each way, 16 wide; dropout is on, as finetune.gin has it.
BINDINGS: dict[str, Any] = {
  'config.Config.emb_dim': 16,
  'config.Config.mlp_dim': 16,
  'config.Config.num_heads': 2,
  'config.Config.head_dim': 4,
  'config.Config.num_encoder_layers': 1,
  'config.Config.num_decoder_layers': 1,
  'methods.HyperPromptGlobal.prompt_length': 2,
  'MIXTURE_OR_TASK_NAME': subject.MIXTURE,
  'TASK_FEATURE_LENGTHS': {'inputs': 48, 'targets': 16},
  'TRAIN_STEPS': STEPS,
  'BATCH_SIZE': 16,
  'EVAL_PERIOD': EVALUATED,
  'CHECKPOINT_PERIOD': SAVED,
  'EVAL_STEPS': 1,
  'EVALUATOR_NUM_EXAMPLES': 4,
  'LOG_PERIOD': 1,
  'DATA_REPORT_EXAMPLES': 0,
}


def arguments(model_dir: pathlib.Path, **macros: Any) -> list[str]:
  """The arguments of `hyperprompt train` for the small run."""
  bindings = {**BINDINGS, 'MODEL_DIR': str(model_dir), **macros}
  return [
    'train',
    *(f'--gin_file={file}' for file in FILES),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]


def environment(compiled: pathlib.Path | None) -> dict[str, str]:
  """Returns an environment in which programs compile fast, and each of them once.

  Args:
    compiled: is JAX's compilation cache; None compiles everything.
  """
  cache = {
    'JAX_COMPILATION_CACHE_DIR': str(compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': XLA_FLAGS,
    **(cache if compiled else {}),
  }


@dataclasses.dataclass
class Line:
  """A line on standard error, and its time by the monotonic clock."""

  at: float
  text: str


class Host:
  """A process of the run that is watched.

  Args:
    command: holds the program and its arguments.
    env: is its environment.
    on_line: is called with each line that it writes.
  """

  def __init__(
    self, command: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]
  ):
    self.started = time.monotonic()
    self.lines: list[Line] = []
    self.process = subprocess.Popen(
      command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    self._on_line = on_line
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    for text in self.process.stderr or ():
      self.lines.append(Line(time.monotonic(), text.rstrip('\n')))
      self._on_line(self.lines[-1].text)

  def wait(self, seconds: float) -> bool:
    """Waits for its end; kills it, and returns False, if that takes longer."""
    try:
      self.process.wait(seconds)
      return True
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
      return False
    finally:
      self.ended = time.monotonic()
      self._reader.join()

  @property
  def status(self) -> int:
    """The exit status."""
    return self.process.returncode

  @property
  def messages(self) -> list[str]:
    """The lines that it wrote for people."""
    texts = (line.text for line in self.lines)
    return [text for text in texts if not re.match(_NOT_FOR_PEOPLE, text)]

  @property
  def complaints(self) -> list[str]:
    """The messages without a run's header, steps and phases."""
    return complaints(self.messages)

  def numbers(self, pattern: str) -> list[int]:
    """Returns the numbers that a pattern matches at the beginnings of lines."""
    matches = (re.match(pattern, text) for text in self.messages)
    return [int(match[1]) for match in matches if match]

  @property
  def phase(self) -> str:
    """The phase in which it ended."""
    phase = 'start'
    for word, name in self._phases():
      phase = name if word == 'begin' else 'between phases'
    return phase

  def _phases(self) -> list[tuple[str, str]]:
    announced = (line.text.split() for line in self.lines if line.text.startswith('@ '))
    return [(word, name) for _, word, name in announced]

  def durations(self) -> dict[str, float]:
    """Returns the longest time of each phase, in seconds."""
    longest: dict[str, float] = collections.defaultdict(float)
    begun: dict[str, float] = {}
    for line in self.lines:
      if line.text.startswith('@ begin '):
        begun.setdefault('first', line.at)
        begun[line.text.removeprefix('@ begin ')] = line.at
      elif line.text.startswith('@ end '):
        phase = line.text.removeprefix('@ end ')
        longest[phase] = max(longest[phase], line.at - begun[phase])
    longest['start'] = begun.get('first', self.ended) - self.started
    longest['whole'] = self.ended - self.started
    return dict(longest)


def start(
  model_dir: pathlib.Path,
  hosts: int,
  compiled: pathlib.Path | None,
  on_line: Callable[[str], None] = lambda text: None,
  **macros: Any,
) -> list[Host]:
  """Starts the command on several hosts, which are processes of this machine.

  Args:
    model_dir: is the run's MODEL_DIR.
    hosts: is the number of processes that train together.
    compiled: is JAX's compilation cache; None compiles everything.
    on_line: is called with each line that the first host writes.
    **macros: override those of the small run.
  """
  command = [sys.executable, '-m', 'tools.reliability.subject']
  command += arguments(model_dir, **macros)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  started = []
  for index in range(hosts):
    meet = [
      f'--coordinator_address=127.0.0.1:{port}',
      f'--process_count={hosts}',
      f'--process_index={index}',
    ]
    command_here = [*command, *(meet if hosts > 1 else ())]
    watch = on_line if index == 0 else lambda text: None
    started.append(Host(command_here, environment(compiled), watch))
  return started


# ---- In this process ----


def train_here(model_dir: pathlib.Path, **macros: Any) -> tuple[int, list[str]]:
  """Runs the command in this process.

  Args:
    model_dir: is the run's MODEL_DIR.
    **macros: override those of the small run.

  Returns:
    The exit status, and the lines on standard error that complain of something.
  """
  errors = io.StringIO()
  faulthandler.dump_traceback_later(HUNG_HERE_SECONDS, exit=True)
  try:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
      status = cli.main(arguments(model_dir, **macros))
  except Exception as error:  # users would see a traceback
    status = 1
    errors.write(f'{error!r}\n')
  finally:
    faulthandler.cancel_dump_traceback_later()
  return status, complaints(errors.getvalue().splitlines())


def complaints(lines: Iterable[str]) -> list[str]:
  """The lines that are neither a run's header nor its steps and phases."""
  return [line for line in lines if not re.match(_OF_A_RUN, line)]


@contextlib.contextmanager
def before_step(
  step: int, act: Callable[[TrainState], TrainState | None]
) -> Iterator[None]:
  """Calls a function before a step of the runs of this process.

  Args:
    step: is the number of the step.
    act: receives the state; it returns another state for the step, or None.
  """
  run = TrainingLoop.run

  def run_and_act(loop: TrainingLoop, state: TrainState) -> None:
    train_step = loop.train_step

    def act_and_step(state: TrainState, batch: Any) -> Any:
      acted = act(state) if int(state.step) + 1 == step else None
      return train_step(state if acted is None else acted, batch)

    loop.train_step = act_and_step
    run(loop, state)

  with mock.patch.object(TrainingLoop, 'run', run_and_act):
    yield


# ---- The results of a run ----


def arrays(model_dir: pathlib.Path, step: int) -> dict[str, LazyArray]:
  """Returns every array of parameters and optimizer, by its path."""
  result: dict[str, LazyArray] = {}
  for item in ('params', 'optimizer'):
    folder = Folder(str(model_dir / f'checkpoints/{step}/{item}'))
    described = folder.read(t5x.ORBAX_FILE)
    item_arrays = t5x.read_orbax(folder, described) if described else {}
    result |= {f'{item}/{path}': array for path, array in item_arrays.items()}
  return result


def _next_batches(model_dir: pathlib.Path, step: int) -> list[dict[str, Any]]:
  """Returns the batches that a run would read next."""
  checkpoint = epath.Path(model_dir / f'checkpoints/{step}')
  run = json.loads((checkpoint / 'run/metadata').read_bytes())
  lengths = BINDINGS['TASK_FEATURE_LENGTHS']
  batches = access.training_batches(
    subject.MIXTURE,
    BatchSettings(lengths, BINDINGS['BATCH_SIZE'], seed=0),
    access.Access(lengths, cache=Cache(default_directory())),
    Partitioner(),
    run['num_data_shards'],
  )
  batches.restore(checkpoint / 'data')
  following = itertools.islice(batches, 8)
  return [{name: array.tolist() for name, array in batch.items()} for batch in following]


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def records(model_dir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the lines of `metrics.jsonl`, without rates."""
  path = model_dir / reporting.METRICS_FILE
  lines = path.read_text(encoding='utf-8').splitlines()
  return [
    {name: x for name, x in json.loads(line).items() if 'per_second' not in name}
    for line in lines
  ]


def _other_files(model_dir: pathlib.Path) -> dict[str, bytes]:
  """Returns the run's other files, in which its own name is replaced."""
  compared_otherwise = (reporting.METRICS_FILE, 'run.lock')
  return {
    path.name: path.read_bytes().replace(str(model_dir).encode(), b'MODEL_DIR')
    for path in model_dir.iterdir()
    if path.is_file()
    and path.name not in compared_otherwise
    and 'tfevents' not in path.name
  }


def differences(model_dir: pathlib.Path, unbroken: pathlib.Path) -> list[str]:
  """Returns the differences between two finished runs."""
  result = []
  here, there = arrays(model_dir, STEPS), arrays(unbroken, STEPS)
  for path in sorted({*here, *there}):
    if path not in here or path not in there:
      result.append(f'{path} is in one alone')
    elif here[path].dtype != there[path].dtype or (
      here[path].read().tobytes() != there[path].read().tobytes()
    ):
      result.append(f'{path} has other bits')
  if _next_batches(model_dir, STEPS) != _next_batches(unbroken, STEPS):
    result.append('another position in the data')
  if _files(model_dir / 'inference_eval') != _files(unbroken / 'inference_eval'):
    result.append('other predictions or scores in inference_eval')
  if records(model_dir) != records(unbroken):
    result.append('other metrics')
  files, other_files = _other_files(model_dir), _other_files(unbroken)
  result += [
    f'{name} differs'
    for name in files.keys() | other_files
    if files.get(name) != other_files.get(name)
  ]
  steps = [record['step'] for record in records(model_dir) if 'train/loss' in record]
  if steps != [*range(1, STEPS + 1)]:
    result.append(f'steps are recorded as {steps}')
  leftovers = [
    str(path.relative_to(model_dir))
    for path in (*model_dir.iterdir(), *(model_dir / 'checkpoints').iterdir())
    if path.name.startswith('.') or 'tmp' in path.name
  ]
  return result + [f'left over: {name}' for name in leftovers]
