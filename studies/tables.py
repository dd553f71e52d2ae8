"""Tables of the studies' results, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies import analysis
from studies.networks import NAMES
from studies.records import Record

MISSING = 'not yet run'


class Results:
  """The runs of a study whose experiments have a method, a rate and a seed.

  Attributes:
    known: are all records.
    design: is the module of the study's plan.
    rates: holds the tuned rate of each method; None while it is not known.
  """

  def __init__(self, known: Sequence[Record], design: Any):
    self.known = known
    self.design = design
    self.rates = {name: design.tuned_rate(known, name) for name in design.METHODS}

  def arm(self, method: str, entry: str | None = None, **fields: Any) -> dict[int, Any]:
    """An entry of the confirmatory runs of an arm, by seed.

    Args:
      method: names the method.
      entry: names the entry; None is for the study's endpoint.
      **fields: are the further attributes of the arm's experiments.
    """
    entries = {}
    for record in self.known:
      one = self.design.Experiment(**record['experiment'])
      wanted = self.design.Experiment(method, one.rate, one.seed, **fields)
      if one.seed in self.design.SEEDS and one == wanted:
        entries[one.seed] = record[entry or self.design.ENDPOINT]
    return entries

  def of_method(self, method: str, **fields: Any) -> Record | None:
    """Any record of a method."""
    for record in self.known:
      one = record['experiment']
      if one['method'] == method and all(one[name] == fields[name] for name in fields):
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


WAITS = 'waits for the other runs of its study'
CLAIMS_HEAD = (
  *('id', 'claim', 'source', 'effect (95 % interval)', 'pairs', 'p', 'detects'),
  'so here?',
)


def claim_rows(effects: Mapping[str, Any], planned: int, digits: int) -> list[list[str]]:
  """Rows of the table of claims.

  Args:
    effects: holds the claim, its source and its effect, by number.
    planned: is the number of pairs that was planned.
    digits: is that of decimals.
  """
  done = {name: effect.pairs >= planned for name, (_, _, effect) in effects.items()}
  p = {name: effect.p for name, (_, _, effect) in effects.items()}
  # Only a family that is complete can be corrected.
  adjusted = analysis.holm(p) if all(done.values()) else dict.fromkeys(p, float('nan'))
  rows = []
  for name, (claim, source, effect) in effects.items():
    verdict = analysis.verdict(effect, adjusted[name], planned)
    if done[name] and not all(done.values()):
      verdict = WAITS
    numbers = [spread(effect, digits), f'{effect.pairs} of {planned}']
    numbers += [small(adjusted[name]), small(effect.detectable(planned, len(effects)))]
    rows.append([name, claim, source, *numbers, verdict])
  return rows


IN_SHORT = {
  'yes': 'Holds here',
  'the opposite': 'The opposite holds here',
  'no difference that matters': 'Makes no difference that matters here',
  'cannot be told here': 'Cannot be told here',
  WAITS: 'Measured, but decided only when all runs of the study are done',
}
NOT_RUN = 'Not all runs are done'


def in_short(rows: Sequence[Sequence[str]]) -> str:
  """A list of the claims by verdict.

  Args:
    rows: are those of the table of claims.
  """
  groups: dict[str, list[str]] = {}
  for row in rows:
    label = IN_SHORT.get(row[-1], NOT_RUN)
    detail = row[0] if label == NOT_RUN else f'{row[0]}: {row[3]}'
    groups.setdefault(label, []).append(f'{row[1]} ({detail})')
  return ''.join(
    f'- **{label}**\n' + ''.join(f'  - {claim}\n' for claim in groups[label])
    for label in (*IN_SHORT.values(), NOT_RUN)
    if label in groups
  )


METHOD_HEAD = (
  *('method', 'parameters', 'rate', 'seeds', 'mean', 'least / median / most'),
  'failed runs',
)


def method_rows(
  results: Results, names: Sequence[str], others: Sequence[str], bound: float, **fields: Any
) -> list[list[str]]:
  """Every method's scores, failed runs, other entries and differences from MTL.

  Args:
    results: are the study's.
    names: are those of the methods.
    others: names further entries whose means are shown.
    bound: is the study's bound of equivalence.
    **fields: are the further attributes of the arm's experiments.
  """
  plain = results.arm('mtl')
  least = min(plain.values(), default=float('nan'))
  rows = []
  for name in names:
    scores, record = results.arm(name, **fields), results.of_method(name, **fields)
    values = np.array(list(scores.values()))
    row = [NAMES[name], f'{record["parameters"]:,}' if record else '']
    row += [f'{results.rates[name]:g}' if results.rates[name] else MISSING]
    row += [f'{len(values)}']
    if len(values):
      low, middle, high = np.quantile(values, [0, 0.5, 1])
      failed = int((values < least).sum())
      row += [f'{values.mean():.1f}', f'{low:.1f} / {middle:.1f} / {high:.1f}']
      row += [f'{failed} of {len(values)}']
      for entry in others:
        row.append(f'{np.mean([*results.arm(name, entry, **fields).values()]):.1f}')
    else:
      row += [''] * (3 + len(others))
    effect = analysis.effect(paired(scores, plain), bound)
    rows.append([*row, '' if name == 'mtl' else spread(effect)])
  return rows


def tuning_table(results: Results) -> str:
  """The mean score of each method and rate over the tuning seeds."""
  design = results.design
  scores = {
    design.Experiment(**record['experiment']): record[design.ENDPOINT]
    for record in results.known
  }
  rows = []
  for name in design.METHODS:
    cells = []
    for rate in design.RATES:
      runs = [one for one in design.tuning(name) if one.rate == rate]
      done = [scores[one] for one in runs if one in scores]
      cells.append(f'{np.mean(done):.1f}' if len(done) == len(runs) else '')
    chosen = results.rates[name]
    edge = chosen in (design.RATES[0], design.RATES[-1])
    at = MISSING if chosen is None else f'{chosen:g}{", the edge of the grid" * edge}'
    rows.append([NAMES[name], *cells, at])
  rates = (f'{rate:g}' for rate in design.RATES)
  return table(('method', *rates, 'chosen'), rows)


def contrast_effects(results: Results, contrasts: Sequence[Any], bound: float) -> dict:
  """The claim, source and effect of each contrast, by its number."""
  effects = {}
  for one in contrasts:
    differences = paired(results.arm(one.one), results.arm(one.other))
    effects[one.name] = (one.claim, one.source, analysis.effect(differences, bound))
  return effects
