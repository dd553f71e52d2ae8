"""SuperGLUE's official files: every line is rows, an error, or a warning."""

import json
import pathlib

from hyperprompt_tasks import official_files, sources, super_glue_files
from tools.fuzz.case import Target, official_rows

OFFICIAL = official_rows('super_glue')
CONFIGS = tuple(super_glue_files.FORMATS)


def _seeds() -> list[bytes]:
  seeds = []
  for number, config in enumerate(CONFIGS):
    layout = super_glue_files.FORMATS[config]
    rows = OFFICIAL.get(layout.folder) or OFFICIAL['RTE']
    if config == 'axb':
      rows = [{'sentence1': 'a', 'sentence2': 'b', 'idx': 3, 'label': 'entailment'}]
    lines = '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
    seeds.append(bytes([number]) + lines.encode())
  return seeds


def _run(case: bytes, folder: pathlib.Path) -> None:
  layout = super_glue_files.FORMATS[CONFIGS[case[0] % len(CONFIGS) if case else 0]]
  path = folder / 'lines.jsonl'
  path.write_bytes(case[1:])
  warnings: list[str] = []
  official_files.warn_once = warnings.append  # type: ignore[assignment]
  split = 'test' if case[:1] >= b'\x80' else 'train'
  columns = sources._to_columns(layout.read(str(path), split))
  rows = sources._num_rows(columns)
  lines = [line for line in case[1:].splitlines() if line.strip()]
  assert rows == sum(_rows(layout, json.loads(line)) for line in lines)
  assert warnings or all(_rows(layout, json.loads(line)) for line in lines)


def _rows(layout: super_glue_files.Format, line: dict) -> int:
  """Returns the number of rows in a line."""
  if layout.folder == 'MultiRC':
    return sum(len(question['answers']) for question in line['passage']['questions'])
  return len(line['qas']) if layout.folder == 'ReCoRD' else 1


TARGET = Target(_seeds(), _run, is_json=True, prefix=1)
