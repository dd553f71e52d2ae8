"""The study's records, and the statistics of them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperprompt_jax.evaluation import intervals
from studies.interference.experiment import Experiment

PATH = pathlib.Path(__file__).parent / 'results.jsonl'

Record = Mapping[str, Any]
Measure = Callable[[Record], float]


def read(path: pathlib.Path = PATH) -> list[Record]:
  """The records of a file, one a line; not the last if it was cut off in writing."""
  return [json.loads(line) for line in _whole(path).splitlines()]


def mend(path: pathlib.Path = PATH) -> None:
  """Takes out what was cut off in writing, so that lines can be added."""
  if path.exists():
    path.write_text(_whole(path), encoding='utf-8')


def _whole(path: pathlib.Path) -> str:
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  return text[: text.rfind('\n') + 1]


class Results:
  """The records, by configuration and seed."""

  def __init__(self, records: Sequence[Record]):
    self._records: dict[Experiment, dict[int, Record]] = {}
    for record in records:
      experiment = Experiment(**record['experiment'])
      of = self._records.setdefault(dataclasses.replace(experiment, seed=0), {})
      of[experiment.seed] = record

  def of(self, experiment: Experiment) -> dict[int, Record]:
    """The records of a configuration, by seed."""
    return self._records.get(dataclasses.replace(experiment, seed=0), {})

  def values(self, experiment: Experiment, measure: Measure) -> np.ndarray:
    """A measure of each seed."""
    return np.array([measure(r) for _, r in sorted(self.of(experiment).items())])

  def differences(self, one: Experiment, other: Experiment, measure: Measure) -> np.ndarray:
    """Differences of a measure, paired by seed."""
    a, b = self.of(one), self.of(other)
    return np.array([measure(a[seed]) - measure(b[seed]) for seed in sorted({*a} & {*b})])


def half_width(values: np.ndarray) -> float:
  """Half of the interval of the mean."""
  low, high = intervals.bounds(values)
  return (high - low) / 2


def verdict(differences: np.ndarray) -> str:
  """What a paired difference says of the claim that it is above zero."""
  low, high = intervals.bounds(differences)
  return 'yes' if low > 0 else 'the opposite' if high < 0 else 'open'
