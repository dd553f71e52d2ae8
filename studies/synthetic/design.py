"""The runs of study A, in their order; a method is tuned before it is confirmed."""

import dataclasses
from collections.abc import Sequence

from studies.networks import DEFAULT, MATCHED
from studies.records import Record
from studies.tuning import best_rate

FIRST = ('mtl', 'global', 'wide_mtl')  # the main question
OTHERS = (
  *('hyperformer', 'adapter', 'share', 'sep', 'prompt_tuning'),
  *('global_decoder', 'global_both', 'single_task'),
)
METHODS = FIRST + OTHERS
RATES = (3e-3, 6e-3, 12e-3, 24e-3)
TUNING_SEEDS = (1000, 1001)
SEEDS = range(2000, 2020)
FIRST_SEEDS = SEEDS[:6]  # of everything, before the rest; all that the yardsticks have
DEFAULT_SEEDS = SEEDS[:10]
STEPS, LONG = 4000, 8
ENDPOINT = 'tokens'
LONG_METHODS = ('mtl', 'wide_mtl', 'global')
DEFAULT_METHODS = tuple(
  name for name in METHODS if name not in ('mtl', 'wide_mtl', 'single_task')
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    method: is one of `networks.NAMES`.
    rate: is the highest learning rate.
    seed: gives data, initialisation and order; what is compared has the same.
    budget: is 'matched' or 'default'.
    steps: counts the steps.
  """

  method: str
  rate: float
  seed: int
  budget: str = MATCHED
  steps: int = STEPS


def program(experiment: Experiment) -> tuple[str, str, int]:
  """Runs of which this is equal share one program, and are trained side by side."""
  return experiment.method, experiment.budget, experiment.steps


def tuning(method: str) -> list[Experiment]:
  """The runs that choose a method's rate."""
  return [Experiment(method, rate, seed) for rate in RATES for seed in TUNING_SEEDS]


def tuned_rate(records: Sequence[Record], method: str) -> float | None:
  """The rate with the highest mean score over the tuning seeds; None if any is missing."""
  scores = {Experiment(**record['experiment']): record[ENDPOINT] for record in records}
  return best_rate(tuning(method), scores)


def planned(records: Sequence[Record]) -> list[Experiment]:
  """All runs whose rates are known by now, the most important ones first."""
  rates = {name: tuned_rate(records, name) for name in METHODS}
  runs: list[Experiment] = []

  def add(name: str, seeds: Sequence[int], budget: str = MATCHED, times: int = 1) -> None:
    rate = rates[name]
    if rate is not None:
      runs.extend(Experiment(name, rate, s, budget, times * STEPS) for s in seeds)

  for group in (FIRST, OTHERS):
    for name in group:
      runs += tuning(name)
    for seeds in (FIRST_SEEDS, SEEDS[len(FIRST_SEEDS) :]):
      for name in group:
        if name != 'single_task' or seeds == FIRST_SEEDS:
          add(name, seeds)
  for name in LONG_METHODS:
    add(name, FIRST_SEEDS, times=LONG)
  for name in DEFAULT_METHODS:
    add(name, DEFAULT_SEEDS, DEFAULT)
  return runs


def count() -> int:
  """The number of all runs."""
  yardsticks = (1 + len(LONG_METHODS)) * len(FIRST_SEEDS)
  main = (len(METHODS) - 1) * len(SEEDS) + yardsticks
  tuned = len(METHODS) * len(RATES) * len(TUNING_SEEDS)
  return tuned + main + len(DEFAULT_METHODS) * len(DEFAULT_SEEDS)
