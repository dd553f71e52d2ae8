"""Marks tests that `make test` leaves to `make test-all`; CONTRIBUTING.md has the rule."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

# Every test of a session, those that are deselected included.
COLLECTED = pytest.StashKey[list[pytest.Item]]()


def all_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
  """Returns the values of a parameter, of which all but the quick ones are slow."""
  values = list(values)
  assert all(value in values for value in quick), quick
  return [x if x in quick else pytest.param(x, marks=pytest.mark.slow) for x in values]
