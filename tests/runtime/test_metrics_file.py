"""The records of metrics.jsonl after a kill, and with bad lines."""

import json

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import reporting


def write_records(folder, tail=''):
  lines = [json.dumps({'step': step, 'train/loss': 1.5}) for step in (1, 2, 3)]
  (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n' + tail, encoding='utf-8')


@pytest.mark.parametrize(
  'tail', ['{"step": 4, "train/lo', '{', '{"step": 4, "train/loss": ']
)
def test_a_record_that_a_kill_cut_short_is_dropped(tmp_path, tail):
  write_records(tmp_path, tail)
  metrics = reporting.Metrics(str(tmp_path), restored_step=3)
  assert [record['step'] for record in metrics.read()] == [1, 2, 3]
  metrics.write(4, 'train', {'loss': 2.5})
  metrics.close()
  lines = (tmp_path / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
  assert json.loads(lines[3]) == {'step': 4, 'train/loss': 2.5}
  assert len(lines) == 4


@pytest.mark.parametrize(
  'bad',
  [
    '{"step": 2, "train/lo',
    '[2]',
    '{"loss": 1.5}',
    '\xff',
    '{"step": 2, "eval/score/mood": "high"}',
  ],
)
def test_a_bad_record_before_the_last_is_named_and_nothing_is_dropped(tmp_path, bad):
  write_records(tmp_path, f'{bad}\n{{"step": 4}}\n')
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  with pytest.raises(UserError, match=r'metrics\.jsonl, line 4 is no record of a step: '):
    reporting.Metrics(str(tmp_path), restored_step=3)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_records_of_steps_that_are_done_again_are_dropped(tmp_path):
  write_records(tmp_path)
  reporting.Metrics(str(tmp_path), restored_step=1).close()
  assert [r['step'] for r in reporting.read_metrics(tmp_path / 'metrics.jsonl')] == [1]
