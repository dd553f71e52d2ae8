"""Several hosts that train as one: how they meet, and what they must agree on.

Each host runs the same command. On a TPU VM hosts find each other by themselves; elsewhere
flags say where the first one is (T5X's flags).
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

# A host that has not been heard of for so long is lost, and the others end.
_LOST_AFTER_SECONDS = 45
_NOTE_AFTER_SECONDS = 10
# The start of a command takes up to 20 more, and a lost host is to be told within a minute.
_MEET_SECONDS = 40
_LOOK_SECONDS = 0.1
# What transports and JAX's coordination say where the other end is gone.
_LOST = re.compile(
  'gloo|connection (closed|reset|refused)|socket closed|broken pipe|heartbeat'
  '|coordination.?service|barrier',
  re.IGNORECASE,
)
# Their versions decide which program a host compiles.
_PACKAGES = ('hyperprompt-jax', 'jax', 'jaxlib', 'flax', 'optax')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say which hosts there are."""
  group = parser.add_argument_group(
    'several hosts',
    'on TPU VMs and under srun of Slurm hosts find each other: none of these is needed',
  )
  group.add_argument(
    '--coordinator_address', metavar='HOST:PORT', help='of the first host, a free port'
  )
  group.add_argument('--process_count', type=int, metavar='N', help='how many hosts')
  group.add_argument(
    '--process_index', type=int, metavar='I', help='which one this is, from 0'
  )
  group.add_argument(
    '--meet_seconds',
    type=int,
    default=_MEET_SECONDS,
    metavar='N',
    help='how long to wait for all to have come (default: %(default)s)',
  )
  group.add_argument(
    '--device_count',
    type=int,
    metavar='N',
    help='end at once unless all hosts together have so many devices',
  )


def start(flags: argparse.Namespace) -> None:
  """Joins the other hosts, if there are any. To be called before JAX is used.

  Args:
    flags: with those of `add_arguments`.

  Raises:
    UserError: if the hosts do not find each other, or their devices are not those asked
      for.
  """
  address, count, index = (
    flags.coordinator_address,
    flags.process_count,
    flags.process_index,
  )
  given = [value for value in (address, count, index) if value is not None]
  if jax.distributed.is_initialized() or given == [1]:
    pass  # joined by who calls; or there is no other
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
  """Returns whether `srun` started this process as one of several; JAX finds the others."""
  several = os.environ.get('SLURM_NTASKS', '1') != '1'
  return several and 'SLURM_STEP_NODELIST' in os.environ


def _initialize(seconds: int, **arguments: Any) -> None:
  hosts = f'{arguments.get("num_processes", "all")} hosts'
  at = arguments.get('coordinator_address', 'the first host')
  note = f'waiting for {hosts} to meet at {at}: is the command running on each?'
  missed = (
    f'{hosts} have not met at {at} within {seconds} seconds, one of them has not come or '
    'is lost; start the same command on all, with a larger --meet_seconds where they start '
    'further apart'
  )
  timers = [
    threading.Timer(_NOTE_AFTER_SECONDS, terminal.stderr_console().print, (note,)),
    threading.Timer(seconds, _give_up, (missed,)),
  ]
  for timer in timers:
    timer.daemon = True
    timer.start()
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=_LOST_AFTER_SECONDS,
      # When this has passed, JAX aborts the process, with nothing that can be caught.
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
  """Ends this process with one line, from whichever thread."""
  print(f'hyperprompt: {reason}', file=sys.stderr, flush=True)
  # No mistake of the user's: what starts commands again may start this one.
  os._exit(1)


def _check_devices(wanted: int | None) -> None:
  if wanted is not None and jax.device_count() != wanted:
    raise UserError(
      f'--device_count={wanted}: there are {jax.device_count()} device(s), on '
      f'{jax.process_count()} host(s)'
    )
  of_hosts = collections.Counter(device.process_index for device in jax.devices())
  usual, _ = collections.Counter(of_hosts.values()).most_common(1)[0]
  for host, number in sorted(of_hosts.items()):
    if number != usual:
      raise UserError(
        f'host {host} has {number} device(s), and others {usual}: all must have as many'
      )


def check_agreement(*more: str) -> None:
  """Checks that all hosts run the same: configuration, versions of packages.

  Args:
    *more: lines that must be the same besides.

  Raises:
    UserError: on every host, naming the first difference.
  """
  if jax.process_count() == 1:
    return
  versions = [f'{name} {importlib.metadata.version(name)}' for name in _PACKAGES]
  of_hosts = [
    text.splitlines()
    for text in _gather(
      '\n'.join((*versions, *more, gin.config_str(max_line_length=10**6)))
    )
  ]
  for host, lines in enumerate(of_hosts):
    for here, first in zip(lines, of_hosts[0], strict=False):
      if here != first:
        raise UserError(
          f'hosts disagree: host {host} has {here!r}, host 0 has {first!r}; start the '
          'same command, of the same installation, on all'
        )
    if len(lines) != len(of_hosts[0]):
      raise UserError(
        f'hosts disagree: the configuration of host {host} has {len(lines)} lines, and '
        f'that of host 0 {len(of_hosts[0])}; start the same command on all'
      )


def check_shared(folder: epath.Path) -> None:
  """Checks that all hosts see the same folder.

  Raises:
    UserError: on every host, if one does not see what the first one writes there.
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
      'not see what host 0 writes there): name a folder that they share'
    )


def is_first() -> bool:
  """Whether this is the host that prints, and writes what is written once."""
  return jax.process_index() == 0


def wait_for_all(what: str) -> None:
  """Returns when all hosts have got here.

  Args:
    what: has been done; the same on all.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def wait_until_all(done: Callable[[], bool]) -> None:
  """Returns when something is done on all hosts; ends this one if another is lost.

  Args:
    done: whether it is, on this host.
  """
  try:
    while jax.process_count() > 1:
      if multihost_utils.process_allgather(np.asarray(done())).all():
        return
      time.sleep(_LOOK_SECONDS)
  except Exception as error:
    end_if_lost(error)
    raise


def of_first(text: str) -> str:
  """The text that the first host has, on all of them."""
  # With a mark, as nothing at all cannot be gathered.
  return text if jax.process_count() == 1 else _gather(f'.{text}')[0][1:]


def describe() -> str:
  """`host 3 of 16: `, to begin an error with; empty for one host."""
  if not _is_one_of_several():
    return ''
  return f'host {jax.process_index()} of {jax.process_count()}: '


def leave(status: int) -> NoReturn:
  """Ends this process at once, where an orderly end would wait for the other hosts."""
  sys.stdout.flush()
  sys.stderr.flush()
  if is_first():
    # With it ends what the others meet at, which ends them: they may have an error to tell.
    time.sleep(1)
  os._exit(status)


def end_if_lost(error: BaseException) -> None:
  """Ends this process at once, with one line, if an error says that another host is lost.

  All that is orderly (files to be closed, a checkpoint to be finished, JAX's own end) would
  wait for that host.
  """
  told = isinstance(error, UserError)
  if not told and _is_one_of_several() and _LOST.search(str(error)):
    reason = str(error).strip().splitlines()[0][:200]
    print(
      f'hyperprompt: {describe()}another host is lost ({reason}); start the same command '
      'on all hosts again, it goes on from the last checkpoint',
      file=sys.stderr,
    )
    leave(1)


def _is_one_of_several() -> bool:
  return jax.distributed.is_initialized() and jax.process_count() > 1


def _gather(text: str) -> list[str]:
  """The texts of all hosts."""
  data = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)
  ]
