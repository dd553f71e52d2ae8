"""Makes docs/study.md and its pictures of results.jsonl; no number in it is typed.

python -m benchmarks.interference.report            (make study-report)
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from benchmarks.interference import design, study, tasks
from benchmarks.interference.experiment import Experiment

matplotlib.use('Agg')

import matplotlib.pyplot as plt

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
PICTURES = 'study'
LEVEL = 0.95

Record = Mapping[str, Any]
Measure = Callable[[Record], float]


def mean(name: str) -> Measure:
  """The mean over tasks, or over evaluations, of one entry of a record, in percent."""
  return lambda record: 100 * float(np.mean(record[name]))


EXACT, TOKENS, SPEED = (
  mean(name) for name in ('exact_match', 'token_accuracy', 'token_accuracy_curve')
)


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
  """Half of the interval of the mean, by Student's t."""
  if len(values) < 2:
    return float('nan')
  quantile = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
  return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def interval(values: np.ndarray, sign: bool = False) -> str:
  """Mean and interval, as text."""
  if not len(values):
    return 'not run'
  return f'{values.mean():{"+" if sign else ""}.1f} ± {half_width(values):.1f}'


def verdict(differences: np.ndarray) -> str:
  """What a paired difference says of a claim that it is above zero."""
  if len(differences) < 2:
    return 'not run'
  low = differences.mean() - half_width(differences)
  high = differences.mean() + half_width(differences)
  return 'holds' if low > 0 else 'the opposite holds' if high < 0 else 'open'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


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
MTL = design.BASE
GLOBAL = dataclasses.replace(MTL, method='global')
SINGLE = dataclasses.replace(MTL, method='single_task')


def _row(results: Results, name: str, of: Experiment, against: Experiment) -> list[str]:
  """A line of a comparison: sizes, scores, and the paired difference of tokens."""
  records = list(results.of(of).values())
  size = f'{records[0]["parameters"]:,}' if records else ''
  change = results.differences(of, against, TOKENS)
  return [
    name,
    size,
    *(interval(results.values(of, measure)) for measure in (EXACT, TOKENS, SPEED)),
    '' if of == against else interval(change, sign=True),
  ]


SCORES = ('exact match', 'tokens', 'tokens, over training')


def _comparison(
  results: Results, rows: Mapping[str, Experiment], against: Experiment, name: str
) -> str:
  head = ('', 'parameters', *SCORES, f'tokens, against {name}')
  return table(head, [_row(results, label, of, against) for label, of in rows.items()])


def _sweep(
  results: Results, label: str, values: Sequence[Any], make: Callable[..., Experiment]
) -> str:
  """MTL and Global over something that varies, and what stands between them."""
  rows = []
  for value in values:
    mtl, prompted = make('mtl', value), make('global', value)
    gain = results.differences(prompted, mtl, TOKENS)
    rows.append(
      [
        str(value),
        *(interval(results.values(of, TOKENS)) for of in (mtl, prompted)),
        interval(gain, sign=True),
      ]
    )
  return table((label, 'MTL', 'HyperPrompt-Global', 'gain'), rows)


# ---- Pictures ----


def _save(figure: Any, name: str) -> str:
  folder = DOCS / PICTURES
  folder.mkdir(parents=True, exist_ok=True)
  figure.savefig(folder / f'{name}.png', dpi=150, metadata={'Software': None})
  plt.close(figure)
  return f'![{name}]({PICTURES}/{name}.png)\n'


def _curves(results: Results) -> str:
  figure, axis = plt.subplots(figsize=(6.5, 3.6), layout='constrained')
  lines = ('-', '--', '-.', ':')
  for place, method in enumerate(design.METHODS):
    of = results.of(dataclasses.replace(MTL, method=method))
    if not of:
      continue
    steps = next(iter(of.values()))['steps']
    curve = 100 * np.mean([r['token_accuracy_curve'] for r in of.values()], axis=0)
    axis.plot(steps, curve, lines[place % 4], label=NAMES[method], lw=1.3)
  axis.set_xlabel('training step')
  axis.set_ylabel('tokens right (%), mean of tasks')
  axis.legend(frameon=False, fontsize=8)
  return _save(figure, 'curves')


def _gain_over_tasks(results: Results) -> str:
  figure, axis = plt.subplots(figsize=(4.5, 3.2), layout='constrained')
  numbers = (2, 4, 8, 16)
  for method, line in (('global', 'o-'), ('single_task', 's--')):
    gains = [
      results.differences(
        dataclasses.replace(MTL, method=method, num_tasks=n),
        dataclasses.replace(MTL, num_tasks=n),
        TOKENS,
      )
      for n in numbers
    ]
    known = [(n, g) for n, g in zip(numbers, gains, strict=True) if len(g)]
    axis.errorbar(
      [n for n, _ in known],
      [g.mean() for _, g in known],
      [half_width(g) for _, g in known],
      fmt=line,
      capsize=3,
      label=NAMES[method],
    )
  axis.axhline(0, color='0.5', lw=0.8)
  axis.set_xscale('log', base=2)
  axis.set_xticks(numbers, [str(n) for n in numbers])
  axis.set_xlabel('number of tasks')
  axis.set_ylabel('tokens right, points above MTL')
  axis.legend(frameon=False)
  return _save(figure, 'gain')


def _mass(results: Results) -> str:
  figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout='constrained')
  for axis, name, label in (
    (axes[0], 'prompt_mass', 'attention mass on prompts'),
    (axes[1], 'entropy', 'entropy over tokens (nats)'),
  ):
    for method, line in (('global', 'o-'), ('mtl', 's--')):
      of = results.of(dataclasses.replace(MTL, method=method, layers=4))
      if of:
        values = np.array([record[name] for record in of.values()])
        spread = [half_width(column) for column in values.T]
        axis.errorbar(
          range(values.shape[1]), values.mean(0), spread, fmt=line, capsize=3,
          label=NAMES[method],
        )  # fmt: skip
    axis.set_xlabel('encoder layer')
    axis.set_ylabel(label)
    axis.set_xticks(range(4))
  axes[0].legend(frameon=False)
  return _save(figure, 'attention')


def _claims(results: Results) -> str:
  """The paper's claims, and what the differences say of them."""
  change = dataclasses.replace
  share, sep = change(MTL, method='share'), change(MTL, method='sep')
  deep, deep_mtl = change(GLOBAL, layers=4), change(MTL, layers=4)
  tuned = change(GLOBAL, start='mtl')
  of_layers = lambda name, last: (
    lambda r: r[name][-1] - r[name][0] if last else np.mean(r[name])
  )
  few, many = 4, 16
  gain = {
    n: results.differences(change(GLOBAL, num_tasks=n), change(MTL, num_tasks=n), TOKENS)
    for n in (few, many)
  }
  same = min(len(gain[few]), len(gain[many]))
  claims = {
    'Interference is real: single-task training does better than MTL on the same data': (
      results.differences(SINGLE, MTL, TOKENS)
    ),
    'HyperPrompt-Global does better than MTL': results.differences(GLOBAL, MTL, TOKENS),
    'Global does better than Sep': results.differences(GLOBAL, sep, TOKENS),
    'Sep does better than Share': results.differences(sep, share, TOKENS),
    f'The gain is larger with {many} tasks than with {few}': (
      gain[many][:same] - gain[few][:same]
    ),
    'Tuning all does better than tuning task parameters only': (
      results.differences(tuned, change(tuned, tuned='task'), TOKENS)
    ),
    'Prompts in the encoder do better than in the decoder': (
      results.differences(GLOBAL, change(GLOBAL, stacks='decoder'), TOKENS)
    ),
    'Attention mass on prompts is higher in the last layer than in the first': (
      results.values(deep, of_layers('prompt_mass', last=True))
    ),
    'Attention over tokens has more entropy than that of MTL': (
      results.differences(deep, deep_mtl, of_layers('entropy', last=False))
    ),
  }
  rows = [
    [claim, f'{values.mean():+.2f} ± {half_width(values):.2f}', verdict(values)]
    if len(values)
    else [claim, '', 'not run']
    for claim, values in claims.items()
  ]
  return table(('claim', 'difference', 'here'), rows)


HEAD = """\
# Interference: what hyper-prompts do about it

A controlled benchmark on two CPU cores. `make study` runs what is missing of
`benchmarks/interference/results.jsonl`; `make study-report` writes this page of it, every
number included.

**Tasks.** A string of {length} symbols of {alphabet} is arranged in one of four ways, and
its symbols are mapped in one of four ways: {number} tasks. Inputs are a symbol that names
the task, and the string. All tasks share their strings and disagree in what is to be done;
any two have an arrangement, a map or neither in common. Every method reads the same text.

**Runs.** Encoder and decoder of {layers} layers, width {width}; {steps} steps of {batch}
rows, all tasks in equal parts; Adam, one learning rate ({rate}) for all methods, warmed up
and decayed. Each configuration has {seeds} seeds, for data and initialisation, the same for
all that is compared. A single task is trained on the very rows that it has among all.

**Scores.** *Tokens*: the share of target symbols that are right, given those before, on
{test} unseen strings of each task; *exact match*: of whole strings; *over training*: the
mean of {evaluations} evaluations, which rewards learning fast. Percent; mean and
{level:.0f} % interval over seeds (Student's t); differences are paired by seed. {done} of
{all} runs are done.

"""


def main() -> None:
  """Writes the page."""
  results = Results(study.read())
  change = dataclasses.replace
  planned = design.experiments()
  text = HEAD.format(
    length=tasks.LENGTH,
    alphabet=tasks.ALPHABET,
    number=len(tasks.NAMES),
    layers=MTL.layers,
    width=MTL.width,
    steps=MTL.steps,
    batch=MTL.batch_size,
    rate=MTL.learning_rate,
    seeds=len(design.SEEDS),
    test=design.TEST_ROWS,
    evaluations=design.EVALUATIONS,
    level=100 * LEVEL,
    done=sum(one.seed in results.of(one) for one in planned),
    all=len(planned),
  )
  text += '## What replicates\n\n' + _claims(results)
  text += '\nDifferences are in points of tokens right; of attention, shares and nats.\n'
  methods = {NAMES[m]: change(MTL, method=m) for m in design.METHODS}
  text += '\n## Interference, and every method\n\n'
  text += _comparison(results, methods, MTL, 'MTL') + '\n' + _curves(results)
  text += '\n## Controls\n\nIs it parameters, arithmetic, or having prompts at all?\n\n'
  controls = {'HyperPrompt-Global': GLOBAL, **design.controls()}
  text += _comparison(results, {'MTL': MTL, **controls}, MTL, 'MTL')
  by_tasks = lambda method, n: change(MTL, method=method, num_tasks=n)
  text += '\n## Number of tasks\n\n' + _sweep(results, 'tasks', (2, 4, 8, 16), by_tasks)
  text += '\n' + _gain_over_tasks(results)
  by_width = lambda method, e: change(MTL, method=method, width=e)
  text += '\n## Width\n\n' + _sweep(results, 'width', (16, 32, 48, 64), by_width)
  lengths = {str(p): change(GLOBAL, prompt_length=p) for p in (0, 1, 2, 4, 8, 16, 32)}
  text += '\n## Prompt length\n\n' + _comparison(results, lengths, MTL, 'MTL')
  stacks = {s: change(GLOBAL, stacks=s) for s in ('encoder', 'decoder', 'both')}
  text += '\n## Where prompts go\n\n' + _comparison(results, stacks, GLOBAL, 'encoder')
  started = {
    'MTL, twice as long': change(MTL, start='mtl'),
    'all is tuned': change(GLOBAL, start='mtl'),
    'task parameters only': change(GLOBAL, start='mtl', tuned='task'),
  }
  text += '\n## From a trained backbone\n\nAfter as many steps of MTL:\n\n'
  text += _comparison(results, started, change(MTL, start='mtl'), 'MTL')
  text += '\n## Inside\n\nFour layers; see [peek.md](peek.md) for the definitions.\n\n'
  text += _mass(results)
  text += LIMITS
  (DOCS / 'study.md').write_text(text, encoding='utf-8')
  print(f'{DOCS / "study.md"}: {len(study.read())} runs')


LIMITS = f"""
## What cannot be known here

- The networks have some ten thousand parameters and are trained from nothing; T5's know a
  language. What a method adds is a large part of these, and a thousandth of XXL's.
- Tasks here are alike in kind and equal in data. SuperGLUE's are not, and are few.
- One learning rate serves all methods; none was tuned by itself.
- Prompts of {len(tasks.NAMES)} tasks can store what little differs between these. Whether
  that is what they do for reading comprehension is not shown by it.
"""


if __name__ == '__main__':
  main()
