"""GLUE's official files: every line is a row, an error, or counted as omitted."""

import pathlib
import re

import numpy as np

from hyperprompt_tasks import glue_files, official_files, sources
from tools.fuzz.case import Target, official_rows

GLUE = official_rows('glue')
CONFIGS = ('cola', 'sst2', 'mrpc', 'qqp', 'stsb', 'mnli', 'qnli', 'rte', 'wnli', 'ax')


def _seeds() -> list[bytes]:
  seeds = []
  for number, config in enumerate(CONFIGS):
    layout = glue_files.FORMATS[config]
    for name, text in GLUE.items():
      if name.startswith(f'{layout.folder}/') and 'ids' not in name:
        prefix = number + (128 if 'test' in name or config == 'ax' else 0)
        seeds.append(bytes([prefix]) + text.encode())
  return seeds


def _run(case: bytes, folder: pathlib.Path) -> None:
  config = CONFIGS[(case[0] & 127) % len(CONFIGS) if case else 0]
  layout = glue_files.FORMATS[config]
  split = 'test' if case[:1] >= b'\x80' else 'train'
  path = folder / 'lines.tsv'
  path.write_bytes(case[1:])
  warnings: list[str] = []
  official_files.warn_once = warnings.append  # type: ignore[assignment]
  columns = sources._to_columns(layout.read(str(path), split))
  lines = len([line for line in case[1:].splitlines() if line])
  header = 0 if config == 'cola' and split == 'train' else 1
  counts = (re.findall(r'left out (\d+) of', text) for text in warnings)
  left_out = sum(int(number) for numbers in counts for number in numbers)
  assert sources._num_rows(columns) + left_out + header == lines
  if layout.texts.keys() == {'sentence1', 'sentence2'} and 'label' in columns:
    assert np.isfinite(np.asarray(columns['label'], np.float64)).all()


TARGET = Target(_seeds(), _run, (b'sentence1', b'label', b'nan'), prefix=1)
