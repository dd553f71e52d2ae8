"""Runs the campaign: all targets with both tools; a table, and `results/fuzz.json`.

Every target receives cases from Hypothesis, which recombines parts of valid cases, and from
Atheris, which searches for bytes that reach new code. Atheris has no wheel for some
Pythons; there Hypothesis runs alone, and the table says so.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import pathlib
import pkgutil
import platform
import subprocess
import sys
import tempfile
from typing import Any

from tools.fuzz import targets, worker

TOOLS = ('hypothesis', 'atheris')
RESULTS = pathlib.Path(__file__).parents[1] / 'results' / 'fuzz.json'
# A case may end the process, or hang it in C++. It is counted, and the other cases run.
_MOST_DEATHS = 5
_MOST_SECONDS = 3_600


def main() -> int:
  """Runs the campaign; returns the exit status, 1 if there was a fault."""
  names = [module.name for module in pkgutil.iter_modules(targets.__path__)]
  parser = argparse.ArgumentParser(prog='tools.fuzz', description=__doc__)
  parser.add_argument('--cases', type=int, default=10_000, help='of each target and tool')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--target', action='append', choices=names, help='instead of all')
  parser.add_argument('--workers', type=int, default=2)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  flags = parser.parse_args()
  tools = [tool for tool in TOOLS if importlib.util.find_spec(tool)]
  if not tools:
    parser.error("neither Hypothesis nor Atheris is installed: pip install -e '.[fuzz]'")
  jobs = [(name, tool) for name in flags.target or names for tool in tools]
  print('| target | tool | cases | seed | refused | slowest, s | findings |')
  print('| --- | --- | --- | --- | --- | --- | --- |')
  with concurrent.futures.ThreadPoolExecutor(flags.workers) as pool:
    rows = []
    for row in pool.map(lambda job: _run(job[0], job[1], flags.cases, flags.seed), jobs):
      rows.append(row)
      _keep(row, flags.output)
      print(
        f'| {row["target"]} | {row["tool"]} | {row["cases"]:,} | {row["seed"]} | '
        f'{row["refused"]:,} | {row["slowest"]:.2f} | {len(row["found"])} |',
        flush=True,
      )
  faults = [(row, finding) for row in rows for finding in row['found']]
  for row, finding in faults:
    print(f'{row["target"]}: {finding["what"]}: {finding["case"][:300]}')
  if 'atheris' not in tools:
    print('Atheris is not installed: Hypothesis alone')
  return 1 if faults else 0


def _keep(row: dict[str, Any], output: pathlib.Path) -> None:
  """Writes a row into the file of results, in place of an older one of the same target."""
  old = json.loads(output.read_text())['targets'] if output.exists() else []
  key = lambda other: (other['target'], other['tool'])
  rows = sorted([*(r for r in old if key(r) != key(row)), row], key=key)
  output.parent.mkdir(exist_ok=True)
  report = {
    'python': platform.python_version(),
    'targets': rows,
    'rows': [_summary(rows)],
  }
  output.write_text(json.dumps(report, indent=1) + '\n')


def _summary(rows: list[dict[str, Any]]) -> list[str]:
  """Returns the row of docs/reference/reliability.md."""
  names = sorted({row['target'] for row in rows})
  fewest = min(sum(r['cases'] for r in rows if r['target'] == name) for name in names)
  faults = sum(len(row['found']) for row in rows)
  refused = sum(row['refused'] for row in rows)
  return [
    f'input made to break its reader (Hypothesis, Atheris): {", ".join(names)}',
    f'at least {fewest:,} cases each',
    f'{refused:,} refused in one line, the others read; the slowest took '
    f'{max(row["slowest"] for row in rows):.2f} s',
    f'**{faults} faults**' if faults else 'nothing',
    'make fuzz FUZZ=--seed=' + ','.join(sorted({str(row['seed']) for row in rows})),
  ]


def _run(target: str, tool: str, cases: int, seed: int) -> dict[str, Any]:
  """Runs all cases of a target from a tool, in as many processes as that takes."""
  row: dict[str, Any] = {'target': target, 'tool': tool, 'seed': seed}
  row |= {'cases': 0, 'refused': 0, 'slowest': 0.0, 'found': []}
  for life in range(_MOST_DEATHS):
    with tempfile.TemporaryDirectory() as folder:
      died = _live(target, tool, cases - row['cases'], seed + life, pathlib.Path(folder))
      path = pathlib.Path(folder) / worker.FINDINGS
      findings = json.loads(path.read_text()) if path.exists() else {}
      row['cases'] += findings.get('cases', 0)
      row['refused'] += findings.get('refused', 0)
      row['slowest'] = max(row['slowest'], findings.get('slowest', 0.0))
      row['found'] += findings.get('faults', {}).values()
      if died and row['cases'] < cases:
        last = pathlib.Path(folder) / worker.LAST
        case = last.read_bytes() if last.exists() else b''
        row['found'].append({'what': died, 'case': repr(case[:2_000])})
    if row['cases'] >= cases:
      break
  return row


def _live(target: str, tool: str, cases: int, seed: int, folder: pathlib.Path) -> str:
  """Runs a worker; returns how it ended, or nothing if it succeeded."""
  command = [sys.executable, '-m', 'tools.fuzz.worker', target, tool]
  command += [f'--cases={cases}', f'--seed={seed}', f'--folder={folder}']
  try:
    done = subprocess.run(command, capture_output=True, timeout=_MOST_SECONDS)
  except subprocess.TimeoutExpired:
    return f'does not end within {_MOST_SECONDS} s'
  if done.returncode == 0:
    return ''
  last = (done.stderr.decode(errors='replace').strip().splitlines() or [''])[-1]
  return f'ends the process with {done.returncode}: {last[:200]}'


if __name__ == '__main__':
  sys.exit(main())
