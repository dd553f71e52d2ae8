"""The choice of a learning rate from runs on seeds that are used for nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def best_rate(runs: Sequence[Any], scores: Mapping[Any, float]) -> float | None:
  """The rate with the highest mean score; None if any score is missing.

  Args:
    runs: are the tuning runs of a method, with several rates.
    scores: holds the endpoint of the runs that are done.
  """
  if any(one not in scores for one in runs):
    return None
  mean = lambda rate: np.mean([scores[one] for one in runs if one.rate == rate])
  return max(dict.fromkeys(one.rate for one in runs), key=mean)
