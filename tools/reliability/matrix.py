"""Runs the tests on several Pythons, with the newest packages and with the oldest.

    python -m tools.reliability.matrix         (make matrix)
    python -m tools.reliability.matrix --only 3.13-newest -- tests/nn --durations=9

Each combination has an environment of its own in .matrix/. The newest packages are those
that pip finds for that Python; the oldest, those of constraints-oldest.txt, which are the
least that setup.py allows. A Python that this machine lacks is skipped, by name. Writes
tools/results/matrix.json, where combinations that did not run keep their last result, and
the table of docs/reference/reliability.md. The status is 1 unless all tests passed.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from tools.reliability import report

ENVIRONMENTS = report.ROOT / '.matrix'
OLDEST = 'constraints-oldest.txt'
COMBINATIONS = ('3.11-newest', '3.12-newest', '3.13-newest', '3.11-oldest')
# What decides most; the report names their versions.
NAMED = ('jax', 'flax', 'orbax-checkpoint', 'tensorflow', 'numpy')


def _interpreter(version: str) -> str | None:
  """A Python of a version: on the PATH, or one that pyenv or uv has installed."""
  installed = pathlib.Path.home() / '.pyenv/versions'
  candidates = [shutil.which(f'python{version}')]
  candidates += sorted(map(str, installed.glob(f'{version}.*/bin/python')), reverse=True)
  if uv := shutil.which('uv'):
    found = subprocess.run([uv, 'python', 'find', version], capture_output=True, text=True)
    candidates.append(found.stdout.strip() or None)
  for path in filter(None, candidates):
    # pyenv has a command for every version, which fails where that is not chosen.
    said = subprocess.run([path, '--version'], capture_output=True, text=True)
    if said.returncode == 0 and said.stdout.startswith(f'Python {version}.'):
      return path
  return None


def _run(python: str, version: str, packages: str, tests: list[str]) -> dict[str, str]:
  """Makes an environment and runs the tests in it."""
  folder = ENVIRONMENTS / f'{version}-{packages}'
  own = str(folder / 'bin/python')
  pip = [own, '-m', 'pip', '--disable-pip-version-check']
  constraint = ['--constraint', OLDEST] if packages == 'oldest' else []
  subprocess.run([python, '-m', 'venv', '--clear', folder], check=True)
  subprocess.run(
    [*pip, 'install', '--quiet', '--no-compile', *constraint, '--editable', '.[test]'],
    check=True,
    cwd=report.ROOT,
  )
  said = subprocess.run([*pip, 'list', '--format=json'], check=True, capture_output=True)
  versions = {of['name'].lower(): of['version'] for of in json.loads(said.stdout)}
  begun = time.monotonic()
  # -n 2: as `make test`.
  pytest = [own, '-m', 'pytest', '-n', '2', '--no-loadscope-reorder', *tests]
  # As in the Makefile: modules are compiled once, and not in every process.
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}
  ended = subprocess.run(
    pytest, cwd=report.ROOT, env=env, stdout=subprocess.PIPE, text=True
  )
  sys.stdout.write(ended.stdout)
  closing = (
    re.findall(r'\d+ (?:passed|failed|skipped|error)[^=\n]*', ended.stdout) or ['']
  )[-1]
  return {
    'packages': ', '.join(f'{name} {versions[name]}' for name in NAMED),
    'result': closing.strip() or f'status {ended.returncode}',
    'passed': ended.returncode == 0,
    'minutes': round((time.monotonic() - begun) / 60, 1),
  }


def main() -> None:
  """Runs combinations."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='+', choices=COMBINATIONS, default=COMBINATIONS)
  parser.add_argument('tests', nargs='*', help="pytest's arguments, after --")
  flags = parser.parse_args()
  path = report.RESULTS / 'matrix.json'
  before = json.loads(path.read_text(encoding='utf-8'))['found'] if path.exists() else {}
  found, skipped = {}, []
  for name in COMBINATIONS:
    version, packages = name.split('-')
    python = _interpreter(version) if name in flags.only else None
    if name not in flags.only:
      found |= {name: before[name]} if name in before else {}
    elif python is None:
      skipped.append(name)
      print(f'SKIPPED: {name}: this machine has no python{version}', flush=True)
    else:
      try:
        found[name] = _run(python, version, packages, flags.tests)
      except subprocess.CalledProcessError as error:
        found[name] = {'packages': '', 'result': f'not installed: {error}', 'passed': False}
      print(f'{name}: {found[name]}', flush=True)
  rows = [
    [
      f'the tests on Python {name.replace("-", ", ")} packages',
      'once',
      f'{of["packages"]}: {of["result"]}',
      'nothing' if of['passed'] else '**failed**',
      f'python -m tools.reliability.matrix --only {name}',
    ]
    for name, of in found.items()
  ]
  rows += [
    [f'the tests on {name}', 'not', 'no such Python here', '', ''] for name in skipped
  ]
  if not flags.tests:  # some tests are not the tests
    result = {'found': found, 'skipped': skipped, 'rows': rows}
    path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    report.write()
  sys.exit(not all(of['passed'] for of in found.values()))


if __name__ == '__main__':
  main()
