"""A checkpoint to start from."""

import pytest

from tests import published
from tests.checkpoints import started


@pytest.fixture(scope='session')
def source(tmp_path_factory):
  """A native T5X checkpoint of the network. Read only."""
  return published.t5x(tmp_path_factory.mktemp('t5x'))


@pytest.fixture(scope='session')
def started_run(source, tmp_path_factory, compile_once):
  """A run with a method that has started from `source`, and moved nothing. Read only."""
  return started.train(tmp_path_factory.mktemp('started') / 'run', source)
