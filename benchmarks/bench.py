"""Measures speed and memory, and prints one table (make bench).

    python -m benchmarks.bench            measures everything and prints the table
    python -m benchmarks.bench --table    prints the table of benchmarks/results/*.json

The table also goes to docs/reference/speed.md, which explains it.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import around_step, reading, results, speed, start, tpu_step, works

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'reference' / 'speed.md'
BEGIN, END = '<!-- table: make bench -->\n', '<!-- end of table -->\n'
GIB = 2**30

# Figures of the compiled step that are compared with T5X's better setting, and the largest
# ratio allowed.
AGAINST_T5X = (
  ('flops', 'arithmetic', 1.0),
  ('hbm_bytes', 'traffic of the main memory', 0.45),
  ('peak_bytes', 'peak memory', 0.9),
  ('step_seconds', 'estimated time', 0.5),
)
# Figures that are compared with our own network without prompts.
AGAINST_MTL = ('flops', 'hbm_bytes', 'peak_bytes', 'step_seconds')
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
  for size, topology, _ in tpu_step.SIZES:
    where = f'TPU step, {size.upper() if "x" in size else size.title()} on {topology}'
    yield from _beside_others(where, measured[size], '')
  for ending, where in (
    (tpu_step.UNROLLED, 'Base, layers unrolled'),
    (tpu_step.FOUR, 'XL, four chips to a model'),
  ):
    size, _ = tpu_step.VARIANTS[ending]
    yield from _beside_others(f'TPU step, {where}', measured[size], ending)
  sizes = [size for size, *_ in tpu_step.SIZES]
  compiled = {size: measured[size]['global']['compile_seconds'] for size in sizes}
  yield Row(
    'time to compile the TPU step, XXL',
    f'{compiled["xxl"]:.0f} s',
    'a limit of 120 s',
    compiled['xxl'] / 120,
    1.0,
  )
  yield Row(
    'time to compile the TPU step, Large (24 layers)',
    f'{compiled["large"]:.0f} s',
    f'Base (12 layers) {compiled["base"]:.0f} s',
    compiled['large'] / compiled['base'],
    1.3,
  )


def _beside_others(
  where: str, programs: dict[str, dict[str, Any]], suffix: str
) -> Iterator[Row]:
  """Yields our step beside T5X's at its better setting, and beside plain T5."""
  ours = programs.get(f'global{suffix}')
  others = [programs[x] for name in tpu_step.T5X if (x := name + suffix) in programs]
  if not ours:
    return
  for key, what, most in AGAINST_T5X if others else ():
    best = min(program[key] for program in others)
    told = f'T5X {_shown(key, best)}'
    yield Row(f'{where}: {what}', _shown(key, ours[key]), told, ours[key] / best, most)
  if mtl := programs.get(f'mtl{suffix}'):
    ratios = {key: ours[key] / mtl[key] for key in AGAINST_MTL}
    yield Row(
      f'{where}: the same four figures',
      ', '.join(_shown(key, ours[key]) for key in ratios),
      'without prompts: ' + ', '.join(f'{ratio:.3f}' for ratio in ratios.values()),
      max(ratios.values()),
      MOST_OF_MTL,
    )


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
  """Yields the rows of CPU times, with the wall times."""
  least = {
    ('small', works.TRAIN, works.T5X): 1.6,
    ('small', works.TRAIN, works.TORCH): 1.2,
    ('base', works.TRAIN, works.T5X): 1.15,
    ('small', works.GREEDY, works.T5X): 1.6,
    ('small', works.GREEDY, works.CT2): 1.0,
    ('small', works.RANK, works.GREEDY): 3.0,
  }
  for size in ('small', 'base'):
    for what, times in measured.get(size, {}).items():
      told = lambda name, times=times: (
        f'{times["cpu_seconds"][name]:.2f} s ({times["seconds"][name]:.2f} s)'
      )
      for other, ratio in times['times_ours'].items():
        if other != works.OURS:
          yield Row(
            f'{what}, {size.title()}',
            told(works.OURS),
            f'{other} {told(other)}',
            ratio,
            least.get((size, what, other)),
            at_least=True,
          )
      yield from _of_exports(size, what, times, told)
    if faults := measured.get(size, {}).get(works.TRAIN, {}).get('faults'):
      gigabytes = measured[size][works.TRAIN]['gigabytes']
      yield Row(
        f'page faults of a training step, {size.title()}',
        f'{faults[works.OURS]:,.0f} ({gigabytes[works.OURS]:.1f} GB held)',
        f'{speed.FRESH} {faults[speed.FRESH]:,.0f} ({gigabytes[speed.FRESH]:.1f} GB)',
        faults[works.OURS] / faults[speed.FRESH],
        0.01,
      )
  by_tasks = measured.get(speed.BY_TASKS, {'times_ours': {}})
  for tasks, ratio in by_tasks['times_ours'].items():
    if tasks != works.OURS:
      yield Row(
        f'greedy with {tasks} tasks',
        f'{by_tasks["cpu_seconds"][tasks]:.2f} s',
        f'one task {by_tasks["cpu_seconds"][works.OURS]:.2f} s',
        ratio,
        1.1,
      )


def _of_exports(
  size: str, what: str, times: dict[str, Any], told: Callable[[str], str]
) -> Iterator[Row]:
  """Yields the rows of our exports, beside CTranslate2 at the same precision."""
  for export, other in ((works.ONNX, works.CT2), (works.ONNX_INT8, works.CT2_INT8)):
    if {export, other} <= times['times_ours'].keys():
      target = 1.0 if (size, what) == ('small', works.GREEDY) else None
      yield Row(
        f'{what}, {size.title()}, {export.removeprefix("ours, ")}',
        told(export),
        f'{other} {told(other)}',
        times['times_ours'][other] / times['times_ours'][export],
        target,
        at_least=True,
      )


def of_reading(measured: dict[str, Any]) -> Iterator[Row]:
  """Yields the rows of batches that are read by index."""
  batches = next(iter(measured.values()))  # the first mixture: SuperGLUE, if it is there
  for key, what in (('batch seconds', 'batch'), ('packed batch seconds', 'packed batch')):
    seconds = batches[key]['cpu']
    yield Row(
      f'{what} of {around_step.BATCH_SIZE} rows, 512 + 64 tokens, from the cache',
      f'{1000 * seconds:.1f} ms',
      'a step of 50 ms',
      seconds / 0.050,
      1.0,
    )


def of_around(measured: dict[str, Any]) -> Iterator[Row]:
  """Yields the rows of the work around the step."""
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


def table() -> str:
  """Returns the tables of the last measurements, each below its title."""
  parts = []
  for name, title, rows_from in (
    ('tpu_step', 'Programs that the TPU compiler made', of_tpu_step),
    ('cpu_speed', 'CPU time, and wall time in brackets', of_cpu),
    ('reading', 'Training data read by index, CPU time', of_reading),
    ('around_step', 'Around the step', of_around),
  ):
    if measured := results.read(name):
      rows = [row.cells() for row in rows_from(measured)]
      if not rows:
        continue
      head = ['measurement', 'ours', 'compared with', 'ratio', 'target', 'met']
      lines = [head, ['---'] * len(head), *rows]
      text = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
      parts.append(f'{title} (last measured {measured["about"]["date"]}):\n\n{text}')
  if measured := results.read('start'):
    parts.append(
      'The start of `hyperprompt train`, a tiny network on eight tasks (last measured '
      f'{measured["about"]["date"]}):\n\n{start.table(measured)}\n'
    )
  return '\n'.join(parts)


def main(arguments: Sequence[str]) -> None:
  """Measures, prints the table and writes it into the page."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--table', action='store_true', help='of the last results')
  if not parser.parse_args(arguments).table:
    tpu_step.main([])
    speed.main([])
    reading.main([])
    around_step.main([])
    start.main([])
  text = table()
  print(text)
  page = PAGE.read_text()
  before, rest = page.split(BEGIN)
  PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1])


if __name__ == '__main__':
  main(sys.argv[1:])
