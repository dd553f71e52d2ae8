"""Kills a small run at chosen and at random moments, on one host and on two.

Kills are aimed at a phase of the run (the start of the process, the first compilation, the
resume, a checkpoint's write, an evaluation, a step, the end) and come a random time after
it begins; others come at any time. After each, the same command is started again. Runs that
have come to their end are compared with one that was not disturbed.
"""

import collections
import dataclasses
import pathlib
import random
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import hyperprompt_tasks
from tools.reliability import small_run
from tools.reliability.small_run import HUNG_SECONDS, LOST_SECONDS, SAVED, Host

# What kills are aimed at, in turn.
PHASES = (
  'save',
  'compile',
  'evaluate',
  'resume',
  'save',
  'step',
  'start',
  'save',
  'close',
  'anywhere',
)
# These begin several times in a run.
REPEATED = ('save', 'evaluate', 'step')
# So many in one run, at most, before it is let come to its end.
KILLS_OF_A_RUN = 10
# A write goes on behind the training; so long after it has begun at most.
WRITE_SECONDS = 0.5
# What was being saved when a kill came may be lost, with the one before it at most.
LOST_STEPS = 2 * SAVED + 1


@dataclasses.dataclass(frozen=True)
class Kill:
  """A signal and its moment.

  Attributes:
    number: is SIGKILL or SIGTERM.
    phase: is the phase that it is aimed at.
    occurrence: says at which beginning of the phase it comes; it counts from 1.
    share: is the part of the phase's time that passes before it.
    host: is the index of the host that receives it.
  """

  number: int
  phase: str
  occurrence: int
  share: float
  host: int

  def trigger(self) -> str:
    """Returns the beginning of the line on standard error that starts the clock."""
    return 'step ' if self.phase == 'step' else f'@ begin {self.phase}'


def plan(rng: random.Random, kills: int, terms: int, hosts: int) -> list[Kill]:
  """Returns kills and orderly ends of all phases in random order."""
  phases = [PHASES[i % len(PHASES)] for i in range(kills)]
  rng.shuffle(phases)
  numbers = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
  # Orderly ends come where the run can be in order: it has begun.
  phases += [('step', 'save', 'evaluate')[i % 3] for i in range(terms)]
  aimed = [
    Kill(number, phase, rng.randint(1, 3), rng.random(), rng.randrange(hosts))
    for number, phase in zip(numbers, phases, strict=True)
  ]
  rng.shuffle(aimed)
  return aimed


class Campaign:
  """Kills a run on so many hosts, again and again.

  Args:
    folder: is empty, and receives the runs.
    compiled: is JAX's compilation cache.
    hosts: is the number of processes that train together.
    seed: determines the moments of kills; each campaign has its own.

  Attributes:
    events: holds the effect of each signal.
    wrong: holds the faults.
    runs: counts runs that were killed and then finished.
  """

  def __init__(self, folder: pathlib.Path, compiled: pathlib.Path, hosts: int, seed: str):
    self._folder, self._compiled, self._hosts = folder, compiled, hosts
    self._rng = random.Random(seed)
    self._seconds: dict[str, float] = {}
    # The last step that the run has reported, and the one that an orderly end saved.
    self._reached, self._saved = 0, 0
    self.events: list[dict[str, Any]] = []
    self.wrong: list[str] = []
    self.runs = 0

  def run(self, kills: int, terms: int) -> None:
    """Runs undisturbed once, then with kills and orderly ends, one run after another."""
    hyperprompt_tasks.use_vocabulary('bytes')  # to compare positions in the data
    unbroken = self._folder / 'unbroken'
    self._finish(unbroken)
    waiting = plan(self._rng, kills, terms, self._hosts)
    while waiting:
      self.runs += 1
      self._reached, self._saved = 0, 0
      broken = self._folder / f'broken-{self.runs}'
      for _ in range(KILLS_OF_A_RUN):
        if not waiting:
          break
        kill = waiting[0]
        if self._kill(broken, kill):
          del waiting[0]
          continue
        # The run was at its end before: the kill is tried once more, and earlier.
        waiting[0] = dataclasses.replace(kill, occurrence=1, share=kill.share / 2)
        if kill.phase != 'resume':  # there is one in a run that is at its end, too
          break
      self._finish(broken)
      for difference in small_run.differences(broken, unbroken):
        self._complain(broken, difference)

  def _complain(self, folder: pathlib.Path, about: str) -> None:
    self.wrong.append(f'{folder.parent.name}/{folder.name}: {about}')
    print(self.wrong[-1], flush=True)

  def _finish(self, folder: pathlib.Path) -> None:
    """Starts the run and leaves it undisturbed."""
    hosts = small_run.start(folder, self._hosts, self._compiled)
    for host in hosts:
      if not host.wait(HUNG_SECONDS) or host.status:
        self._complain(
          folder, f'left alone, it ended with {host.status}: {host.messages[-3:]}'
        )
    self._seconds = self._seconds or hosts[0].durations()
    self._follow(folder, hosts[0])

  def _kill(self, folder: pathlib.Path, kill: Kill) -> bool:
    """Starts the run and kills it; returns False if it finished before the signal."""
    seen, sent = 0, 0.0
    length = self._seconds.get('whole' if kill.phase == 'anywhere' else kill.phase, 1.0)
    if kill.phase in ('save', 'step'):
      length = WRITE_SECONDS

    def send() -> None:
      nonlocal sent
      victim = hosts[kill.host].process
      if victim.poll() is None:
        sent = time.monotonic()
        victim.send_signal(kill.number)

    def on_line(text: str) -> None:
      nonlocal seen
      if text.startswith(kill.trigger()):
        seen += 1
        if seen == (kill.occurrence if kill.phase in REPEATED else 1):
          threading.Timer(kill.share * length, send).start()

    compiled = None if kill.phase == 'compile' else self._compiled
    hosts = small_run.start(folder, self._hosts, compiled, on_line)
    if kill.phase in ('start', 'anywhere'):
      threading.Timer(kill.share * length, send).start()
    for host in hosts:
      if not host.wait(HUNG_SECONDS):
        self._complain(folder, f'{kill}: a host did not end: {host.messages[-3:]}')
    if not sent or not any(host.status for host in hosts):
      self._follow(folder, hosts[0])
      return False
    self.events.append(self._event(folder, kill, hosts, sent))
    print(f'{self._hosts} host(s): {self.events[-1]}', flush=True)
    return True

  def _event(
    self, folder: pathlib.Path, kill: Kill, hosts: list[Host], sent: float
  ) -> dict[str, Any]:
    """Describes and judges the effect of a signal."""
    victim, others = hosts[kill.host], hosts[: kill.host] + hosts[kill.host + 1 :]
    done_again = self._follow(folder, hosts[0])
    orderly = kill.number == signal.SIGTERM
    # An orderly end is that of all hosts; before the run has begun there is none.
    if victim.status not in ((143, -signal.SIGTERM) if orderly else (-signal.SIGKILL,)):
      self._complain(folder, f'{kill}: status {victim.status}: {victim.messages[-3:]}')
    if victim.status == 143 and not self._saved:
      self._complain(folder, f'{kill}: nothing was saved')
    for host in others:
      if host.ended - sent > LOST_SECONDS:
        self._complain(
          folder, f'{kill}: the other host ended {host.ended - sent:.0f} s later'
        )
      if not host.status or not (orderly or host.complaints):
        self._complain(folder, f'{kill}: the other host ended without a reason')
    return {
      'signal': signal.Signals(kill.number).name,
      'aimed at': kill.phase,
      'met': hosts[0].phase,
      'left a write unfinished': any((folder / 'checkpoints').glob('*tmp*')),
      'host': kill.host,
      'statuses': [host.status for host in hosts],
      'steps done again by this start': done_again,
      'others ended after seconds': [round(host.ended - sent, 1) for host in others],
      'others said': [host.complaints[-1] if host.complaints else '' for host in others],
    }

  def _follow(self, folder: pathlib.Path, first: Host) -> int | None:
    """Checks where a start resumed; returns the number of repeated steps."""
    steps = first.numbers(r'step (\d+)/')
    resumed = first.numbers(r'resuming from step (\d+) ')
    done_again = None
    if resumed or steps:
      begun = resumed[0] if resumed else 0
      done_again = self._reached - begun
      if done_again > LOST_STEPS or (self._saved and done_again):
        self._complain(folder, f'went on from {begun} after step {self._reached}')
      if steps and steps[0] != begun + 1:
        self._complain(folder, f'went on from {begun} with step {steps[0]}')
      self._reached = steps[-1] if steps else begun
      self._saved = 0
    if saved := first.numbers(r'SIGTERM: saved step (\d+)'):
      self._reached = self._saved = saved[-1]
    return done_again


def summary(campaigns: Sequence[Campaign]) -> dict[str, Any]:
  """Returns the numbers of the report."""
  events = [event for campaign in campaigns for event in campaign.events]
  seconds = [s for event in events for s in event['others ended after seconds']]
  again = [event['steps done again by this start'] or 0 for event in events]
  return {
    'signals': collections.Counter(event['signal'] for event in events),
    'of them on two hosts': sum(len(event['statuses']) == 2 for event in events),
    'met': collections.Counter(event['met'] for event in events),
    'left a write unfinished': sum(event['left a write unfinished'] for event in events),
    'runs compared': sum(campaign.runs for campaign in campaigns),
    'most steps done again': max(again, default=0),
    'other host ended after at most, seconds': max(seconds, default=0.0),
  }
