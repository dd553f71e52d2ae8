"""Writes the results of the campaigns into docs/reference/reliability.md.

    python -m tools.reliability.report

Every file of tools/results with `rows` gives the page entries. A row says what was tried,
how often, what happened, what was lost, and which command with its seed does it again.
"""

import json
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / 'tools/results'
PAGE = ROOT / 'docs/reference/reliability.md'
_WIDTH = 112
# The order of the entries; files of other names come after these.
ORDER = ('chaos', 'fuzz', 'endurance', 'matrix')


def listing() -> str:
  """Returns the entries as a list, in Markdown."""
  results = {path.stem: json.loads(path.read_bytes()) for path in RESULTS.glob('*.json')}
  place = lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)
  ordered = [results[name] for name in sorted(results, key=place)]
  rows = [row for result in ordered for row in result.get('rows', ())]
  return '\n'.join(_entry(*row) for row in rows)


def _entry(tried: str, number: str, outcome: str, lost: str, command: str) -> str:
  """Returns an entry of the list, whose lines are as long as those of the page."""
  lines = [f'- {tried[0].upper()}{tried[1:].removesuffix(".")}.']
  facts = {'How often': number, 'What happened': outcome, 'Lost': lost}
  lines += [f'  - {name}: {fact.removesuffix(".")}.' for name, fact in facts.items()]
  lines.append(f'  - Again by: `{command}`.')
  wrap = lambda line: textwrap.fill(
    line,
    _WIDTH,
    subsequent_indent=' ' * (line.index('-') + 2),
    break_long_words=False,
    break_on_hyphens=False,
  )
  return '\n'.join(map(wrap, lines))


def write() -> None:
  """Writes the list between its markers."""
  begin, end = '<!-- measured -->', '<!-- /measured -->'
  page = PAGE.read_text(encoding='utf-8')
  whole = re.compile(f'{begin}.*?{end}', re.DOTALL)
  written = whole.sub(lambda _: f'{begin}\n{listing()}\n{end}', page)
  PAGE.write_text(written, encoding='utf-8')


if __name__ == '__main__':
  write()
