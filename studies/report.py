"""Makes docs/study.md from the results, whichever runs are done.

python -m studies.report                         (make study-report)
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from studies import analysis, claims, records
from studies.depth import design as depth
from studies.language import design as language
from studies.language.data import TASKS
from studies.networks import DEFAULT, MATCHED, NAMES
from studies.records import Record
from studies.synthetic import design as synthetic
from studies.tables import (
  CLAIMS_HEAD,
  METHOD_HEAD,
  MISSING,
  Results,
  claim_rows,
  contrast_effects,
  in_short,
  method_rows,
  paired,
  spread,
  table,
  tuning_table,
)

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'study.md'
BOUND, LANGUAGE_BOUND = 2.0, 1.0  # points of studies A and C


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


def gate(points: str, effect: analysis.Effect, planned: int, least: float) -> str:
  """Whether a study can tell what it is for.

  Args:
    points: says what the effect is.
    effect: is that which must exist.
    planned: is the number of pairs that was planned.
    least: is the bound that the interval must exceed.
  """
  text = f'{points}: {spread(effect)}; {effect.pairs} of {planned} seeds. '
  if effect.pairs < planned:
    return text + 'The gate is not decided yet.\n'
  if effect.low > least:
    return text + f'The gate is passed: the interval lies above {least:g}.\n'
  return text + 'The gate is not passed: the study cannot tell anything.\n'


def interference(results: Results) -> str:
  """The gate of study A: interference at convergence."""
  long = results.arm('mtl', steps=synthetic.LONG * synthetic.STEPS)
  effect = analysis.effect(paired(results.arm('single_task'), long), BOUND)
  points = (
    f'Points of single-task networks above MTL at {synthetic.LONG} times as many steps'
  )
  return gate(points, effect, len(synthetic.FIRST_SEEDS), least=5)


def convergence_rows(results: Results) -> list[list[str]]:
  """Means and differences of arms that were trained for many times the steps."""
  rows = []
  steps = synthetic.LONG * synthetic.STEPS
  for name in synthetic.LONG_METHODS:
    scores = results.arm(name, steps=steps)
    mean = f'{np.mean(list(scores.values())):.1f}' if scores else MISSING
    effect = analysis.effect(paired(results.arm('global', steps=steps), scores), BOUND)
    rows.append([NAMES[name], f'{len(scores)}', mean])
    rows[-1].append('' if name == 'global' else spread(effect))
  return rows


def learning(results: Results) -> str:
  """The gate of study C: plain multi-task training learns."""
  above = paired(results.arm('mtl'), results.arm('mtl', 'majority'))
  points = 'Points of MTL above the most frequent labels'
  effect = analysis.effect(above, LANGUAGE_BOUND)
  return gate(points, effect, len(language.SEEDS), least=3)


def task_rows(results: Results) -> list[list[str]]:
  """The mean accuracy of every method on every task, and of the most frequent label."""
  rows = []
  for name in language.METHODS:
    accuracies = [*results.arm(name, 'accuracies').values()]
    if accuracies:
      rows.append([NAMES[name], *(f'{x:.1f}' for x in np.mean(accuracies, axis=0))])
  if results.known:
    most = results.known[0]['majorities']
    rows.append(['most frequent label', *(f'{x:.1f}' for x in most)])
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

LESS_MTL = 'less MTL (95 % interval)'
TUNING = '\nTuning, on seeds that are used for nothing else:\n\n'

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
- The networks of study C are small, and saw 4.1 million pieces of text in pretraining. At
  its budget, an adapter has a bottleneck of 1.
- The rates are tuned on two seeds and a grid of four.
"""


def page() -> str:
  """The text of docs/study.md."""
  conflict = Results(records.read(records.path('synthetic')), synthetic)
  deep = records.read(records.path('depth'))
  real = Results(records.read(records.path('language')), language)
  done = [
    f'study A {len(conflict.known)} of {synthetic.count()} runs',
    f'study B {len(deep)} of {depth.count()}',
    f'study C {len(real.known)} of {language.count()}',
  ]
  text = HEAD.format(done='; '.join(done))
  effects = contrast_effects(conflict, claims.SYNTHETIC, BOUND)
  rows = claim_rows(effects, len(synthetic.SEEDS), 1)
  rows += claim_rows(depth_effects(deep), len(depth.BACKBONES), 3)
  effects = contrast_effects(real, claims.LANGUAGE, LANGUAGE_BOUND)
  rows += claim_rows(effects, len(language.SEEDS), 1)
  text += (
    '## In short\n\nAt equal budgets and the best rate of each, with 95 % intervals:\n\n'
  )
  text += in_short(rows)
  text += '\n## Claims\n\nDifferences of study A are in points of right tokens, those of '
  text += 'study C in points of accuracy.\n\n'
  text += table(CLAIMS_HEAD, rows)
  text += SOURCES
  text += '\nStated by a source, and not tested here:\n\n'
  text += ''.join(f'- {claim} ({source}).\n' for claim, source in claims.UNTESTED)
  return (
    text + synthetic_section(conflict) + depth_section(deep) + language_section(real) + OLD
  )


def synthetic_section(results: Results) -> str:
  """The section of study A."""
  text = '\n## Study A: interference\n\n' + interference(results)
  others = ('exact_match', 'tokens_curve')
  head = (*METHOD_HEAD, 'whole strings', 'over training', LESS_MTL)
  text += '\nThe main arm, with equal budgets:\n\n'
  rows = method_rows(results, synthetic.METHODS, others, BOUND, budget=MATCHED)
  text += table(head, rows)
  text += '\nThe second arm, without a budget:\n\n'
  rows = method_rows(results, synthetic.DEFAULT_METHODS, others, BOUND, budget=DEFAULT)
  text += table(head, rows)
  text += f'\nThe main arm at {synthetic.LONG} times as many steps:\n\n'
  long_head = ('method', 'seeds', 'mean', 'Global less this (95 % interval)')
  text += table(long_head, convergence_rows(results))
  return text + TUNING + tuning_table(results)


def depth_section(known: Sequence[Record]) -> str:
  """The section of study B."""
  text = '\n## Study B: attention over depth\n\n'
  if not known:
    return text + 'Not yet run.\n'
  layers = (f'layer {m + 1}' for m in range(len(known[0]['mtl']['end']['entropy'])))
  text += f'Means over {len(known)} backbones:\n\n'
  return text + table(('', *layers), depth_rows(known))


def language_section(results: Results) -> str:
  """The section of study C."""
  text = '\n## Study C: real language\n\n' + learning(results)
  text += '\nAccuracy on validation rows, as a mean over twelve tasks:\n\n'
  head = (*METHOD_HEAD, 'F1', LESS_MTL)
  rows = method_rows(results, language.METHODS, ('average_f1',), LANGUAGE_BOUND)
  text += table(head, rows)
  if any(results.arm(name) for name in language.METHODS):
    text += '\nBy task:\n\n' + table(('method', *TASKS), task_rows(results))
  return text + TUNING + tuning_table(results)


def main() -> None:
  """Writes the page."""
  PAGE.write_text(page(), encoding='utf-8')
  print(PAGE)


if __name__ == '__main__':
  main()
