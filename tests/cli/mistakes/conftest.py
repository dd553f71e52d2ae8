"""Every mistake of a user's ends in one line on standard error and exit status 2."""

import shutil

import pytest

from hyperprompt_jax import cli
from tests import tiny_run


@pytest.fixture
def mistake(capfd):
  """Runs the command line, which must fail with one line, and returns the line."""

  def run(arguments, *, progress=0, table=False):
    capfd.readouterr()
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ''
    assert 'Traceback' not in err
    lines = tiny_run.without_header(err)[progress:]
    if not table:
      assert len(lines) == 1, err
    assert lines[0].startswith('hyperprompt: ')
    assert 'In call to configurable' not in err
    return '\n'.join(lines)

  return run


@pytest.fixture
def refused(tmp_path, mistake):
  """Starts a training run that must be refused before it writes a file."""

  def run(*more, **kwargs):
    folder = tmp_path / 'refused'
    line = mistake(tiny_run.train_arguments(folder, *more, **kwargs))
    assert not folder.exists()
    return line

  return run


@pytest.fixture
def copy(trained, tmp_path):
  """A copy of the trained run, which a test may damage."""
  folder = tmp_path / 'copy'
  shutil.copytree(trained, folder)
  return folder
