"""Tries everything that a run must survive: kills, damage, lost disks, bad numbers.

    python -m tools.reliability.chaos            (make chaos)

Takes half an hour on two cores. Writes tools/results/chaos.json and the table of
docs/reference/reliability.md. The status is 1 if anything was lost.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any

RESULTS = pathlib.Path(__file__).parents[1] / 'results'
COMMAND = 'make chaos'
# The hosts of each campaign of kills. Two campaigns run on one host, since a single one
# would run long after all others.
HOSTS = {'one_host': 1, 'one_host_again': 1, 'two_hosts': 2}


def _rows(results: dict[str, Any]) -> list[list[str]]:
  """Returns the rows of the table in `report.py`."""
  lost = lambda wrong: f'**{len(wrong)} faults**' if wrong else 'nothing'
  kills, files, disks = results['kills'], results['files'], results['disks']
  shared, guards = results['files of two hosts'], results['guards']
  # The three rows of the guards share a list, in which each case has its name.
  refused = lost(guards['wrong'])
  seed = f'{COMMAND} SEED={results["seed"]}'
  met = ', '.join(f'{phase} {n}' for phase, n in sorted(kills['met'].items()))
  counts = files['counts'].values()
  ways: dict[str, int] = {}
  for ways_of_reader in counts:
    for way, number in ways_of_reader.items():
      ways[way] = ways.get(way, 0) + number
  return [
    [
      'a run killed (SIGKILL), or asked to end (SIGTERM), at aimed and at random moments, '
      'and started again',
      ', '.join(f'{n} {name}' for name, n in kills['signals'].items())
      + f'; {kills["of them on two hosts"]} of them to one of two hosts',
      f'met: {met}; {kills["left a write unfinished"]} left a checkpoint half written. '
      f'{kills["runs compared"]} runs came to their end: parameters, optimizer, position '
      'in the data, predictions and metrics as in the unbroken run, bit for bit. At most '
      f'{kills["most steps done again"]} steps were done again; of two hosts, the other '
      f'ended within {kills["other host ended after at most, seconds"]:.0f} s',
      lost(results['kills']['wrong']),
      seed,
    ],
    [
      'each file of a checkpoint, and of the frozen parameters, removed, cut, a bit turned',
      f'{sum(ways.values()):,} reads',
      ', '.join(f'{way} {n:,}' for way, n in sorted(ways.items())),
      lost(files['wrong']),
      seed,
    ],
    [
      'of a checkpoint of two hosts a file of each item removed, one cut, one with a bit '
      'turned, and both hosts started again',
      f'{sum(shared["counts"].values())} times',
      ', '.join(f'{way} {n}' for way, n in sorted(shared['counts'].items()))
      + f'; hosts that refused ended within {shared["apart"]:.1f} s of each other, and '
      'moved nothing',
      lost(shared['wrong']),
      seed,
    ],
    [
      'the disk taken away, from the start or in the midst: '
      + ', '.join(sorted({case.rsplit(', ', 1)[0] for case in disks['tried']})),
      f'{len(disks["tried"])} runs',
      'each ended with one line that names the folder; with the disk back, the same '
      'command went on to the end of the unbroken run',
      lost(disks['wrong']),
      seed,
    ],
    [
      'NaN or infinity put into a parameter, NaN into the optimizer, before a random step',
      f'{guards["tried"]["numbers"]} runs',
      'each ended at that step with one line that names it, the tasks and the last good '
      'checkpoint; no checkpoint held such a number; the same command then went on to the '
      'end of the unbroken run',
      refused,
      seed,
    ],
    [
      'a second run started in the folder of one, at a random step',
      f'{guards["tried"]["second runs"]} times',
      'refused in one line; the first came to the end of the unbroken run',
      refused,
      seed,
    ],
    [
      'half the files of all older checkpoints deleted, as by a cleaning that was cut off',
      f'{guards["tried"]["half deleted"]} runs',
      'each went on from the last one to the end of the unbroken run',
      refused,
      seed,
    ],
  ]


def _shares(signals: int) -> tuple[int, int, int]:
  """Returns the number of signals for each of `HOSTS`; a fifth are on two hosts."""
  on_two = signals // 5
  half = (signals - on_two) // 2
  return signals - on_two - half, half, on_two


def main() -> None:
  """Runs all campaigns concurrently."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--kills', type=int, default=50, help='SIGKILLs; a fifth on two hosts'
  )
  parser.add_argument(
    '--terms', type=int, default=10, help='SIGTERMs; a fifth on two hosts'
  )
  parser.add_argument('--flips', type=int, default=8, help='bits turned, of each file')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS / 'chaos.json')
  flags = parser.parse_args()
  folder = pathlib.Path(tempfile.mkdtemp(prefix='chaos'))
  folder.chmod(0o755)  # one campaign becomes another user
  compiled = folder / 'compiled'
  # This comes before JAX is loaded; child processes inherit it.
  from tools.reliability import small_run, subject

  os.environ |= small_run.environment(compiled)
  from tools.reliability import disks, files, guards, kills, report

  subject.add_mixture()
  begun = time.monotonic()
  campaigns = {
    name: kills.Campaign(folder / name, compiled, hosts, f'{flags.seed} {name}')
    for name, hosts in HOSTS.items()
  }
  shares = zip(campaigns.values(), _shares(flags.kills), _shares(flags.terms), strict=True)
  # Campaigns that remove a disk or change a run affect their whole process.
  spawn = multiprocessing.get_context('spawn')
  with (
    concurrent.futures.ThreadPoolExecutor() as beside,
    concurrent.futures.ProcessPoolExecutor(3, spawn) as apart,
  ):
    running = [beside.submit(campaign.run, *share) for campaign, *share in shares]
    of_files = apart.submit(files.campaign, folder / 'files', flags.seed, flags.flips)
    of_disks = apart.submit(disks.campaign, folder / 'disks')
    of_guards = apart.submit(guards.campaign, folder / 'guards', compiled, flags.seed)
    of_two = beside.submit(
      files.campaign_on_two_hosts, folder / 'files_of_two_hosts', compiled, flags.seed
    )
    results = {
      'seed': flags.seed,
      'files': of_files.result(),
      'files of two hosts': of_two.result(),
      'disks': of_disks.result(),
      'guards': of_guards.result(),
    }
    for future in running:
      future.result()
  results['kills'] = {
    **kills.summary([*campaigns.values()]),
    'wrong': [line for campaign in campaigns.values() for line in campaign.wrong],
    'events': [event for campaign in campaigns.values() for event in campaign.events],
  }
  results['minutes'] = round((time.monotonic() - begun) / 60, 1)
  results['rows'] = _rows(results)
  flags.output.parent.mkdir(exist_ok=True)
  flags.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + '\n')
  report.write()
  parts = [part for part in results.values() if isinstance(part, dict)]
  wrong = [line for part in parts for line in part['wrong']]
  print('\n'.join(wrong) or f'nothing was lost, in {results["minutes"]} minutes')
  shutil.rmtree(folder, ignore_errors=True)
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
