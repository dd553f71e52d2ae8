import os
import pathlib
import subprocess
import sys

import hyperprompt_tasks


def test_every_reference_case_of_t5_is_met(shared):
  tool = shared / 'tools' / 'task_parity.py'
  package = pathlib.Path(hyperprompt_tasks.__file__).parents[1]
  arguments = ('--module', 'hyperprompt_tasks', '--prefix', 'hp_', '--strict')
  result = subprocess.run(
    [sys.executable, str(tool), *arguments],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'PYTHONPATH': str(package)},
  )
  assert result.returncode == 0, result.stdout
  assert '39 passed, 0 failed, 0 skipped' in result.stdout
