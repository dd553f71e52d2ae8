"""The files of an inspection: numbers, pictures, and a page that holds all of them."""

import csv
import html
import io
import json
import pathlib
from collections.abc import Iterator, Sequence

from hyperprompt_jax.inspection import pictures
from hyperprompt_jax.inspection.pictures import Report
from hyperprompt_jax.runtime.files import write_whole, writing_output

PAGE = 'peek.html'
Row = Sequence[object]

# The meaning of each number, for the page; docs/reference/peek.md has the definitions.
DEFINITIONS = {
  'attention': 'For a query q of a head, a<sub>qj</sub> is the softmax over the keys: the '
  'prompts P of the example&rsquo;s task, then its tokens K. Padding has no part in it, '
  'neither as key nor as query.',
  'attention mass on prompts': 'Σ<sub>j∈P</sub> a<sub>qj</sub>, averaged over the '
  'queries of an example, then over heads, then over examples; overall, over tasks. With '
  'the mass on tokens it adds up to 1.',
  'entropy over tokens': '&minus;Σ<sub>j∈K</sub> c<sub>qj</sub> ln c<sub>qj</sub> with '
  'c<sub>qj</sub> = a<sub>qj</sub> / Σ<sub>i∈K</sub> a<sub>qi</sub>, in nats, '
  'averaged in the same way. What prompts take away does not lower it by itself.',
  'distribution of entropy': 'the share of queries of all heads in each bin; every example '
  'counts as much, then every task.',
  'similarity': 'the cosine between two tasks&rsquo; embeddings, or between their prompts '
  'of all layers one after another; trees by average linkage of 1 &minus; cosine.',
}
TITLES = {
  'layers': 'Attention by layer',
  'tasks': 'Attention mass on prompts by task',
  'entropy': 'Distribution of the entropy over tokens',
  'similarity': 'How alike tasks are',
}


def write(folder: str, reports: Sequence[Report]) -> list[str]:
  """Writes everything, the page first; returns the paths.

  Args:
    folder: is made.
    reports: are the reports of a run, and of a baseline if there is one.

  Raises:
    UserError: if the folder cannot be written.
  """
  figures = pictures.draw(reports)
  drawn = {
    f'{name}.{suffix}': pictures.rendered(figure, suffix)
    for name, figure in figures.items()
    for suffix in ('svg', 'png')
  }
  for figure in figures.values():
    pictures.plt.close(figure)
  contents = {
    PAGE: _page(reports, {name: drawn[f'{name}.svg'] for name in figures}).encode(),
    'peek.json': (json.dumps(reports, indent=1) + '\n').encode(),
    'layers.csv': _csv(_layer_rows(reports)),
    'entropy.csv': _csv(_entropy_rows(reports)),
    'similarity.csv': _csv(_similarity_rows(reports[0])),
    **drawn,
  }
  paths = {name: pathlib.Path(folder) / name for name in contents}
  with writing_output(f'--output {folder}'):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
      write_whole(path, contents[name])
  return [str(path) for path in paths.values()]


def _csv(rows: Iterator[Row]) -> bytes:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue().encode()


def _layer_rows(reports: Sequence[Report]) -> Iterator[Row]:
  names = ('prompt_mass', 'token_mass', 'entropy')
  yield ('run', 'layer', 'task', *names)
  for report in reports:
    for layer in range(len(report['entropy']['overall'])):
      for place, task in enumerate(report['tasks']):
        values = [report[name]['by_task'][layer][place] for name in names]
        yield (report['run'], layer, task, *values)
      yield (report['run'], layer, '', *(report[name]['overall'][layer] for name in names))


def _entropy_rows(reports: Sequence[Report]) -> Iterator[Row]:
  yield ('run', 'layer', 'from_nats', 'to_nats', 'share')
  for report in reports:
    bins = report['entropy_bins']
    for layer, shares in enumerate(report['entropy_histogram']):
      for low, high, share in zip(bins, bins[1:], shares, strict=False):
        yield (report['run'], layer, low, high, share)


def _similarity_rows(report: Report) -> Iterator[Row]:
  yield ('of', 'task', 'other', 'cosine')
  for name, cosines in report['similarity'].items():
    for task, row in zip(report['task_list'], cosines, strict=True):
      for other, cosine in zip(report['task_list'], row, strict=True):
        yield (name, task, other, cosine)


def _page(reports: Sequence[Report], figures: dict[str, bytes]) -> str:
  """One page that needs no other file."""
  escape = lambda x: html.escape(str(x))
  title = ' and '.join(f'{r["run"]} ({r["method"]}, step {r["step"]})' for r in reports)
  examples = ', '.join(
    f'{n} of {task}'
    for task, n in zip(reports[0]['tasks'], reports[0]['examples'], strict=True)
  )
  parts = [
    f'<h1>A look inside {escape(title)}</h1>',
    f'<p>Examples: {escape(examples)}.</p>',
  ]
  for name, svg in figures.items():
    # Without the XML declaration, which HTML has no place for.
    text = svg.decode()
    parts.append(f'<h2>{TITLES[name]}</h2><figure>{text[text.index("<svg") :]}</figure>')
  parts.append('<h2>Numbers, mean over tasks</h2>' + _table(reports))
  definitions = ''.join(f'<dt>{k}</dt><dd>{v}</dd>' for k, v in DEFINITIONS.items())
  parts.append(f'<h2>Definitions</h2><dl>{definitions}</dl>')
  body = '\n'.join(parts)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<title>{escape(title)}</title>\n<style>'
    'body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}'
    'svg{max-width:100%;height:auto}figure{margin:0}dt{font-weight:bold}'
    'td,th{padding:.1em .8em;text-align:right}table{border-collapse:collapse}'
    'th{border-bottom:1px solid}'
    f'</style></head>\n<body>\n{body}\n</body></html>\n'
  )


def _table(reports: Sequence[Report]) -> str:
  heads = ['layer']
  for report in reports:
    heads += [f'{report["run"]}: mass on prompts', 'entropy (nats)']
  rows = [''.join(f'<th>{html.escape(head)}</th>' for head in heads)]
  for layer in range(len(reports[0]['entropy']['overall'])):
    cells = [str(layer)]
    for report in reports:
      cells.append(f'{report["prompt_mass"]["overall"][layer]:.4f}')
      cells.append(f'{report["entropy"]["overall"][layer]:.3f}')
    rows.append(''.join(f'<td>{cell}</td>' for cell in cells))
  return '<table>' + ''.join(f'<tr>{row}</tr>' for row in rows) + '</table>'
