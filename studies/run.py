"""Does every run of the studies that has no result yet.

    python -m studies.run [--study=synthetic] [--minutes=60]        (make study)

Runs that differ by seed and rate are trained side by side, four at a time: a small network
leaves a third of a core's time to the start of operations. A run is one line of its study's
results.jsonl when it is done. Stop whenever you like: the next call goes on with the first
run that is missing. Runs take one core; `nice` and `taskset` decide which. Study C
(language) reads its tasks from the folder that STUDY_TEXT_DIR names (language/data.py).
"""

import argparse
import importlib
import os
import sys
import time
from typing import Any

from hyperprompt_jax.errors import UserError

STUDIES = ('synthetic', 'depth', 'language')
SIDE_BY_SIDE = 4  # more gain nothing, and are compiled anew for each number


def main() -> None:
  """Runs what is missing."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--study', choices=STUDIES, help='only this one')
  parser.add_argument('--minutes', type=float, default=float('inf'), help='time to stop')
  flags = parser.parse_args()
  # Before JAX is loaded.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false'
  os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', os.path.expanduser('~/.cache/hyperprompt_studies')
  )
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  end = time.monotonic() + 60 * flags.minutes
  for name in [flags.study] if flags.study else STUDIES:
    design, experiment = (
      importlib.import_module(f'studies.{name}.{part}') for part in ('design', 'experiment')
    )
    _run_study(name, design, experiment, end)


def _run_study(name: str, design: Any, experiment: Any, end: float) -> None:
  """Does the runs of a study, whose later ones depend on the results of the earlier."""
  from studies import records

  path = records.path(name)
  while time.monotonic() < end:
    known = records.read(path)
    done = {design.Experiment(**record['experiment']) for record in known}
    missing = [one for one in design.planned(known) if one not in done]
    if not missing:
      return
    program = design.program(missing[0])
    group = [one for one in missing if design.program(one) == program][:SIDE_BY_SIDE]
    new = experiment.run(group)
    records.add(path, new)
    for number, record in enumerate(new, start=len(known) + 1):
      print(
        f'{name} {number}/{design.count()}  {record["experiment"]}  '
        f'{record.get("tokens", record.get("average", ""))}  {record["seconds"]:.0f} s',
        flush=True,
      )


if __name__ == '__main__':
  try:
    main()
  except UserError as error:
    sys.exit(f'studies.run: {error}')
