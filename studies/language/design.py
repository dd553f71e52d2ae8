"""The runs of study C, in their order; a method is tuned before it is confirmed."""

import dataclasses
from collections.abc import Sequence

from studies.records import Record
from studies.tuning import best_rate

FIRST = ('mtl', 'global')  # the main question
OTHERS = (
  *('adapter', 'share', 'sep', 'prompt_tuning', 'hyperformer', 'global_decoder'),
  *('global_both', 'global_gentle', 'single_task'),
)
METHODS = FIRST + OTHERS
RATES = (0.75e-3, 1.5e-3, 3e-3, 6e-3)
TUNING_SEEDS = (1000, 1001)
SEEDS = range(2000, 2010)
SINGLE_TASK_SEEDS = SEEDS[:6]  # a yardstick
PRETRAINING_RATE = 3e-3
PRETRAINING_STEPS, STEPS = 1600, 1600
ENDPOINT = 'average'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    method: is one of `networks.NAMES`.
    rate: is the highest learning rate of tuning.
    seed: gives the backbone, the method's initialisation and the order of rows; runs that
      are compared have the same.
  """

  method: str
  rate: float
  seed: int


def program(experiment: Experiment) -> str:
  """Runs of which this is equal share one program, and are trained side by side."""
  return experiment.method


def tuning(method: str) -> list[Experiment]:
  """The runs that choose a method's rate."""
  return [Experiment(method, rate, seed) for rate in RATES for seed in TUNING_SEEDS]


def tuned_rate(records: Sequence[Record], method: str) -> float | None:
  """The rate with the highest mean score over the tuning seeds; None if any is missing."""
  scores = {Experiment(**record['experiment']): record[ENDPOINT] for record in records}
  return best_rate(tuning(method), scores)


def confirmed_seeds(method: str) -> Sequence[int]:
  """The seeds of a method's confirmatory runs."""
  return SINGLE_TASK_SEEDS if method == 'single_task' else SEEDS


def planned(records: Sequence[Record]) -> list[Experiment]:
  """All runs whose rates are known by now, the most important ones first."""
  runs: list[Experiment] = []
  for group in (FIRST, *((name,) for name in OTHERS)):
    for name in group:
      runs += tuning(name)
    for name in group:
      rate = tuned_rate(records, name)
      if rate is not None:
        runs += [Experiment(name, rate, seed) for seed in confirmed_seeds(name)]
  return runs


def count() -> int:
  """The number of all runs."""
  tuned = len(METHODS) * len(RATES) * len(TUNING_SEEDS)
  return tuned + sum(len(confirmed_seeds(name)) for name in METHODS)
