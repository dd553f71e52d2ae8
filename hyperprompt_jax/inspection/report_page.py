"""One HTML page about training runs, which needs no other file and no network."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hyperprompt_jax.checkpoints import AVERAGE
from hyperprompt_jax.evaluation import intervals
from hyperprompt_jax.evaluation.scores import best_step
from hyperprompt_jax.inspection import charts
from hyperprompt_jax.inspection.report_data import Prediction, Run

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:68em;margin:0 auto;padding:0 1em 4em}
h1{margin:1em 0 .2em;overflow-wrap:anywhere}
h2{margin:2em 0 .5em;border-bottom:1px solid #8886}
nav{display:flex;flex-wrap:wrap;gap:0 1em}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2em .8em;text-align:left;vertical-align:top;border-bottom:1px solid #8883}
td.number,th.number{text-align:right}td.number{white-space:nowrap}
.text{max-width:32em;overflow-wrap:anywhere;white-space:pre-wrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24em),1fr));gap:1em}
figure{margin:0}figcaption{font-weight:600}figure>svg{width:100%;height:auto}
svg text{fill:currentColor;font-size:12px}svg polyline{fill:none;stroke-width:2}
svg .grid{stroke:#8884}
@media(max-width:30em){figure>svg text{font-size:18px}}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2em 1.2em}
.legend{margin:0;padding:0;font-size:.9em}
.legend svg{margin-right:.4em;vertical-align:middle}
details{margin:.4em 0}summary{cursor:pointer}
tr.wrong .answer{color:light-dark(#a3260b,#ff9b80);font-weight:600}
input{font:inherit;width:100%;max-width:24em;margin:.4em 0}
iframe{width:100%;height:70vh;border:1px solid #8886;background:#fff}
"""
# Rows of a table of predictions are shown if they hold the text of the field above it.
_SCRIPT = """
for (const field of document.querySelectorAll('input[type=search]'))
  field.addEventListener('input', () => {
    const text = field.value.toLowerCase();
    for (const row of field.parentElement.querySelectorAll('tbody tr'))
      row.hidden = !row.textContent.toLowerCase().includes(text);
  });
"""
# The training curves, in this order; others are left to TensorBoard.
_CURVES = {
  'train/loss': 'Training loss',
  f'eval/{AVERAGE}': 'Average validation score',
  'train/accuracy': 'Training accuracy of tokens',
  'train/grad_norm': 'Gradient norm',
}


def page(
  runs: Sequence[Run],
  *,
  compared: Sequence[Mapping[str, Any]] = (),
  peeks: Mapping[str, str] | None = None,
  predictions: int = 200,
) -> str:
  """Returns the page.

  Args:
    runs: are the runs, in the order of the page.
    compared: holds the rows of `comparison.rows`; empty for no comparison.
    peeks: holds the page that `hyperprompt peek` wrote, by name of the run.
    predictions: is the number of predictions to show of each task.
  """
  title = ', '.join(run.name for run in runs)
  parts = {
    'Runs': _overview(runs),
    'Comparison': _comparison(compared) if compared else '',
    'Curves': _curves(runs),
    'Tasks': _per_run(runs, _tasks),
    'Predictions': _per_run(runs, lambda run: _predictions(run, predictions)),
    'Data': _per_run(runs, _data),
    'Attention': ''.join(
      f'<h3>{_escaped(name)}</h3><iframe sandbox title="peek of {_escaped(name)}" '
      f'srcdoc="{_escaped(text)}"></iframe>'
      for name, text in (peeks or {}).items()
    ),
    'Configuration': _configuration(runs),
  }
  shown = {name: text for name, text in parts.items() if text}
  links = ''.join(f'<a href="#{name.lower()}">{name}</a>' for name in shown)
  body = ''.join(
    f'<section><h2 id="{name.lower()}">{name}</h2>{text}</section>'
    for name, text in shown.items()
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>{_escaped(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body><h1>{_escaped(title)}</h1><nav>{links}</nav>{body}'
    f'<script>{_SCRIPT}</script></body></html>\n'
  )


def _escaped(value: Any) -> str:
  return html.escape(str(value))


def _table(
  heads: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[int] = ()
) -> str:
  """Returns a table of texts, with some columns set right."""
  kind = [' class="number"' if place in numbers else '' for place in range(len(heads))]
  head = ''.join(f'<th{k}>{_escaped(h)}</th>' for k, h in zip(kind, heads, strict=True))
  body = ''.join(
    '<tr>'
    + ''.join(f'<td{k}>{_escaped(x)}</td>' for k, x in zip(kind, row, strict=True))
    + '</tr>'
    for row in rows
  )
  return (
    f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def _number(value: float | None) -> str:
  return '-' if value is None else f'{value:.2f}'


def _per_run(runs: Sequence[Run], write: Any) -> str:
  """Returns a part for each run that has one, under its name if there are several."""
  texts = {run.name: write(run) for run in runs}
  if len(runs) == 1:
    return texts[runs[0].name]
  return ''.join(f'<h3>{_escaped(name)}</h3>{text}' for name, text in texts.items() if text)


def _overview(runs: Sequence[Run]) -> str:
  rows = []
  for run in runs:
    scores = run.scores
    average = scores[run.step].get(AVERAGE) if run.step is not None else None
    last = max((record['step'] for record in run.records), default=0)
    rows.append(
      (
        run.name,
        run.method,
        run.settings.get('MIXTURE_OR_TASK_NAME', '-').strip("'"),
        run.settings.get('RANDOM_SEED', '-'),
        f'{last:,}',
        _number(average),
        '-' if run.step is None else f'{run.step:,}',
      )
    )
  heads = ('run', 'method', 'tasks', 'seed', 'steps', 'average', 'at step')
  return _table(heads, rows, numbers=(3, 4, 5, 6)) + (
    '<p>Scores are those of validation data, times 100. The average is the best of all '
    'evaluations of a run.</p>'
  )


def _comparison(compared: Sequence[Mapping[str, Any]]) -> str:
  """Returns a table of methods by tasks."""
  tasks = list(dict.fromkeys(row['task'] for row in compared))
  seeds: dict[str, int] = {}
  cells: dict[tuple[str, str], str] = {}
  for row in compared:
    method = row['method']
    seeds[method] = max(row['seeds'], seeds.get(method, 0))
    spread = '' if row['std'] is None else f' ± {row["std"]:.2f}'
    cells[method, row['task']] = f'{row["mean"]:.2f}{spread}{" *" if row["best"] else ""}'
  rows = [
    (method, number, *(cells.get((method, task), '-') for task in tasks))
    for method, number in seeds.items()
  ]
  heads = ('method', 'seeds', *tasks)
  return _table(heads, rows, numbers=range(1, len(heads))) + (
    f'<p>Mean ± standard deviation over seeds. *: the {100 * intervals.LEVEL:.0f} % '
    'interval of the difference from every other method, paired by seed, lies above zero.'
    '</p>'
  )


def _curves(runs: Sequence[Run]) -> str:
  figures = [
    charts.line_chart(lines, label)
    for name, label in _CURVES.items()
    if (lines := {run.name: run.curve(name) for run in runs if run.curve(name)})
  ]
  tasks = sorted({task for run in runs for at in run.scores.values() for task in at})
  by_task = [
    charts.line_chart(
      {run.name: run.curve(f'eval/score/{task}') for run in runs}, f'Score of {task}'
    )
    for task in tasks
    if task != AVERAGE
  ]
  if not figures and not by_task:
    return '<p>The runs have no metrics yet.</p>'
  more = (
    f'<details><summary>Scores of {len(by_task)} tasks</summary>{_grid(by_task)}</details>'
  )
  return _grid(figures) + (more if by_task else '')


def _grid(figures: Sequence[str]) -> str:
  return f'<div class="charts">{"".join(figures)}</div>'


def _tasks(run: Run) -> str:
  """Returns the scores of the conditioned tasks and the metrics of the SeqIO tasks."""
  scores = run.scores
  if run.step is None:
    return '<p>Nothing was evaluated.</p>'
  rows = []
  for task in sorted(scores[run.step].keys() - {AVERAGE}):
    step = best_step(scores, task)
    best = None if step is None else scores[step][task]
    rows.append((task, _number(scores[run.step][task]), _number(best), f'{step:,}'))
  if AVERAGE in scores[run.step]:
    rows.append((AVERAGE, _number(scores[run.step][AVERAGE]), '', ''))
  heads = ('task', f'score at step {run.step:,}', 'best', 'at step')
  metrics = [(name, f'{value:.4f}') for name, value in sorted(run.metrics().items())]
  return _table(heads, rows, numbers=(1, 2, 3)) + (
    f'<details><summary>All metrics at step {run.step:,}</summary>'
    f'{_table(("task and metric", "value"), metrics, numbers=(1,))}</details>'
  )


def _predictions(run: Run, most: int) -> str:
  """Returns the predictions of each task, those that are wrong first."""
  parts = []
  for task, answers in run.predictions.items():
    wrong = sum(answer.error > 0 for answer in answers)
    shown = answers[:most]
    left = len(answers) - len(shown)
    note = f'; {left} more are not on this page' if left else ''
    parts.append(
      f'<details><summary>{_escaped(task)}: {wrong} of {len(answers)} answers differ from '
      f'the target</summary><input type="search" aria-label="filter" '
      f'placeholder="show rows with …"><p>Step {run.step:,}, wrong answers first{note}.</p>'
      f'<div class="wide"><table><thead><tr><th>input</th><th>target</th>'
      f'<th>prediction</th></tr></thead><tbody>{"".join(map(_row, shown))}</tbody>'
      '</table></div></details>'
    )
  return ''.join(parts)


def _row(answer: Prediction) -> str:
  style = ' class="wrong"' if answer.error else ''
  cells = (
    f'<td class="text">{_escaped(answer.text)}</td>',
    f'<td class="text">{_escaped(_shown(answer.target))}</td>',
    f'<td class="text answer">{_escaped(_shown(answer.prediction))}</td>',
  )
  return f'<tr{style}>{"".join(cells)}</tr>'


def _shown(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _data(run: Run) -> str:
  """Returns the report on data."""
  rows = [
    (
      name,
      f'{split["examples"]:,}',
      *(
        _share(split['cut'].get(feature, 0), split['examples'])
        for feature in ('inputs', 'targets')
      ),
      _share(split['cut_tokens'].get('inputs', 0), split['tokens'].get('inputs', 0)),
      _share(sum(split['unknown'].values()), sum(split['tokens'].values())),
      '  '.join(f'{label} {n}' for label, n in split['labels'].items()),
    )
    for name, split in _splits(run.data)
  ]
  heads = (
    *('split', 'examples', 'inputs cut', 'targets cut', 'tokens lost'),
    *('unknown tokens', 'labels'),
  )
  return _table(heads, rows, numbers=range(1, 6)) if rows else ''


def _splits(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
  for task, split in data.items():
    yield task, split
    if split.get('validation'):
      yield f'{task}, validation', split['validation']


def _share(part: int, whole: int) -> str:
  return f'{100 * part / whole:.1f} %' if whole else '-'


def _configuration(runs: Sequence[Run]) -> str:
  """Returns the settings that differ, and then all settings of each run."""
  names = list(dict.fromkeys(name for run in runs for name in run.settings))
  differ = [
    (name, *values)
    for name in names
    if len({*(values := [run.settings.get(name, '-') for run in runs])}) > 1
  ]
  heads = ('setting', *(run.name for run in runs))
  first = f'<p>Settings that differ:</p>{_table(heads, differ)}' if differ else ''
  return first + ''.join(
    f'<details><summary>All settings of {_escaped(run.name)}</summary>'
    f'{_table(("setting", "value"), list(run.settings.items()))}</details>'
    for run in runs
  )
