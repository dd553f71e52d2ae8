"""The statistics of the studies: exact tests of paired differences, corrected."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
# Up to so many pairs every pattern of signs is counted.
EXACT = 20
DRAWS = 200_000


def interval(
  values: Sequence[float] | np.ndarray, level: float = LEVEL
) -> tuple[float, float]:
  """The interval of the mean by Student's t; NaN for fewer than two values."""
  if len(values) < 2:
    return float('nan'), float('nan')
  mean = float(np.mean(values))
  error = float(np.std(values, ddof=1)) / len(values) ** 0.5
  half = error * float(stats.t.ppf((1 + level) / 2, len(values) - 1))
  return mean - half, mean + half


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
  """The two-sided p of a mean difference, by flipping the signs of the pairs.

  Under the hypothesis of no difference each sign is as likely as the other. All `2 ** n`
  patterns are counted for up to `EXACT` pairs; beyond that, `DRAWS` random ones and the
  observed one, always the same.

  Returns:
    The share of patterns whose mean is at least as far from zero; NaN without pairs.
  """
  values = np.asarray(differences, np.float64)
  if not len(values):
    return float('nan')
  observed = abs(values.sum()) - 1e-9
  if len(values) > EXACT:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(values)))
    return float((1 + (abs(signs @ values) >= observed).sum()) / (1 + DRAWS))
  # All sums, by adding one pair after the other.
  sums = np.zeros(1)
  for value in values:
    sums = np.concatenate([sums + value, sums - value])
  return float((abs(sums) >= observed).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Adjusts the p of a family of tests by Holm's method; tests without data stay NaN."""
  adjusted = dict(p_values)
  valid = sorted((p, name) for name, p in p_values.items() if not np.isnan(p))
  highest = 0.0
  for rank, (p, name) in enumerate(valid):
    highest = max(highest, min(1.0, p * (len(valid) - rank)))
    adjusted[name] = highest
  return adjusted


@dataclasses.dataclass(frozen=True)
class Effect:
  """A paired difference.

  Attributes:
    mean: is its mean; NaN without pairs.
    low: is the lower end of its 95 % interval.
    high: is the upper end.
    pairs: counts the pairs.
    p: is that of the sign-flip test, uncorrected.
    equivalent: tells whether the 90 % interval lies within the bound of equivalence: two
      one-sided tests at 5 %.
    deviation: is the standard deviation of the differences; NaN for fewer than two.
  """

  mean: float
  low: float
  high: float
  pairs: int
  p: float
  equivalent: bool
  deviation: float

  def detectable(self, pairs: int, tests: int, power: float = 0.8) -> float:
    """The smallest mean difference that one of a family of tests would detect.

    Args:
      pairs: is the planned number of pairs.
      tests: is the number of tests that ALPHA is divided by.
      power: is the probability of detection.
    """
    t = stats.t(pairs - 1)
    quantiles = float(t.ppf(1 - ALPHA / tests / 2) + t.ppf(power))
    return quantiles * self.deviation / pairs**0.5


def effect(differences: Sequence[float] | np.ndarray, bound: float) -> Effect:
  """Sums up paired differences.

  Args:
    differences: holds the difference of each seed.
    bound: is the smallest difference that would matter.
  """
  values = np.asarray(differences, np.float64)
  mean = float(values.mean()) if len(values) else float('nan')
  inner = interval(values, 2 * LEVEL - 1)
  equivalent = -bound < inner[0] and inner[1] < bound
  deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float('nan')
  p = sign_flip(values)
  return Effect(mean, *interval(values), len(values), p, equivalent, deviation)


def verdict(one: Effect, adjusted: float, planned: int) -> str:
  """States what an effect says about the claim that the difference is above zero.

  Args:
    one: is the effect.
    adjusted: is its p, corrected for the family of tests.
    planned: is the number of pairs that was planned.
  """
  if one.pairs < planned:
    return f'not yet run: {one.pairs} of {planned} pairs'
  if adjusted < ALPHA:
    return 'yes' if one.mean > 0 else 'the opposite'
  return 'no difference that matters' if one.equivalent else 'cannot be told here'
