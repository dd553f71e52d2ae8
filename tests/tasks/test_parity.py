import runpy
import sys
import warnings

import pytest


def test_every_reference_case_of_t5_is_met(shared, monkeypatch, capsys):
  arguments = ('--module', 'hyperprompt_tasks', '--prefix', 'hp_', '--strict')
  tool = str(shared / 'tools' / 'task_parity.py')
  monkeypatch.setattr(sys, 'argv', [tool, *arguments])
  with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
    warnings.simplefilter('ignore')  # metrics of constant predictions
    runpy.run_path(tool, run_name='__main__')
  output = capsys.readouterr().out
  assert ended.value.code == 0, output
  assert '39 passed, 0 failed, 0 skipped' in output
