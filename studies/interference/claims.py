"""What the study compares, and what it claims of that."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from studies.interference import design, results
from studies.interference.results import Measure, Results

change = dataclasses.replace
MTL = design.BASE
SINGLE, SHARE, SEP, GLOBAL = (
  change(MTL, method=method) for method in ('single_task', 'share', 'sep', 'global')
)
DEEP_MTL, DEEP_GLOBAL = (change(of, layers=design.DEEP) for of in (MTL, GLOBAL))
NAMES = {
  'mtl': 'MTL',
  'single_task': 'single task',
  'prompt_tuning': 'Prompt-Tuning',
  'adapter': 'Adapter',
  'hyperformer': 'HyperFormer++',
  'share': 'HyperPrompt-Share',
  'sep': 'HyperPrompt-Sep',
  'global': 'HyperPrompt-Global',
}
METHODS = {NAMES[method]: change(MTL, method=method) for method in design.METHODS}


def percent(name: str) -> Measure:
  """The mean over tasks, or over evaluations, of one entry of a record, in percent."""
  return lambda record: 100 * float(np.mean(record[name]))


EXACT, TOKENS, SPEED = map(
  percent, ('exact_match', 'token_accuracy', 'token_accuracy_curve')
)


def rise(name: str) -> Measure:
  """From the first layer to the last."""
  return lambda record: record[name][-1] - record[name][0]


@dataclasses.dataclass(frozen=True)
class Claim:
  """Something that is so if a difference is above zero.

  Attributes:
    text: the claim.
    measured: the difference, of each seed, of a measure.
    of_attention: the one measure that it is of; None for the scores.
    papers: whether the paper says so; the others are this study's own controls.
  """

  text: str
  measured: Callable[[Measure], np.ndarray]
  of_attention: Measure | None = None
  papers: bool = True

  def verdict(self) -> str:
    """By the tokens that are right."""
    return results.verdict(self.measured(self.of_attention or TOKENS))


def claims(found: Results) -> list[Claim]:
  """What the paper says and what might explain it otherwise."""
  above = lambda one, other: functools.partial(found.differences, one, other)
  controls = design.controls()
  tuned = change(GLOBAL, start='mtl')
  few, *_, many = design.NUM_TASKS

  def growth(measure: Measure) -> np.ndarray:
    gains = {}
    for n in (few, many):
      one, other = (change(of, num_tasks=n) for of in (GLOBAL, MTL))
      gains[n] = found.differences(one, other, measure)
    return gains[many] - gains[few]

  own = functools.partial(Claim, papers=False)
  return [
    own('Interference is real: a network for each task beats MTL', above(SINGLE, MTL)),
    Claim('HyperPrompt-Global beats MTL', above(GLOBAL, MTL)),
    Claim('Global beats Sep', above(GLOBAL, SEP)),
    Claim('Sep beats Share', above(SEP, SHARE)),
    *(
      Claim(f'Global beats {NAMES[name]}', above(GLOBAL, change(MTL, method=name)))
      for name in ('prompt_tuning', 'adapter', 'hyperformer')
    ),
    Claim(
      'Tuning all beats tuning task parameters only',
      above(tuned, change(tuned, tuned='task')),
    ),
    Claim(
      'Prompts in the encoder beat prompts in the decoder',
      above(GLOBAL, change(GLOBAL, stacks='decoder')),
    ),
    Claim(
      'Attention mass on prompts rises from the first layer to the last',
      functools.partial(found.values, DEEP_GLOBAL),
      of_attention=rise('prompt_mass'),
    ),
    Claim(
      'Attention over tokens has more entropy than that of MTL (nats)',
      above(DEEP_GLOBAL, DEEP_MTL),
      of_attention=lambda record: float(np.mean(record['entropy'])),
    ),
    own(f'The gain of Global is larger with {many} tasks than with {few}', growth),
    *(own(f'Global beats {name}', above(GLOBAL, of)) for name, of in controls.items()),
  ]
