"""Everything that a run must survive, tried: kills, damaged files, disks taken away.

    python -m benchmarks.reliability.chaos            (make chaos)

Under half an hour on two cores. Writes benchmarks/results/chaos.json and the tables of
docs/reliability.md; ends with status 1 if anything was lost.
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
# Campaigns of kills, and their hosts. Those on one host are two, as one would go on
# for long after all others have ended.
HOSTS = {'one_host': 1, 'one_host_again': 1, 'two_hosts': 2}


def _rows(found: dict[str, Any]) -> list[list[str]]:
  """The rows of the report's table, see `report.py`."""
  kills, files, disks = found['kills'], found['files'], found['disks']
  seed = f'{COMMAND} SEED={found["seed"]}'
  met = ', '.join(f'{phase} {n}' for phase, n in sorted(kills['met'].items()))
  counts = files['counts'].values()
  ways: dict[str, int] = {}
  for of in counts:
    for way, number in of.items():
      ways[way] = ways.get(way, 0) + number
  lost = lambda wrong: f'**{len(wrong)} faults**' if wrong else 'nothing'
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
      lost(found['kills']['wrong']),
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
      'the disk taken away, from the start or in the midst: '
      + ', '.join(sorted({case.rsplit(', ', 1)[0] for case in disks['tried']})),
      f'{len(disks["tried"])} runs',
      'each ended with one line that names the folder; with the disk back, the same '
      'command went on to the end of the unbroken run',
      lost(disks['wrong']),
      seed,
    ],
  ]


def _shares(signals: int) -> tuple[int, int, int]:
  """How many signals each of `HOSTS` gets, in their order: a fifth on two hosts."""
  on_two = signals // 5
  half = (signals - on_two) // 2
  return signals - on_two - half, half, on_two


def main() -> None:
  """Runs all campaigns beside each other."""
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
  # Before JAX is loaded; processes that are started have the same.
  from benchmarks.reliability import small_run, subject

  os.environ |= small_run.environment(compiled)
  from benchmarks.reliability import disks, files, kills, report

  subject.add_mixture()
  begun = time.monotonic()
  campaigns = {
    name: kills.Campaign(folder / name, compiled, hosts, f'{flags.seed} {name}')
    for name, hosts in HOSTS.items()
  }
  shares = zip(campaigns.values(), _shares(flags.kills), _shares(flags.terms), strict=True)
  # What takes a disk away holds for all of its process: each has one of its own.
  spawn = multiprocessing.get_context('spawn')
  with (
    concurrent.futures.ThreadPoolExecutor() as beside,
    concurrent.futures.ProcessPoolExecutor(2, spawn) as apart,
  ):
    running = [beside.submit(of.run, *share) for of, *share in shares]
    of_files = apart.submit(files.campaign, folder / 'files', flags.seed, flags.flips)
    of_disks = apart.submit(disks.campaign, folder / 'disks')
    found = {'seed': flags.seed, 'files': of_files.result(), 'disks': of_disks.result()}
    for future in running:
      future.result()
  found['kills'] = {
    **kills.summary([*campaigns.values()]),
    'wrong': [line for of in campaigns.values() for line in of.wrong],
    'events': [event for of in campaigns.values() for event in of.events],
  }
  found['minutes'] = round((time.monotonic() - begun) / 60, 1)
  found['rows'] = _rows(found)
  flags.output.parent.mkdir(exist_ok=True)
  flags.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n')
  report.write()
  wrong = [line for name in ('kills', 'files', 'disks') for line in found[name]['wrong']]
  print('\n'.join(wrong) or f'nothing was lost, in {found["minutes"]} minutes')
  shutil.rmtree(folder, ignore_errors=True)
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
