"""Runs the tests on several Pythons, with the newest packages and with the oldest.

    python -m tools.reliability.matrix         (make matrix)
    python -m tools.reliability.matrix --only 3.13-newest -- tests/nn --durations=9

Each combination has an environment of its own in .matrix/. The newest packages are those
that pip finds for that Python; the oldest, those of constraints-oldest.txt, which are the
least that setup.py allows. A Python that this machine lacks is skipped, by name. Writes
tools/results/matrix.json, where combinations that did not run keep their last result, and
the list of docs/reference/reliability.md. The status is 1 unless all tests passed.
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
from typing import Any

from tools.reliability import report

ENVIRONMENTS = report.ROOT / '.matrix'
OLDEST = 'constraints-oldest.txt'
COMBINATIONS = ('3.11-newest', '3.12-newest', '3.13-newest', '3.11-oldest')
# The packages whose versions the report names.
NAMED = ('jax', 'flax', 'orbax-checkpoint', 'tensorflow', 'numpy')


def interpreter(version: str) -> str | None:
  """Returns a Python of a version, on the PATH or installed by pyenv or uv."""
  installed = pathlib.Path.home() / '.pyenv/versions'
  candidates = [shutil.which(f'python{version}')]
  candidates += sorted(map(str, installed.glob(f'{version}.*/bin/python')), reverse=True)
  if uv := shutil.which('uv'):
    command = [uv, 'python', 'find', version]
    located = subprocess.run(command, capture_output=True, text=True)
    candidates.append(located.stdout.strip() or None)
  for path in filter(None, candidates):
    # pyenv has a command for every version, which fails where that is not chosen.
    done = subprocess.run([path, '--version'], capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.startswith(f'Python {version}.'):
      return path
  return None


def _run(python: str, version: str, packages: str, tests: list[str]) -> dict[str, Any]:
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
  listed = subprocess.run([*pip, 'list', '--format=json'], check=True, capture_output=True)
  packages_list = json.loads(listed.stdout)
  versions = {package['name'].lower(): package['version'] for package in packages_list}
  begun = time.monotonic()
  # `make test-all` uses the same flags.
  pytest = [own, '-m', 'pytest', '-n', '2', '--no-loadscope-reorder', '-m', '', *tests]
  # As in the Makefile, modules are compiled once, and not in every process.
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
  """Runs the combinations and writes the results."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='+', choices=COMBINATIONS, default=COMBINATIONS)
  parser.add_argument('tests', nargs='*', help="pytest's arguments, after --")
  flags = parser.parse_args()
  path = report.RESULTS / 'matrix.json'
  before = json.loads(path.read_text(encoding='utf-8'))['found'] if path.exists() else {}
  results: dict[str, dict[str, Any]] = {}
  skipped: list[str] = []
  for name in COMBINATIONS:
    version, packages = name.split('-')
    python = interpreter(version) if name in flags.only else None
    if name not in flags.only:
      results |= {name: before[name]} if name in before else {}
    elif python is None:
      skipped.append(name)
      print(f'SKIPPED: {name}: this machine has no python{version}', flush=True)
    else:
      try:
        results[name] = _run(python, version, packages, flags.tests)
      except subprocess.CalledProcessError as error:
        failure = f'not installed: {error}'
        results[name] = {'packages': '', 'result': failure, 'passed': False}
      print(f'{name}: {results[name]}', flush=True)
  rows = [
    [
      f'the tests on Python {name.replace("-", ", ")} packages',
      'once',
      f'{result["packages"]}: {result["result"]}',
      'nothing' if result['passed'] else '**failed**',
      f'python -m tools.reliability.matrix --only {name}',
    ]
    for name, result in results.items()
  ]
  rows += [
    [f'the tests on {name}', 'not', 'no such Python here', '', ''] for name in skipped
  ]
  if not flags.tests:  # some tests are not the tests
    result = {'found': results, 'skipped': skipped, 'rows': rows}
    path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    report.write()
  sys.exit(not all(result['passed'] for result in results.values()))


if __name__ == '__main__':
  main()
