"""The record that a checkpoint has of its run, and the values that it refuses."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperprompt_jax.checkpoints import record
from hyperprompt_jax.checkpoints.frozen import Base
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError

RUN = {
  'task_list': ['copy', 'last'],
  'data': {'BATCH_SIZE': 4},
  'num_data_shards': 2,
  'initial_step': 7,
  'base': {'path': 'base', 'fingerprint': '0123456789abcdef'},
  'sums': {'params': {'a/b': 3}, 'optimizer': {}},
  'environment': {'jax': '0.10.2', 'threads of XLA': '2'},
}


def test_a_record_comes_back_as_it_was():
  parsed = record.parse('/run/checkpoints/4', json.dumps(RUN).encode())
  written = parsed.to_json()
  assert written.pop('digest') and written == RUN
  assert record.of_json(parsed.to_json()) == parsed
  assert parsed.base == Base('base', '0123456789abcdef')
  older = record.of_json({'task_list': ['copy'], 'data': {}, 'more': 3})
  assert (older.num_data_shards, older.initial_step) == (1, 0)
  assert older.base is older.sums is older.environment is None


def test_a_record_is_what_its_digest_is_of():
  changed = record.of_json(RUN).to_json() | {'initial_step': 8}
  with pytest.raises(ValueError, match='its digest is of another record'):
    record.of_json(changed)


@pytest.mark.parametrize(
  'contents',
  [
    b'',
    b'[]',
    b'[' * 100_000,
    b'{"task_list": ["copy"]}',
    *(
      json.dumps(RUN | change).encode()
      for change in (
        {'task_list': 'copy'},
        {'task_list': [3]},
        {'data': []},
        {'num_data_shards': 0},
        {'num_data_shards': '2'},
        {'initial_step': -1},
        {'base': 'base'},
        {'base': {'path': 'base'}},
        {'base': {'path': 3, 'fingerprint': 'a'}},
        {'sums': {'params': {}}},
        {'environment': {'jax': 3}},
        {'environment': 'jax'},
        {'sums': {'params': {'a': '3'}, 'optimizer': {}}},
      )
    ),
  ],
)
def test_a_record_that_is_none(contents):
  with pytest.raises(UserError, match=r'^checkpoint /run/4 is damaged: run/metadata: '):
    record.parse('/run/4', contents)


def test_a_checkpoint_that_is_the_base_of_its_own_base(tmp_path):
  step = tmp_path / 'checkpoints' / '4'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(step / 'params', {'x': np.ones(2, 'f4')})
  (step / 'run').mkdir()
  own = {'base': {'path': str(tmp_path), 'fingerprint': 'a'}, 'sums': None}
  (step / 'run' / 'metadata').write_text(json.dumps(RUN | own))
  with pytest.raises(UserError, match='it is the base of its own base'):
    open_source(str(tmp_path))
