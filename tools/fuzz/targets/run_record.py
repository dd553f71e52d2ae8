"""What a checkpoint of ours says of its run: task list, data, base."""

import json
import pathlib

from hyperprompt_jax.checkpoints import record
from tools.fuzz.case import Target

_RUN = {
  'task_list': ['copy', 'last'],
  'data': {'BATCH_SIZE': 4, 'TASK_FEATURE_LENGTHS': {'inputs': 8, 'targets': 8}},
  'num_data_shards': 1,
  'initial_step': 0,
  'base': {'path': 'base', 'fingerprint': '0123456789abcdef'},
}
SEEDS = tuple(
  json.dumps(run).encode()
  for run in (_RUN, {**_RUN, 'base': None}, {'task_list': [], 'data': {}, 'base': None})
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  del folder
  found = record.parse('/checkpoints/4', case)
  assert all(isinstance(task, str) for task in found.task_list)
  assert found.base is None or (found.base.path and found.base.fingerprint)
  assert found.num_data_shards > 0 and found.initial_step >= 0
  assert isinstance(found.data, dict)


TARGET = Target(SEEDS, _run, is_json=True)
