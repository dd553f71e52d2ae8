"""Writes the results of the campaigns into the table of docs/reference/reliability.md.

    python -m tools.reliability.report

Every file of tools/results with `rows` gives the table its rows: what was tried, how
often, what happened, what was lost, and the command with its seed that does it again.
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / 'tools/results'
PAGE = ROOT / 'docs/reference/reliability.md'
HEAD = ('what was tried', 'how often', 'what happened', 'lost', 'again by')
# The order of the rows; what has another name comes after these.
ORDER = ('chaos', 'fuzz', 'endurance', 'matrix')


def table() -> str:
  """The table, in Markdown."""
  results = {path.stem: json.loads(path.read_bytes()) for path in RESULTS.glob('*.json')}
  place = lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)
  ordered = [results[name] for name in sorted(results, key=place)]
  rows = [row for result in ordered for row in result.get('rows', ())]
  lines = [HEAD, ['---'] * len(HEAD), *([*row[:-1], f'`{row[-1]}`'] for row in rows)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def write() -> None:
  """Writes the table between its markers."""
  begin, end = '<!-- measured -->', '<!-- /measured -->'
  page = PAGE.read_text(encoding='utf-8')
  whole = re.compile(f'{begin}.*?{end}', re.DOTALL)
  written = whole.sub(lambda _: f'{begin}\n{table()}\n{end}', page)
  PAGE.write_text(written, encoding='utf-8')


if __name__ == '__main__':
  write()
