"""The record of a run in our checkpoint: task list, data, base."""

import json
import pathlib

from hyperprompt_jax.checkpoints import record
from tools.fuzz.case import Target

_RUN: dict[str, object] = {
  'task_list': ['copy', 'last'],
  'data': {'BATCH_SIZE': 4, 'TASK_FEATURE_LENGTHS': {'inputs': 8, 'targets': 8}},
  'num_data_shards': 1,
  'initial_step': 0,
  'base': {'path': 'base', 'fingerprint': '0123456789abcdef'},
}
_EMPTY: dict[str, object] = {'task_list': [], 'data': {}, 'base': None}
SEEDS = tuple(json.dumps(run).encode() for run in (_RUN, {**_RUN, 'base': None}, _EMPTY))


def _run(case: bytes, folder: pathlib.Path) -> None:
  del folder
  parsed = record.parse('/checkpoints/4', case)
  assert all(isinstance(task, str) for task in parsed.task_list)
  assert parsed.base is None or (parsed.base.path and parsed.base.fingerprint)
  assert parsed.num_data_shards > 0 and parsed.initial_step >= 0
  assert isinstance(parsed.data, dict)


TARGET = Target(SEEDS, _run, is_json=True)
