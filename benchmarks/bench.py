"""Measures speed and memory, and prints one table (make bench).

    python -m benchmarks.bench            measures everything and prints the table
    python -m benchmarks.bench --table    prints the table of benchmarks/results/*.json

The table also goes to docs/reference/speed.md, which explains it.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import around_step, results, speed, tpu_step, works

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'reference' / 'speed.md'
BEGIN, END = '<!-- table: make bench -->\n', '<!-- end of table -->\n'
GIB = 2**30

# Stands in for T5X's step where T5X cannot be imported. It was measured with an earlier
# compiler: Base whole and unrolled, the other sizes extrapolated from a few layers.
STAND_IN = {
  'base': {'flops': 7.1e12, 'compiler_seconds': 0.082, 'peak_bytes': 6.1 * GIB},
  'large': {'flops': 11.5e12, 'compiler_seconds': 0.108, 'peak_bytes': 6.3 * GIB},
  'xl': {'flops': 10.2e12, 'compiler_seconds': 0.127, 'peak_bytes': 5.8 * GIB},
  'xxl': {'flops': 19.7e12, 'compiler_seconds': 0.184, 'peak_bytes': 14.0 * GIB},
}
# Figures of the compiled step that are compared with T5X's, and the largest ratio allowed.
AGAINST_T5X = (
  ('flops', 'FLOP', 1.0),
  ('hbm_bytes', 'traffic of HBM', 0.6),
  ('bytes_accessed', 'bytes accessed, all memories', 0.6),
  ('peak_bytes', 'peak memory', 0.8),
  ('seconds', 'estimate', 0.7),
  ('link_bytes', 'over links', None),
)
# Figures that are compared with our own network without prompts.
AGAINST_MTL = ('flops', 'hbm_bytes', 'peak_bytes', 'seconds')
MOST_OF_MTL = 1.02


class Row(NamedTuple):
  """A line of the table.

  Attributes:
    what: names the measured quantity.
    ours: is our value, with its unit.
    other: is the value that ours is compared with.
    ratio: is compared with the target.
    target: is the largest ratio allowed, or the smallest if `at_least`; None for no target.
    at_least: says how to read `target`.
  """

  what: str
  ours: str
  other: str
  ratio: float
  target: float | None
  at_least: bool = False

  def cells(self) -> list[str]:
    """Returns the cells of the row in Markdown."""
    cells = [self.what, self.ours, self.other, f'{self.ratio:.2f}']
    if self.target is None:
      return [*cells, '', '']
    met = self.ratio >= self.target if self.at_least else self.ratio <= self.target
    return [
      *cells,
      f'{"at least" if self.at_least else "at most"} {self.target:g}',
      'yes' if met else '**no**',
    ]


def of_tpu_step(measured: dict[str, Any]) -> Iterator[Row]:
  """Yields the rows of the compiled steps."""
  for size, topology, partitions in tpu_step.SIZES:
    programs = {name: _with_seconds(step) for name, step in measured[size].items()}
    where = f'{size}, {topology}, {partitions} to a model'
    ours = programs['global']
    t5x, mark = programs.get(tpu_step.T5X), 'T5X'
    if t5x is None:
      t5x, mark = _with_seconds(STAND_IN[size]), 'T5X, measured once'
    for key, what, most in AGAINST_T5X:
      if key in t5x:
        told = [_shown(key, program[key]) for program in (ours, t5x)]
        ratio = ours[key] / t5x[key]
        yield Row(f'TPU step: {what}; {where}', told[0], f'{mark} {told[1]}', ratio, most)
    if mtl := programs.get('mtl'):
      ratios = {key: ours[key] / mtl[key] for key in AGAINST_MTL}
      yield Row(
        f'TPU step: FLOP, traffic of HBM, peak, estimate; {where}',
        ', '.join(_shown(key, ours[key]) for key in ratios),
        'mtl ' + ', '.join(f'x {ratio:.3f}' for ratio in ratios.values()),
        max(ratios.values()),
        MOST_OF_MTL,
      )
  sizes = [size for size, *_ in tpu_step.SIZES]
  compiled = {size: measured[size]['global']['compile_seconds'] for size in sizes}
  yield Row(
    'compilation; XXL, by 120 s',
    f'{compiled["xxl"]:.0f} s',
    '120 s',
    compiled['xxl'] / 120,
    1.0,
  )
  yield Row(
    'compilation; 24 layers of Large by 12 of Base',
    f'{compiled["large"]:.0f} s',
    f'{compiled["base"]:.0f} s',
    compiled['large'] / compiled['base'],
    1.3,
  )


def _with_seconds(program: dict[str, Any]) -> dict[str, Any]:
  """Adds the compiler's estimate plus the best case of kernels without an estimate."""
  seconds = program['compiler_seconds'] + program.get('kernels_seconds', 0.0)
  return {**program, 'seconds': seconds}


def _shown(key: str, value: float) -> str:
  if key == 'flops':
    return f'{value / 1e12:.2f} T'
  if key == 'peak_bytes':
    return f'{value / GIB:.2f} GiB'
  return (
    f'{value / 1e9:.1f} GB'
    if key.endswith('bytes') or 'bytes_' in key
    else (f'{1000 * value:.0f} ms')
  )


def of_cpu(measured: dict[str, Any]) -> Iterator[Row]:
  """Yields the rows of wall times on the CPU."""
  least = {
    (works.TRAIN, works.T5X): 1.2,
    (works.UNROLLED, works.T5X): 1.2,
    (works.GREEDY, works.T5X): 1.6,
    (works.GREEDY, works.TORCH): 1.1,
    (works.RANK, works.GREEDY): 3.0,
  }
  for size in ('small', 'base'):
    for what, times in measured.get(size, {}).items():
      for other, ratio in times['times_ours'].items():
        if other != works.OURS:
          yield Row(
            f'CPU: {what}; {size}',
            f'{times["seconds"][works.OURS]:.2f} s',
            f'{other} {times["seconds"][other]:.2f} s',
            ratio,
            least.get((what, other)),
            at_least=True,
          )
  by_tasks = measured.get(speed.BY_TASKS, {'times_ours': {}})
  for tasks, ratio in by_tasks['times_ours'].items():
    if tasks != works.OURS:
      yield Row(
        f'CPU: greedy; {tasks} tasks by one',
        f'{by_tasks["seconds"][tasks]:.2f} s',
        f'{by_tasks["seconds"][works.OURS]:.2f} s',
        ratio,
        1.1,
      )


def of_around(measured: dict[str, Any]) -> Iterator[Row]:
  """Yields the rows of the work around the step."""
  for what in ('input seconds', 'packed input seconds', 'cached input seconds'):
    seconds = measured[what]
    yield Row(
      f'{what.removesuffix(" seconds")} of a batch of {around_step.BATCH_SIZE}',
      f'{1000 * seconds:.0f} ms',
      'a step of 50 ms',
      seconds / 0.050,
      1.0,
    )
  seconds = measured['help seconds']
  yield Row('`hyperprompt --help`', f'{seconds:.2f} s', '0.5 s', seconds / 0.5, 1.0)
  evaluation = measured['evaluation seconds']
  yield Row(
    'evaluation in buckets; small',
    f'{evaluation["buckets"]:.1f} s',
    f'all padded {evaluation["padded"]:.1f} s',
    evaluation['buckets'] / evaluation['padded'],
    1.0,
  )
  saved = measured['checkpoint seconds']
  yield Row(
    f'checkpoint of {saved["bytes"] / 1e6:.0f} MB: what holds up training',
    f'{saved["stall"]:.2f} s',
    f'the whole save {saved["whole"]:.2f} s',
    saved['stall'] / saved['whole'],
    None,
  )
  seconds = measured['first step seconds']
  yield Row('from command to first step; tiny', f'{seconds:.1f} s', '', seconds, None)


def table() -> str:
  """Returns the table of the last measurements."""
  rows: list[Row] = []
  for name, rows_from in (
    ('tpu_step', of_tpu_step),
    ('cpu_speed', of_cpu),
    ('around_step', of_around),
  ):
    measured = results.read(name)
    if measured:
      rows += rows_from(measured)
  head = ['what', 'ours', 'against', 'ratio', 'target', 'met']
  lines = [head, ['---'] * len(head), *(row.cells() for row in rows)]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def main(arguments: Sequence[str]) -> None:
  """Measures, prints the table and writes it into the page."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--table', action='store_true', help='of the last results')
  if not parser.parse_args(arguments).table:
    tpu_step.main([])
    speed.main([])
    around_step.main([])
  text = table()
  print(text)
  page = PAGE.read_text()
  before, rest = page.split(BEGIN)
  PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1])


if __name__ == '__main__':
  main(sys.argv[1:])
