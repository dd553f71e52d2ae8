"""Several hosts that train as one: they meet, check that they agree, and end together.

Each host runs the same command. On TPU VMs and under Slurm, hosts find each other by
themselves; elsewhere T5X's flags give the address of the first host.
"""

import argparse
import collections
import importlib.metadata
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import gin
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import libtpu, terminal

# A host that sends no heartbeat for this time is lost, and the others end.
_LOST_AFTER_SECONDS = 45
_NOTE_AFTER_SECONDS = 10
# A missing host is reported within a minute, and a command takes up to 20 seconds to start.
_MEET_SECONDS = 40
_LOOK_SECONDS = 0.1
# The errors of transports and of JAX's coordination service after another host has ended.
_LOST = re.compile(
  'gloo|connection (closed|reset|refused)|socket closed|broken pipe|heartbeat'
  '|coordination.?service|barrier',
  re.IGNORECASE,
)
# The compiled program depends on the versions of these packages.
_PACKAGES = ('hyperprompt-jax', 'jax', 'jaxlib', 'flax', 'optax')


def start(flags: argparse.Namespace) -> None:
  """Joins the other hosts, if there are any. It must be called before JAX is used.

  Args:
    flags: are parsed flags, which include those of `add_arguments`.

  Raises:
    UserError: if the hosts do not find each other, or have another number of devices than
      `--device_count`.
  """
  address, count, index = (
    flags.coordinator_address,
    flags.process_count,
    flags.process_index,
  )
  given = [value for value in (address, count, index) if value is not None]
  if jax.distributed.is_initialized() or given == [1]:
    pass  # the caller has joined the hosts, or this is the only one
  elif len(given) == 3:
    if not re.fullmatch(r'.+:\d+', address):
      raise UserError(f'--coordinator_address={address} must be like 10.0.0.1:8476')
    if not 0 <= index < count:
      raise UserError(
        f'--process_index={index} of --process_count={count}: hosts count from 0'
      )
    _initialize(
      flags.meet_seconds,
      coordinator_address=address,
      num_processes=count,
      process_id=index,
    )
  elif given:
    raise UserError(
      '--coordinator_address, --process_count and --process_index go together: give all '
      'three, or --process_count=1 where there is but one host'
    )
  elif _is_slurm_task() or (
    libtpu.has_tpu() and os.environ.get('JAX_PLATFORMS', 'tpu') == 'tpu'
  ):
    _initialize(flags.meet_seconds)
  if _is_one_of_several():
    terminal.keep_for_results(silent=not is_first())
  _check_devices(flags.device_count)


def _is_slurm_task() -> bool:
  """Returns whether `srun` started this process as one of several, which JAX can find."""
  several = os.environ.get('SLURM_NTASKS', '1') != '1'
  return several and 'SLURM_STEP_NODELIST' in os.environ


def _initialize(seconds: int, **arguments: Any) -> None:
  """Meets the other hosts by JAX's function and its arguments, or ends the process."""
  hosts = f'{arguments.get("num_processes", "all")} hosts'
  place = arguments.get('coordinator_address', 'the first host')
  note = f'waiting for {hosts} to meet at {place}: is the command running on each?'
  failure = (
    f'{hosts} have not met at {place} within {seconds} seconds, because one has not '
    'started or is lost; start the same command on all, and set a larger --meet_seconds '
    'if they start further apart'
  )
  timers = [
    threading.Timer(_NOTE_AFTER_SECONDS, terminal.stderr_console().print, (note,)),
    threading.Timer(seconds, _give_up, (failure,)),
  ]
  for timer in timers:
    timer.daemon = True
    timer.start()
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=_LOST_AFTER_SECONDS,
      # After this time JAX aborts the process, without an exception.
      initialization_timeout=seconds + _LOST_AFTER_SECONDS,
      **arguments,
    )
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f'the hosts do not find each other: {reason[:200]}; where there is but this one, '
      'add --process_count=1'
    ) from error
  finally:
    for timer in timers:
      timer.cancel()


def _give_up(reason: str) -> None:
  """Ends this process with one line, from any thread."""
  print(f'hyperprompt: {reason}', file=sys.stderr, flush=True)
  # Status 1 lets a supervisor start the command again: the user has made no mistake.
  os._exit(1)


def _check_devices(expected: int | None) -> None:
  """Checks the number of devices, and that all hosts have the same number."""
  if expected is not None and jax.device_count() != expected:
    raise UserError(
      f'--device_count={expected}: there are {jax.device_count()} device(s), on '
      f'{jax.process_count()} host(s)'
    )
  devices = collections.Counter(device.process_index for device in jax.devices())
  usual, _ = collections.Counter(devices.values()).most_common(1)[0]
  for host, number in sorted(devices.items()):
    if number != usual:
      raise UserError(
        f'host {host} has {number} device(s), and others {usual}: all must have as many'
      )


def check_agreement(*more: str) -> None:
  """Checks that all hosts have the same configuration and versions of packages.

  Args:
    *more: are further lines that must be the same on all hosts.

  Raises:
    UserError: on every host, if they differ; the message names the first difference.
  """
  if jax.process_count() == 1:
    return
  versions = [f'{name} {importlib.metadata.version(name)}' for name in _PACKAGES]
  own = '\n'.join((*versions, *more, gin.config_str(max_line_length=10**6)))
  lines_by_host = [text.splitlines() for text in _gather(own)]
  first_lines = lines_by_host[0]
  for host, lines in enumerate(lines_by_host):
    for here, first in zip(lines, first_lines, strict=False):
      if here != first:
        raise UserError(
          f'hosts disagree: host {host} has {here!r}, host 0 has {first!r}; start the '
          'same command, of the same installation, on all'
        )
    if len(lines) != len(first_lines):
      raise UserError(
        f'hosts disagree: the configuration has {len(lines)} lines on host {host}, and '
        f'{len(first_lines)} on host 0; start the same command on all'
      )


def check_shared(folder: epath.Path) -> None:
  """Checks that all hosts see the same folder.

  Raises:
    UserError: on every host, if one does not see a file that the first one writes there.
  """
  if jax.process_count() == 1:
    return
  name = _gather(f'.shared-{uuid.uuid4().hex}')[0]
  marker = folder / name
  if is_first():
    marker.touch()
  wait_for_all('marker is written')
  seen = multihost_utils.process_allgather(np.asarray(marker.exists()))
  if is_first():
    marker.unlink()
  if not seen.all():
    raise UserError(
      f'{folder} is not the same folder on all hosts (host {int(np.argmin(seen))} does '
      'not see a file that host 0 has written there): name a folder that they share'
    )


def is_first() -> bool:
  """Returns whether this is the first host, which alone prints and writes shared files."""
  return jax.process_index() == 0


def wait_for_all(event: str) -> None:
  """Waits until all hosts have called it.

  Args:
    event: describes the event; all hosts must give the same text.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(event)


def wait_until_all(done: Callable[[], bool]) -> None:
  """Waits until a task is done on all hosts; ends this process if another host is lost.

  Args:
    done: returns whether the task is done on this host.
  """
  try:
    while jax.process_count() > 1:
      if multihost_utils.process_allgather(np.asarray(done())).all():
        return
      time.sleep(_LOOK_SECONDS)
  except Exception as error:
    end_if_lost(error)
    raise


def text_of_first_host(text: str) -> str:
  """Returns the first host's text on all hosts."""
  return gather(text)[0]


def gather(text: str) -> list[str]:
  """Returns the texts of all hosts, by host."""
  if jax.process_count() == 1:
    return [text]
  # The point is added and removed because an empty array cannot be gathered.
  return [marked[1:] for marked in _gather(f'.{text}')]


def process_index() -> int:
  """Returns the number of this host, from 0."""
  return jax.process_index()


def describe() -> str:
  """Returns the beginning of an error, such as `host 3 of 16: `; empty for one host."""
  if not _is_one_of_several():
    return ''
  return f'host {jax.process_index()} of {jax.process_count()}: '


def leave(status: int) -> NoReturn:
  """Ends this process at once, because an orderly end would wait for the other hosts."""
  sys.stdout.flush()
  sys.stderr.flush()
  if is_first():
    # The first host runs the coordination service, whose end aborts the other hosts. They
    # may still have an error to print.
    time.sleep(1)
  os._exit(status)


def end_if_lost(error: BaseException) -> None:
  """Ends this process at once, with one line, if an error shows that another host is lost.

  An orderly end (closed files, a finished checkpoint, JAX's own end) would wait for that
  host.
  """
  is_mistake = isinstance(error, UserError)
  if not is_mistake and _is_one_of_several() and _LOST.search(str(error)):
    reason = str(error).strip().splitlines()[0][:200]
    print(
      f'hyperprompt: {describe()}another host is lost ({reason}); start the same command '
      'on all hosts again, which resumes from the last checkpoint',
      file=sys.stderr,
    )
    leave(1)


def _is_one_of_several() -> bool:
  return jax.distributed.is_initialized() and jax.process_count() > 1


def _gather(text: str) -> list[str]:
  """Returns the texts of all hosts, in the order of hosts."""
  data = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)
  ]
