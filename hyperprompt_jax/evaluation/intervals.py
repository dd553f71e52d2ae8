"""Confidence intervals of means."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


def bounds(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """The interval of the mean at LEVEL, by Student's t; NaN for fewer than two values."""
  if len(values) < 2:
    return float('nan'), float('nan')
  if np.ptp(values) == 0:
    return float(values[0]), float(values[0])
  interval = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
  return float(interval.low), float(interval.high)
