"""The runs of study B: one for each backbone, with the rates that study A chose."""

import dataclasses
from collections.abc import Sequence

from studies import records
from studies.records import Record
from studies.synthetic import design as synthetic

METHODS = ('mtl', 'global', 'global_decoder')
BACKBONES = range(12)
PRETRAINING_RATE = 6e-3
PRETRAINING_STEPS, STEPS = 4000, 2000


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A backbone, and what is tuned from it.

  Attributes:
    backbone: is the seed of everything.
    rates: are the rates of METHODS.
  """

  backbone: int
  rates: tuple[float, ...]

  def __post_init__(self):
    object.__setattr__(self, 'rates', tuple(self.rates))  # a list in JSON


def program(experiment: Experiment) -> tuple[float, ...]:
  """Runs of which this is equal share one program, and are trained side by side."""
  return experiment.rates


def planned(_: Sequence[Record]) -> list[Experiment]:
  """All runs; none while study A's rates are not known."""
  known = records.read(records.path('synthetic'))
  rates = [synthetic.tuned_rate(known, name) for name in METHODS]
  chosen = tuple(rate for rate in rates if rate is not None)
  if len(chosen) < len(rates):
    return []
  return [Experiment(backbone, chosen) for backbone in BACKBONES]


def count() -> int:
  """The number of all runs."""
  return len(BACKBONES)
