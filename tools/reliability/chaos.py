"""Tries everything that a run must survive: kills, damage, lost disks, bad numbers.

    python -m tools.reliability.chaos            (make chaos)

Takes half an hour on two cores. Writes tools/results/chaos.json and the list of
docs/reference/reliability.md. `--only kills` tries one campaign, and keeps the results of
the others. The status is 1 if anything was lost.
"""

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from tools.reliability import report, small_tasks

RESULTS = pathlib.Path(__file__).parents[1] / 'results'
KILLS, TERMS, FLIPS = 50, 10, 8
CAMPAIGNS = ('kills', 'files', 'files of two hosts', 'disks', 'guards')
# The hosts of each campaign of kills. Two campaigns run on one host, since a single one
# would run long after all others.
HOSTS = {'one_host': 1, 'one_host_again': 1, 'two_hosts': 2}


def _rows(results: dict[str, Any]) -> list[list[str]]:
  """Returns the rows that `report.py` writes, for the campaigns that have results."""
  makers = {
    'kills': _row_of_kills,
    'files': _row_of_files,
    'files of two hosts': _row_of_shared_files,
    'disks': _row_of_disks,
    'guards': _rows_of_guards,
  }
  return [
    [*row, _lost(results[name]['wrong']), results[name]['command']]
    for name, make in makers.items()
    if name in results
    for row in make(results[name])
  ]


def _command(flags: argparse.Namespace) -> str:
  """Returns the command that tries the same again."""
  if (flags.kills, flags.terms, flags.flips) == (KILLS, TERMS, FLIPS):
    return f'make chaos SEED={flags.seed}'
  numbers = ''.join(
    f' --{name}={getattr(flags, name)}' for name in ('kills', 'terms', 'flips')
  )
  return f'python -m tools.reliability.chaos --seed={flags.seed}{numbers}'


def _lost(faults: list[str]) -> str:
  return f'**{len(faults)} faults**' if faults else 'nothing'


def _counted(counts: Mapping[str, int]) -> str:
  return ', '.join(f'{way} {number:,}' for way, number in sorted(counts.items()))


def _row_of_kills(kills: dict[str, Any]) -> list[list[str]]:
  signals = ', '.join(f'{n} {name}' for name, n in kills['signals'].items())
  return [
    [
      'A run on small tasks (CB, COPA and WSC with 250, 96 and 32 rows, so that most '
      'checkpoints lie between epochs) was killed or asked to end, at aimed and at random '
      'moments, and was started again.',
      f'{signals}; {kills["of them on two hosts"]} of these signals reached one of two '
      'hosts',
      f'The signals met these phases: {_counted(kills["met"])}. '
      f'{kills["left a write unfinished"]} of them left a checkpoint half written. All '
      f'{kills["runs compared"]} runs finished and equalled the uninterrupted run in '
      'every bit of parameters and optimizer, in the position in the data, and in all '
      'files of predictions, metrics and configuration. A start repeated at most '
      f'{kills["most steps done again"]} steps. The second of two hosts ended within '
      f'{kills["other host ended after at most, seconds"]:.0f} s of the first.',
    ]
  ]


def _row_of_files(files: dict[str, Any]) -> list[list[str]]:
  ways: collections.Counter[str] = collections.Counter()
  for ways_of_reader in files['counts'].values():
    ways.update(ways_of_reader)
  return [
    [
      'Each file of a checkpoint, and of the frozen parameters, was removed or cut, or had '
      'a bit flipped.',
      f'{sum(ways.values()):,} reads',
      f'Outcomes: {_counted(ways)}.',
    ]
  ]


def _row_of_shared_files(shared: dict[str, Any]) -> list[list[str]]:
  return [
    [
      'In a checkpoint of two hosts, one file of each item was removed, cut, or had a bit '
      'flipped. Then both hosts started again.',
      f'{sum(shared["counts"].values())} times',
      f'Outcomes: {_counted(shared["counts"])}. Hosts that refused the checkpoint ended '
      f'within {shared["apart"]:.1f} s of each other and moved nothing.',
    ]
  ]


def _row_of_disks(disks: dict[str, Any]) -> list[list[str]]:
  conditions = sorted({case.rsplit(', ', 1)[0] for case in disks['tried']})
  return [
    [
      'The disk failed at the start of a run or in its middle, in these ways: '
      f'{"; ".join(conditions)}.',
      f'{len(disks["tried"])} runs',
      'Each run ended with one line that names the folder. Once the disk worked again, the '
      'same command finished like the uninterrupted run.',
    ]
  ]


def _rows_of_guards(guards: dict[str, Any]) -> list[list[str]]:
  tried = guards['tried']
  return [
    [
      'NaN or infinity was written into a parameter, or NaN into the optimizer, before a '
      'random step.',
      f'{tried["numbers"]} runs',
      'Each run ended at that step with one line that names the step, the tasks and the '
      'last good checkpoint. No checkpoint held such a number. The same command then '
      'finished like the uninterrupted run.',
    ],
    [
      'A second run was started in the folder of a first one, at a random step.',
      f'{tried["second runs"]} times',
      'The second run was refused in one line. The first finished like the uninterrupted '
      'run.',
    ],
    [
      'Half of the files of all older checkpoints were deleted, as by a cleanup that was '
      'cut off.',
      f'{tried["half deleted"]} runs',
      'Each run resumed from the last checkpoint and finished like the uninterrupted run.',
    ],
  ]


def _shares(signals: int) -> tuple[int, int, int]:
  """Returns the number of signals for each of `HOSTS`; a fifth are on two hosts."""
  on_two = signals // 5
  half = (signals - on_two) // 2
  return signals - on_two - half, half, on_two


def _kills(
  folder: pathlib.Path, compiled: pathlib.Path, flags: argparse.Namespace
) -> dict[str, Any]:
  """Kills runs on one host and on two, side by side; returns the results."""
  from tools.reliability import kills

  campaigns = {
    name: kills.Campaign(folder / name, compiled, hosts, f'{flags.seed} {name}')
    for name, hosts in HOSTS.items()
  }
  shares = zip(campaigns.values(), _shares(flags.kills), _shares(flags.terms), strict=True)
  with concurrent.futures.ThreadPoolExecutor() as beside:
    for running in [beside.submit(campaign.run, *share) for campaign, *share in shares]:
      running.result()
  return {
    **kills.summary([*campaigns.values()]),
    'wrong': [line for campaign in campaigns.values() for line in campaign.wrong],
    'events': [event for campaign in campaigns.values() for event in campaign.events],
  }


def _run(
  folder: pathlib.Path, compiled: pathlib.Path, flags: argparse.Namespace
) -> dict[str, Any]:
  """Runs the chosen campaigns side by side; returns their results by name."""
  from tools.reliability import disks, files, guards, subject

  subject.add_mixture()
  # Campaigns that remove a disk or change a run affect their whole process.
  spawn = multiprocessing.get_context('spawn')
  with (
    concurrent.futures.ThreadPoolExecutor() as beside,
    concurrent.futures.ProcessPoolExecutor(3, spawn) as apart,
  ):
    begin = {
      'kills': lambda: beside.submit(_kills, folder, compiled, flags),
      'files': lambda: apart.submit(
        files.campaign, folder / 'files', flags.seed, flags.flips
      ),
      'files of two hosts': lambda: beside.submit(
        files.campaign_on_two_hosts, folder / 'two_hosts', compiled, flags.seed
      ),
      'disks': lambda: apart.submit(disks.campaign, folder / 'disks'),
      'guards': lambda: apart.submit(
        guards.campaign, folder / 'guards', compiled, flags.seed
      ),
    }
    running = {name: begin[name]() for name in flags.only or CAMPAIGNS}
    return {
      name: {'command': _command(flags), **future.result()}
      for name, future in running.items()
    }


def main() -> None:
  """Runs all campaigns, or those of `--only`."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--kills', type=int, default=KILLS, help='SIGKILLs; a fifth on two hosts'
  )
  parser.add_argument(
    '--terms', type=int, default=TERMS, help='SIGTERMs; a fifth on two hosts'
  )
  parser.add_argument('--flips', type=int, default=FLIPS, help='bits flipped in each file')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--only', action='append', choices=CAMPAIGNS, help='not all')
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS / 'chaos.json')
  flags = parser.parse_args()
  folder = pathlib.Path(tempfile.mkdtemp(prefix='chaos'))
  folder.chmod(0o755)  # one campaign becomes another user
  small_tasks.write(folder / 'super_glue')
  os.environ['SUPER_GLUE_DIR'] = str(folder / 'super_glue')
  os.environ['HYPERPROMPT_DATA_CACHE'] = str(folder / 'data')  # which that user may read
  compiled = folder / 'compiled'
  # This comes before JAX is loaded; child processes inherit it.
  from tools.reliability import small_run

  os.environ |= small_run.environment(compiled)
  begun = time.monotonic()
  done = _run(folder, compiled, flags)
  output = flags.output
  kept = json.loads(output.read_text()) if flags.only and output.exists() else {}
  results = {**{name: kept[name] for name in CAMPAIGNS if name in kept}, **done}
  minutes = round((time.monotonic() - begun) / 60, 1)
  results |= {'minutes': minutes, 'rows': _rows(results)}
  output.parent.mkdir(exist_ok=True)
  output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + '\n')
  report.write()
  wrong = [line for part in done.values() for line in part['wrong']]
  print('\n'.join(wrong) or f'nothing was lost, in {minutes} minutes')
  shutil.rmtree(folder, ignore_errors=True)
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
