"""A checkpoint to start from."""

import pytest

from tests import published


@pytest.fixture(scope='session')
def source(tmp_path_factory):
  """A native T5X checkpoint of the network. Read only."""
  return published.t5x(tmp_path_factory.mktemp('t5x'))
