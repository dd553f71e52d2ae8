"""Tutorials, followed block by block in an empty folder, with networks of a few parameters.

The third walkthrough, a run of two processes under Slurm's variables, is in
tests/runtime/test_distributed.py, which trains such processes anyway.
"""

import dataclasses
import json
import pathlib
import re
import shlex
import subprocess

import pytest

from hyperprompt_jax import cli
from tests import published
from tests.inference import test_loading

TUTORIALS = pathlib.Path(__file__).parents[2] / 'docs/tutorials'
CONFIG = dataclasses.replace(
  published.CONFIG, vocab_size=256, num_encoder_layers=1, num_decoder_layers=1
)


def follow(page, replaced):
  """Does what a tutorial says: saves its files, and runs its Python and its commands.

  Args:
    page: is the name of the tutorial.
    replaced: are texts of the page, all of them there, and those that stand for them.
  """
  text = (TUTORIALS / page).read_text()
  for old, new in replaced.items():
    assert old in text
    text = text.replace(old, new)
  for block in re.findall(r'^```(?:python)?\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
    first, *_ = block.splitlines()
    if match := re.fullmatch(r'# (\S+\.(?:gin|py))', first):
      pathlib.Path(match[1]).write_text(block)
    elif first.startswith('import '):
      exec(block, {})
    else:
      for line in block.replace('\\\n', ' ').splitlines():
        run(line)


def run(line):
  """Runs a line of a block of commands."""
  words = shlex.split(line.removeprefix('PYTHONPATH=. '))
  if words[0] == 'hyperprompt':
    assert cli.main(words[1:]) == 0
  else:
    subprocess.run(line, shell=True, check=True)


@pytest.fixture
def t5(tmp_path, monkeypatch):
  """A Hugging Face folder; the working directory is empty."""
  folder = published.hugging_face(tmp_path / 't5', CONFIG)
  test_loading.vocabulary(folder / 'spiece.model')
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  monkeypatch.syspath_prepend(tmp_path / 'here')
  return folder


def metrics():
  lines = pathlib.Path('my_run/metrics.jsonl').read_text().splitlines()
  return json.loads(lines[-1])


SMALL = {'--batch_size=32': '--batch_size=4', '32,8': '24,4'}


def test_five_tasks_of_a_student_from_a_hugging_face_folder_to_a_report(
  t5, compile_once, capsys
):
  short = '--train_steps=2 --eval_period=2 --evaluator_num_examples=4'
  follow(
    'own_tasks.md',
    {**SMALL, '/models/t5-small': str(t5), '--train_steps=300 --eval_period=100': short},
  )
  tasks = ('entails', 'mood', 'shout', 'stars', 'topic')
  record = metrics()
  assert {f'eval/score/{task}' for task in tasks} <= record.keys()
  # Labels may be written as numbers: the report on the data shows their names.
  data = json.loads(pathlib.Path('my_run/data.json').read_text())
  assert set(data['topic']['labels']) == {'sports', 'politics', 'science'}
  (answer,) = map(json.loads, pathlib.Path('answers.jsonl').read_text().splitlines())
  assert answer['task'] == 'mood' and isinstance(answer['prediction'], str)
  page = pathlib.Path('my_run/report.html').read_text()
  for task in tasks:
    assert task in page
  assert 'premise: a' in page  # the template's text, under Predictions


@pytest.mark.slow(held_by='test_from_t5x_through_a_run_to_t5x_and_to_the_byte')
def test_a_user_of_t5x_continues_with_the_tasks_and_the_checkpoint_at_hand(
  t5, compile_once, capsys
):
  words = ['convert', f'--input={t5}', '--output=t5x', '--to=t5x', '--json']
  assert cli.main(words) == 0
  checkpoint = json.loads(capsys.readouterr().out)['checkpoint']
  follow(
    't5x_user.md',
    {
      '/t5/base/checkpoint_1000000': checkpoint,
      '512,64': '24,4 --batch_size=4',
      '=20000': '=2',
      '=2000 ': '=2 ',
      '/data/run': 'my_run',
      '/t5/tuned': 'tuned',
    },
  )
  assert {'eval/score/my_first', 'eval/score/my_last'} <= metrics().keys()
  assert f'starting from step 0 of {checkpoint} (T5X)' in capsys.readouterr().err
  (back,) = pathlib.Path('tuned').glob('checkpoint_2')
  names = {path.name for path in back.iterdir()}
  assert 'target.encoder.layers_0.attention.query.kernel' in names
  assert any(name.startswith('target.method.') for name in names)
