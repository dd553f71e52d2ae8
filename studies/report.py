"""Makes docs/study.md from the results, whichever runs are done.

python -m studies.report                         (make study-report)
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies import analysis, claims, records
from studies.depth import design as depth
from studies.networks import DEFAULT, MATCHED, NAMES
from studies.records import Record
from studies.synthetic import design as synthetic

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'study.md'
BOUND = 2.0  # points of study A
MISSING = 'not yet run'


class Synthetic:
  """The results of study A."""

  def __init__(self, known: Sequence[Record]):
    self.known = known
    self.rates = {name: synthetic.tuned_rate(known, name) for name in NAMES}

  def arm(
    self, method: str, budget: str = MATCHED, times: int = 1, entry: str = 'tokens'
  ) -> dict[int, float]:
    """An entry of the confirmatory runs of an arm, by seed."""
    values = {}
    for record in self.known:
      one = synthetic.Experiment(**record['experiment'])
      wanted = (method, budget, times * synthetic.STEPS)
      if one.seed in synthetic.SEEDS and (one.method, one.budget, one.steps) == wanted:
        values[one.seed] = float(np.mean(record[entry]))
    return values

  def of_method(self, method: str, budget: str) -> Record | None:
    """Any record of a method."""
    for record in self.known:
      experiment = record['experiment']
      if (experiment['method'], experiment['budget']) == (method, budget):
        return record
    return None


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> np.ndarray:
  """Differences of the seeds that both have."""
  return np.array([one[seed] - other[seed] for seed in sorted({*one} & {*other})])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table of Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def spread(effect: analysis.Effect, digits: int = 1) -> str:
  """A mean with its interval."""
  if not effect.pairs:
    return MISSING
  mean = f'{effect.mean:+.{digits}f}'
  if effect.pairs < 2:
    return f'{mean} (one pair)'
  return f'{mean} ({effect.low:+.{digits}f} to {effect.high:+.{digits}f})'


def small(p: float) -> str:
  """A p value."""
  return '' if np.isnan(p) else f'{p:.2g}'


# ---- Tables ----

CLAIMS_HEAD = (
  *('id', 'claim', 'source', 'effect (95 % interval)', 'pairs', 'p', 'detects'),
  'so here?',
)


def claim_rows(effects: Mapping[str, Any], planned: int, digits: int) -> list[list[str]]:
  """Rows of the table of claims.

  Args:
    effects: Holds the claim, its source and its effect, by number.
    planned: Is the number of pairs that was planned.
    digits: Is that of decimals.
  """
  done = {name: effect.pairs >= planned for name, (_, _, effect) in effects.items()}
  p = {name: effect.p for name, (_, _, effect) in effects.items()}
  # Only a family that is complete can be corrected.
  adjusted = analysis.holm(p) if all(done.values()) else dict.fromkeys(p, float('nan'))
  rows = []
  for name, (claim, source, effect) in effects.items():
    verdict = analysis.verdict(effect, adjusted[name], planned)
    if done[name] and not all(done.values()):
      verdict = 'not yet run: other tests of its family are missing'
    numbers = [spread(effect, digits), f'{effect.pairs} of {planned}']
    numbers += [small(adjusted[name]), small(effect.detectable(planned, len(effects)))]
    rows.append([name, claim, source, *numbers, verdict])
  return rows


IN_SHORT = {
  'yes': 'Holds here',
  'the opposite': 'The opposite holds here',
  'no difference that matters': 'Makes no difference that matters here',
}
UNDECIDED = 'Cannot be told yet'


def in_short(rows: Sequence[Sequence[str]]) -> str:
  """A list of the claims by verdict.

  Args:
    rows: Are those of the table of claims.
  """
  groups: dict[str, list[str]] = {}
  for row in rows:
    label = IN_SHORT.get(row[-1], UNDECIDED)
    detail = f' {row[3]}' if label != UNDECIDED else ''
    groups.setdefault(label, []).append(f'{row[1]} ({row[0]}{detail})')
  lines = [
    f'- **{label}:** {"; ".join(groups[label])}.\n'
    for label in (*IN_SHORT.values(), UNDECIDED)
    if label in groups
  ]
  return ''.join(lines)


def synthetic_effects(results: Synthetic) -> dict[str, Any]:
  """The contrasts of study A."""
  effects = {}
  for one in claims.SYNTHETIC:
    differences = paired(results.arm(one.one), results.arm(one.other))
    effects[one.name] = (one.claim, one.source, analysis.effect(differences, BOUND))
  return effects


def depth_effects(known: Sequence[Record]) -> dict[str, Any]:
  """The contrasts of study B."""

  def slope(mass: Sequence[float]) -> float:
    return float(np.polyfit(np.arange(1, len(mass) + 1), mass, 1)[0])

  def entropy(record: Record, method: str) -> float:
    return float(np.mean(record[method]['end']['entropy']))

  measured: dict[str, list[float]] = {name: [] for name in claims.DEPTH}
  for record in known:
    end, start = (slope(record['global'][when]['mass']) for when in ('end', 'start'))
    plain = entropy(record, 'mtl')
    measured['B1'].append(end)
    measured['B2'].append(end - start)
    measured['B3'].append(entropy(record, 'global') - plain)
    measured['B4'].append(entropy(record, 'global_decoder') - plain)
  return {
    name: (claim, source, analysis.effect(measured[name], bound))
    for name, (claim, source, bound) in claims.DEPTH.items()
  }


def method_rows(results: Synthetic, budget: str, names: Sequence[str]) -> list[list[str]]:
  """Every method's scores, failed runs and differences from MTL."""
  plain = results.arm('mtl')
  least = min(plain.values(), default=float('nan'))
  rows = []
  for name in names:
    scores, record = results.arm(name, budget), results.of_method(name, budget)
    values = np.array(list(scores.values()))
    row = [NAMES[name], f'{record["parameters"]:,}' if record else '']
    row += [
      f'{results.rates[name]:g}' if results.rates[name] else MISSING,
      f'{len(values)}',
    ]
    if len(values):
      low, middle, high = np.quantile(values, [0, 0.5, 1])
      failed = int((values < least).sum())
      row += [f'{values.mean():.1f}', f'{low:.1f} / {middle:.1f} / {high:.1f}']
      row += [f'{failed} of {len(values)}']
      for entry in ('exact_match', 'tokens_curve'):
        row.append(f'{np.mean([*results.arm(name, budget, entry=entry).values()]):.1f}')
    else:
      row += [''] * 5
    effect = analysis.effect(paired(scores, plain), BOUND)
    rows.append([*row, '' if name == 'mtl' else spread(effect)])
  return rows


def tuning_rows(results: Synthetic) -> list[list[str]]:
  """The mean score of each method and rate over the tuning seeds."""
  scores = {
    synthetic.Experiment(**record['experiment']): record['tokens']
    for record in results.known
  }
  rows = []
  for name in synthetic.METHODS:
    cells = []
    for rate in synthetic.RATES:
      runs = [one for one in synthetic.tuning(name) if one.rate == rate]
      done = [scores[one] for one in runs if one in scores]
      cells.append(f'{np.mean(done):.1f}' if len(done) == len(runs) else '')
    chosen = results.rates[name]
    edge = chosen in (synthetic.RATES[0], synthetic.RATES[-1])
    at = MISSING if chosen is None else f'{chosen:g}{", the edge of the grid" * edge}'
    rows.append([NAMES[name], *cells, at])
  return rows


def gate(results: Synthetic) -> str:
  """Whether there is interference at convergence."""
  planned = len(synthetic.FIRST_SEEDS)
  long = results.arm('mtl', times=synthetic.LONG)
  effect = analysis.effect(paired(results.arm('single_task'), long), BOUND)
  text = (
    f'Points of single-task networks above MTL at {synthetic.LONG} times as many steps: '
    f'{spread(effect)}; {effect.pairs} of {planned} seeds. '
  )
  if effect.pairs < planned:
    return text + 'The gate is not decided yet.\n'
  if effect.low > 5:
    return text + 'The gate is passed: there is interference at convergence.\n'
  return text + 'The gate is not passed: study A cannot tell anything about interference.\n'


def convergence_rows(results: Synthetic) -> list[list[str]]:
  """Means and differences of arms that were trained for many times the steps."""
  rows = []
  for name in synthetic.LONG_METHODS:
    scores = results.arm(name, times=synthetic.LONG)
    mean = f'{np.mean(list(scores.values())):.1f}' if scores else MISSING
    differences = paired(results.arm('global', times=synthetic.LONG), scores)
    effect = analysis.effect(differences, BOUND)
    rows.append([NAMES[name], f'{len(scores)}', mean])
    rows[-1].append('' if name == 'global' else spread(effect))
  return rows


def depth_rows(known: Sequence[Record]) -> list[list[str]]:
  """Mass and entropy by layer, as means over backbones."""
  rows = []
  for label, path in (
    ('mass, Global, step 0', ('global', 'start', 'mass')),
    ('mass, Global, tuned', ('global', 'end', 'mass')),
    ('entropy, MTL', ('mtl', 'end', 'entropy')),
    ('entropy, Global', ('global', 'end', 'entropy')),
    ('entropy, Global in the decoder', ('global_decoder', 'end', 'entropy')),
  ):
    layers = np.mean([record[path[0]][path[1]][path[2]] for record in known], axis=0)
    rows.append([label, *(f'{value:.3f}' for value in layers)])
  return rows


# ---- The page ----

HEAD = """\
# Does HyperPrompt beat plain multi-task training?

`make study-report` makes this page from `studies/*/results.jsonl`; every number is theirs.
[The pre-registration](../studies/PREREGISTRATION.md) was committed before the first run. It
defines tasks, endpoints, contrasts, seeds and tests. `make study` does the runs that are
missing.

**Done so far:** {done}.
A contrast whose runs are not all done decides nothing, whatever its effect so far.

"""

SOURCES = """
Sources: *poster* is the paper's poster at ICML 2022; *summary* is a reader's summary of the
paper's ablation tables (yong1-kim, 2024), as its full text could not be had; *ours* are
controls that the paper does not speak of. *Detects* is the difference that the planned
number of pairs detects at 80 % power, by the deviation seen so far.
"""

OLD = """
## The earlier study, and why it is gone

Until 2026-11-28 this page reported that HyperPrompt-Global gains 26.8 points over MTL. That
difference came from the learning rate: all methods had 0.003, at which MTL had not finished
learning, and MTL at 0.012 reached 98.8 % of tokens. At the best rate of each, the
difference was +1.2 ± 2.4. The study compared methods of unequal size, had five seeds, and
corrected nothing for sixteen tests. Two claims that it printed as the paper's were not the
paper's. Its results are not kept.

## Limits

- The networks of studies A and B are tiny, and most methods add nearly as many parameters
  again. T5 has a language, and HyperPrompt adds 0.14 % to T5 XXL (poster).
- The tasks of studies A and B disagree by construction and share no knowledge. Those of
  SuperGLUE can help each other.
- Equal added parameters are not equal arithmetic: the budget gives Prompt-Tuning many
  prompts.
- The rates are tuned on two seeds and a grid of four.
"""


def page() -> str:
  """The text of docs/study.md."""
  results = Synthetic(records.read(records.path('synthetic')))
  deep = records.read(records.path('depth'))
  done = [
    f'study A {len(results.known)} of {synthetic.count()} runs',
    f'study B {len(deep)} of {depth.count()}',
    'study C (real language) none: it is not registered yet',
  ]
  text = HEAD.format(done='; '.join(done))
  rows = claim_rows(synthetic_effects(results), len(synthetic.SEEDS), 1)
  rows += claim_rows(depth_effects(deep), len(depth.BACKBONES), 3)
  text += f'## In short\n\nAt equal budgets and the best rate of each:\n\n{in_short(rows)}'
  text += '\n## Claims\n\nDifferences of study A are in points of right tokens.\n\n'
  text += table(CLAIMS_HEAD, rows)
  text += SOURCES
  text += '\nStated by a source, and not tested here:\n\n'
  text += ''.join(f'- {claim} ({source}).\n' for claim, source in claims.UNTESTED)
  text += '\n## Study A: interference\n\n' + gate(results)
  head = ('method', 'parameters', 'rate', 'seeds', 'mean', 'least / median / most')
  head = (*head, 'failed runs', 'whole strings', 'over training')
  head = (*head, 'less MTL (95 % interval)')
  text += '\nThe main arm, with equal budgets:\n\n'
  text += table(head, method_rows(results, MATCHED, synthetic.METHODS))
  text += '\nThe second arm, without a budget:\n\n'
  text += table(head, method_rows(results, DEFAULT, synthetic.DEFAULT_METHODS))
  text += f'\nThe main arm at {synthetic.LONG} times as many steps:\n\n'
  head = ('method', 'seeds', 'mean', 'Global less this (95 % interval)')
  text += table(head, convergence_rows(results))
  text += '\nTuning, on seeds that are used for nothing else:\n\n'
  rates = (f'{rate:g}' for rate in synthetic.RATES)
  text += table(('method', *rates, 'chosen'), tuning_rows(results))
  text += '\n## Study B: attention over depth\n\n'
  if deep:
    layers = (f'layer {m + 1}' for m in range(len(deep[0]['mtl']['end']['entropy'])))
    text += f'Means over {len(deep)} backbones:\n\n'
    text += table(('', *layers), depth_rows(deep))
  else:
    text += 'Not yet run.\n'
  text += '\n## Study C: real language\n\nNot yet run, and not yet registered.\n'
  return text + OLD


def main() -> None:
  """Writes the page."""
  PAGE.write_text(page(), encoding='utf-8')
  print(PAGE)


if __name__ == '__main__':
  main()
