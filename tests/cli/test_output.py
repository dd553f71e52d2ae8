"""Standard output that cannot be written is one line, and no traceback."""

import subprocess
import sys

import pytest

from hyperprompt_jax import cli


@pytest.mark.parametrize('arguments', [['--version'], ['config', '--json'], ['eval', '-h']])
def test_a_full_device_is_one_line(arguments, monkeypatch, capfd):
  with open('/dev/full', 'w', encoding='utf-8') as full:
    monkeypatch.setattr(sys, 'stdout', full)
    assert cli.main(arguments) == 2
  err = capfd.readouterr().err
  assert err == 'hyperprompt: standard output cannot be written: No space left on device\n'


def test_streams_that_are_closed_lead_nowhere():
  command = f'exec {sys.executable} -m hyperprompt_jax "$@" <&- >&- 2>&-'
  for words, status in ((['--version'], 0), (['no_verb'], 2)):
    assert (
      subprocess.run(['sh', '-c', command, 'sh', *words], check=False).returncode == status
    )
