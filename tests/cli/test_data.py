"""`hyperprompt data`: the cache in a table, and the batch of a step in words."""

import json
import pathlib
import shutil

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.data import indexed
from tests import tiny_run

NAME = 'hp_builtin_first'


@pytest.fixture(scope='module')
def cached(trained, tmp_path_factory):
  """A copy of the cache in which the run's examples are."""
  folder = tmp_path_factory.mktemp('cache') / 'data'
  arguments = [*data_arguments(), f"--gin.DATA_CACHE='{folder}'"]
  assert cli.main(['data', 'build', *arguments]) == 0
  return folder


def data_arguments(**macros):
  return tiny_run.train_arguments(pathlib.Path('nowhere'), **macros)[1:]


def report(capsys, *words):
  capsys.readouterr()
  assert cli.main(['data', *words, '--json']) == 0
  return json.loads(capsys.readouterr().out)


def test_list_shows_what_build_has_made(cached, capsys):
  entries = report(capsys, 'list', f'--data_cache={cached}')['entries']
  assert [(entry['task'], entry['split']) for entry in entries] == [
    (NAME, 'train'),
    (NAME, 'validation'),
  ]
  assert entries[0]['examples'] == 8192
  size = sum(path.stat().st_size for path in cached.rglob('examples.bin'))
  assert size == sum(entry['bytes'] for entry in entries)
  assert cli.main(['data', 'list', f'--data_cache={cached}']) == 0
  assert f'Cached examples in {cached}' in capsys.readouterr().out.replace('\n', '')


def test_verify_removes_what_is_damaged_and_nothing_else(cached, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(cached, copy)
  verified = report(capsys, 'verify', f'--data_cache={copy}')
  assert verified['removed'] == [] and verified['entries_left'] == 2
  path, *_ = sorted(copy.glob('*/train-*/examples.bin'))
  contents = bytearray(path.read_bytes())
  contents[1000] ^= 4
  path.write_bytes(contents)
  left = report(capsys, 'verify', f'--data_cache={copy}')
  assert [entry['split'] for entry in left['removed']] == ['train']
  assert left['entries_left'] == 1


def test_prune_leaves_so_much(cached, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(cached, copy)
  assert report(capsys, 'prune', f'--data_cache={copy}')['removed'] == []
  left = report(capsys, 'prune', '--gigabytes=0', f'--data_cache={copy}')
  assert len(left['removed']) == 2 and left['bytes_left'] == 0


def test_a_folder_that_is_not_there_is_empty(tmp_path, capsys):
  assert report(capsys, 'list', f'--data_cache={tmp_path}/none')['entries'] == []


@pytest.mark.parametrize('pack', [False, True])
def test_the_batch_of_a_step_is_what_the_step_was_trained_on(pack, capsys):
  macros = {'MIXTURE_OR_TASK_NAME': tiny_run.TWO_TASKS, 'PACK': pack}
  if pack:  # rows with room for several examples
    macros['TASK_FEATURE_LENGTHS'] = {'inputs': 64, 'targets': 32}
  shown = report(capsys, '--show-step=3', *data_arguments(**macros))
  assert shown['step'] == 3
  for example in shown['examples']:
    task = example['task'].removeprefix('hp_builtin_')
    name, _, text = example['inputs'].partition(': ')
    assert name == task
    assert example['targets'] == {'copy': text, 'first': text[0]}[task]
  draws = [example['draw'] for example in shown['examples']]
  if not pack:
    assert draws == [8, 9, 10, 11]
  else:
    assert sorted(draws) == [*range(min(draws), max(draws) + 1)] and len(draws) > 4
  assert cli.main(['data', '--show-step=3', *data_arguments(**macros)]) == 0
  assert shown['examples'][0]['inputs'] in capsys.readouterr().out


def test_the_batch_of_a_run_is_found_from_its_checkpoints(trained, capsys):
  from_flags = report(capsys, '--show-step=4', *data_arguments())
  assert report(capsys, '--show-step=4', f'--model_dir={trained}') == from_flags
  (position,) = (trained / 'checkpoints/4/data').glob(indexed.FILE)
  assert json.loads(position.read_text())['batches'] == 4


@pytest.mark.parametrize(
  ('words', 'reason'),
  [
    ([], 'give one of list, verify, prune, build, or --show-step=N'),
    (['list', '--show-step=3'], 'give one of list, verify, prune, build, or'),
    (['--show-step=3'], 'give the flags of `hyperprompt train`, or --model_dir'),
    (['prune', '--gigabytes=-1'], '--gigabytes must be 0 or more, not -1'),
    (
      ['--show-step=0', *data_arguments()],
      '--show-step=0: the first step of this run is 1',
    ),
    (
      ['--show-step=3', *data_arguments(DATA_CACHE='none')],
      'batches of a stream cannot be made without those before',
    ),
    (['build', *data_arguments(DATA_CACHE='none')], 'DATA_CACHE=none: there is no cache'),
  ],
)
def test_mistakes_are_one_line(words, reason, capsys):
  assert cli.main(['data', *words]) == 2
  assert reason in capsys.readouterr().err.splitlines()[-1]
