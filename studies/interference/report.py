"""Makes docs/study.md and its pictures of results.jsonl; no number in it is typed.

python -m studies.interference.report            (make study-report)
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperprompt_jax.evaluation import intervals
from studies.interference import design, experiment, pictures, results, tasks
from studies.interference.claims import (
  DEEP_GLOBAL,
  DEEP_MTL,
  EXACT,
  GLOBAL,
  METHODS,
  MTL,
  NAMES,
  SINGLE,
  SPEED,
  TOKENS,
  Claim,
  change,
  claims,
)
from studies.interference.experiment import Experiment
from studies.interference.results import Results

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
PAGE = 'study.md'

# ---- Text ----


def number(values: np.ndarray, digits: int = 1, sign: bool = False) -> str:
  """Mean and interval."""
  form = f'{"+" if sign else ""}.{digits}f'
  return f'{values.mean():{form}} ± {results.half_width(values):.{digits}f}'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def comparison(
  found: Results, rows: Mapping[str, Experiment], against: Experiment, name: str
) -> str:
  """Sizes and scores of each row, and its paired difference from one of them."""
  head = ('', 'parameters', 'exact match', 'tokens', 'tokens, over training')
  lines = []
  for label, of in rows.items():
    scores = (number(found.values(of, measure)) for measure in (EXACT, TOKENS, SPEED))
    gain = number(found.differences(of, against, TOKENS), sign=True)
    size = next(iter(found.of(of).values()))['parameters']
    lines.append([label, f'{size:,}', *scores, '' if of == against else gain])
  return table((*head, f'tokens, against {name}'), lines)


def sweep(
  found: Results, label: str, values: Sequence[Any], field: str, *methods: str
) -> str:
  """MTL and others over something that varies, and what stands between them."""
  head = [label, *(f'{NAMES[method]}, tokens' for method in ('mtl', *methods))]
  for method in methods:
    head += [f'gain of {NAMES[method]}, tokens', 'over training']
  rows = []
  for value in values:
    mtl, *others = (
      change(MTL, method=method, **{field: value}) for method in ('mtl', *methods)
    )
    row = [f'{value:g}', *(number(found.values(of, TOKENS)) for of in (mtl, *others))]
    for of in others:
      row += [
        number(found.differences(of, mtl, measure), sign=True)
        for measure in (TOKENS, SPEED)
      ]
    rows.append(row)
  return table(head, rows)


# ---- Claims ----


def claim_row(claim: Claim) -> list[str]:
  """Of the table."""
  if claim.of_attention:
    shown = [number(claim.measured(claim.of_attention), digits=3, sign=True), '']
  else:
    shown = [number(claim.measured(measure), sign=True) for measure in (TOKENS, SPEED)]
  return [claim.text, *shown, claim.verdict()]


SUMMARY = {
  'yes': 'Seen here, too',
  'the opposite': 'The opposite is seen',
  'open': 'Open, as the interval holds zero',
}


def summary(of: Sequence[Claim]) -> str:
  """The paper's claims by what became of them."""
  lines = []
  for verdict, says in SUMMARY.items():
    texts = [claim.text for claim in of if claim.papers and claim.verdict() == verdict]
    lines.append(f'- **{says}**: {"; ".join(texts) or "none"}.\n')
  return ''.join(lines)


# ---- Pictures ----


def gains(found: Results, rows: Mapping[Any, Experiment]) -> dict[Any, np.ndarray]:
  """What the seeds of each row have above MTL."""
  return {name: found.differences(of, MTL, TOKENS) for name, of in rows.items()}


def gains_over(found: Results, method: str, field: str, values: Sequence[Any]) -> Any:
  """The same of one method over something that varies, with MTL beside it."""
  return {
    value: found.differences(
      change(MTL, method=method, **{field: value}), change(MTL, **{field: value}), TOKENS
    )
    for value in values
  }


def draw(found: Results) -> dict[str, Callable[[], Any]]:
  """What draws each picture, by name."""
  others = {name: of for name, of in METHODS.items() if of != MTL}
  measured = 'tokens right, points above MTL'
  curves = lambda of: np.array(
    [100 * np.array(r['token_accuracy_curve']) for r in found.of(of).values()]
  )
  steps = next(iter(found.of(MTL).values()))['steps']
  over_tasks = {
    NAMES[method]: gains_over(found, method, 'num_tasks', design.NUM_TASKS)
    for method in ('global', 'single_task')
  }
  lengths = gains(
    found, {p: change(GLOBAL, prompt_length=p) for p in design.PROMPT_LENGTHS}
  )
  inside = lambda name, of: np.array([record[name] for record in found.of(of).values()])
  attention = {
    label: {NAMES[of.method]: inside(name, of) for of in (DEEP_GLOBAL, DEEP_MTL)}
    for name, label in (
      ('prompt_mass', 'attention mass on prompts'),
      ('entropy', 'entropy over tokens (nats)'),
    )
  }
  return {
    'methods': lambda: pictures.intervals(gains(found, others), measured),
    'curves': lambda: pictures.curves(
      steps, {name: curves(of) for name, of in METHODS.items()}, 'tokens right (%)'
    ),
    'controls': lambda: pictures.intervals(
      gains(found, {'HyperPrompt-Global': GLOBAL, **design.controls()}), measured
    ),
    'tasks': lambda: pictures.over(over_tasks, 'number of tasks', measured),
    'lengths': lambda: pictures.over({NAMES['global']: lengths}, 'prompt length', measured),
    'attention': lambda: pictures.layers(attention),
  }


def picture(name: str, says: str) -> str:
  """A reference to a picture."""
  return f'\n![{says}](study/{name}.png)\n'


# ---- The page ----

HEAD = """\
# Interference, and what hyper-prompts do about it

A controlled benchmark on two CPU cores. `make study` runs what
`studies/interference/results.jsonl` does not hold yet, a line a run;
`make study-report` makes this page of it, every number and verdict included.

**Tasks.** A string of {length} symbols out of {alphabet} is arranged in one of {ways}
ways, and its symbols are mapped in one of {ways}: {number} tasks. An input is a symbol
that names the task, and the string; all tasks have the same strings and disagree in what
is to be done. Any two have the arrangement, the map or neither in common. Every method
reads the same text.

**Runs.** {layers} encoder and {layers} decoder layers of width {width}, trained from
nothing for {steps} steps of {batch} rows, as many of each task; Adam, the learning rate
warmed up to {rate:g} and decayed, the same for all methods. Each configuration has
{seeds} seeds, of data and of initialisation, the same for all that is compared. Where
each task has a network of its own, that is trained on the very rows which the task has
among all.

**Scores.** *Tokens*: the share of target symbols that are right, given those before, on
{test} unseen strings of each task. *Exact match*: the same of whole strings. *Over
training*: the mean of {evaluations} evaluations on the way, which is higher for who
learns faster. All in percent, with the {level:.0f} % interval of the mean over seeds
(Student's t); differences are paired by seed. All {planned} runs are done.

## Is there interference?

"""

LIMITS = """
## What cannot be known here

- The networks have {mtl:,} parameters and are trained from nothing; T5 has a language
  already. HyperPrompt-Global adds {added:.0f} % to them, a far larger part than to any
  T5.
- All {tasks} tasks are of one kind and have as many examples. SuperGLUE's do not, are
  few, and help each other more than these can.
- Learning comes in sudden rises, so that a seed that is late counts for much: intervals
  are wide, and {seeds} seeds leave small differences open.
- {claims} claims are tried at {level:.0f} % each, without correction for their number.
- The learning rate and the sizes were chosen by MTL and Global in a few trial runs with a
  seed that is among these; the other methods were not tuned, and took their sizes from
  Global.
"""


def planned() -> list[Experiment]:
  """Every run, in no groups."""
  return [one for group in design.groups() for one in group]


def page(found: Results) -> str:
  """The text of docs/study.md, of results in which no run is missing."""
  level = 100 * intervals.LEVEL
  of_paper = claims(found)
  text = HEAD.format(
    length=tasks.LENGTH,
    alphabet=tasks.ALPHABET,
    ways=len(tasks.MAPS),
    number=len(tasks.NAMES),
    layers=MTL.layers,
    width=MTL.width,
    steps=f'{MTL.steps:,}',
    batch=MTL.batch_size,
    rate=MTL.learning_rate,
    seeds=len(design.SEEDS),
    test=experiment.TEST_ROWS,
    evaluations=experiment.EVALUATIONS,
    level=level,
    planned=len(planned()),
  )
  text += (
    'The yardstick: one network for all tasks, against one for each, on equal data.\n\n'
  )
  alone = {NAMES[of.method]: of for of in (MTL, SINGLE)}
  text += comparison(found, alone, MTL, 'MTL')
  text += '\nWith more tasks in the same network, and the same batch:\n\n'
  text += sweep(found, 'tasks', design.NUM_TASKS, 'num_tasks', 'single_task', 'global')
  text += picture('tasks', 'Points above MTL over the number of tasks')
  text += '\n## What replicates\n\nOf what the paper says:\n\n' + summary(of_paper)
  text += '\nAll claims, as differences in points, and in shares or nats of attention:\n\n'
  head = ('claim', 'tokens', 'tokens, over training', 'so here?')
  text += table(head, [claim_row(claim) for claim in of_paper])
  text += '\n## Every method\n\n' + comparison(found, METHODS, MTL, 'MTL')
  text += picture('methods', 'Points above MTL of every method, and their seeds')
  text += picture('curves', 'Tokens right over training, of every method')
  text += '\n## Controls\n\nIs it parameters, arithmetic, or having prompts at all?\n\n'
  controls = {'MTL': MTL, 'HyperPrompt-Global': GLOBAL, **design.controls()}
  text += comparison(found, controls, MTL, 'MTL')
  text += picture('controls', 'Points above MTL of the controls, and their seeds')
  text += '\nIs it the learning rate?\n\n'
  rates = design.LEARNING_RATES
  text += sweep(found, 'learning rate', rates, 'learning_rate', 'global')
  text += '\n## Width\n\n' + sweep(found, 'width', design.WIDTHS, 'width', 'global')
  lengths = {f'{p}': change(GLOBAL, prompt_length=p) for p in design.PROMPT_LENGTHS}
  text += '\n## Prompt length\n\n' + comparison(found, lengths, MTL, 'MTL')
  text += picture('lengths', 'Points above MTL over the length of prompts')
  stacks = {stack: change(GLOBAL, stacks=stack) for stack in design.STACKS}
  text += '\n## Encoder or decoder\n\n' + comparison(found, stacks, GLOBAL, 'encoder')
  after = change(MTL, start='mtl')
  started = {
    'MTL, twice as long': after,
    'Global, all tuned': change(GLOBAL, start='mtl'),
    'Global, task parameters only': change(GLOBAL, start='mtl', tuned='task'),
  }
  text += '\n## From a trained backbone\n\nAfter as many steps of MTL:\n\n'
  text += comparison(found, started, after, 'MTL')
  text += f'\n## Inside\n\n{design.DEEP} layers; '
  text += '[Inspection](reference/peek.md) defines both.\n'
  text += picture('attention', 'Attention mass on prompts and entropy, by layer')
  sizes = [next(iter(found.of(of).values()))['parameters'] for of in (MTL, GLOBAL)]
  return text + LIMITS.format(
    mtl=sizes[0],
    added=100 * (sizes[1] / sizes[0] - 1),
    tasks=len(tasks.NAMES),
    seeds=len(design.SEEDS),
    claims=len(of_paper),
    level=level,
  )


def main() -> None:
  """Writes the page and its pictures."""
  found = Results(results.read())
  missing = sum(one.seed not in found.of(one) for one in planned())
  if missing:
    raise SystemExit(f'{missing} of the runs are not done: `make study` does them')
  (DOCS / PAGE).write_text(page(found), encoding='utf-8')
  for name, drawing in draw(found).items():
    pictures.save(DOCS / 'study' / f'{name}.png', drawing)
  print(DOCS / PAGE)


if __name__ == '__main__':
  main()
