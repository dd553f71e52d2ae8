"""Runs the interference study: every run that results.jsonl does not hold yet.

    python -m benchmarks.interference.study            (make study)

Each run has a core of its own; one that is cut off is done again, whole. A line of the
results holds a run's configuration, seed and curve; `report.py` makes docs/study.md of them.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

RESULTS = pathlib.Path(__file__).parent / 'results.jsonl'


def experiments() -> list['Experiment']:
  """All runs, the most important first; those of one program stand together."""
  from benchmarks.interference.design import EXPERIMENTS

  return EXPERIMENTS


def done(path: pathlib.Path) -> list[dict]:
  """The records of a results file; without a last line that was cut short."""
  if not path.exists():
    return []
  records = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return records
