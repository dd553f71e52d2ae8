"""Runs on small tasks that are cut off and changed: CB has 250 rows, and fewer here."""

import contextlib
import io
import json
import shutil

import pytest

from hyperprompt_jax import cli
from tests import tiny_run
from tests.training.test_resume import arrays

CB, COPA = 'hp_super_glue_cb_v102', 'hp_super_glue_copa_v102'
ROWS, STEPS = 37, 16


def write_cb(folder, rows=ROWS):
  (folder / 'CB').mkdir(parents=True, exist_ok=True)
  labels = ('entailment', 'contradiction', 'neutral')
  for file, number in (('train', rows), ('val', 4)):
    lines = [
      json.dumps(
        {
          'premise': f'Premise {n} ' + 'so ' * (n % 5),
          'hypothesis': f'{file} {n}',
          'label': labels[n % 3],
          'idx': n,
        }
      )
      for n in range(number)
    ]
    (folder / 'CB' / f'{file}.jsonl').write_text('\n'.join(lines) + '\n')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('super_glue')
  write_cb(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SUPER_GLUE_DIR', str(folder))
    yield folder


def arguments(folder, **macros):
  settings = {
    'MIXTURE_OR_TASK_NAME': CB,
    'TASK_FEATURE_LENGTHS': {'inputs': 48, 'targets': 16},
    'BATCH_SIZE': 16,
    'TRAIN_STEPS': STEPS,
    'CHECKPOINT_PERIOD': 4,
    'EVAL_PERIOD': STEPS,
    'EVAL_STEPS': 0,
    'EVALUATOR_NUM_EXAMPLES': 2,
    **macros,
  }
  network = {**tiny_run.NETWORK, **tiny_run.UNROLLED}
  return tiny_run.train_arguments(folder, network=network, **settings)


@pytest.fixture(scope='module')
def unbroken(data, tmp_path_factory, compile_once):
  folder = tmp_path_factory.mktemp('unbroken')
  assert cli.main(arguments(folder)) == 0
  return folder


@pytest.fixture(scope='module')
def resumed(unbroken, tmp_path_factory):
  """The run as a kill after step 13 leaves it, and what it prints as it goes on.

  It goes back to step 8, because step 12 has the position of another step.
  """
  folder = shutil.copytree(unbroken, tmp_path_factory.mktemp('killed') / 'run')
  steps = folder / 'checkpoints'
  shutil.rmtree(steps / str(STEPS))
  shutil.copy(steps / '8' / 'data' / 'position.json', steps / '12' / 'data')
  with contextlib.redirect_stderr(io.StringIO()) as err:
    assert cli.main(arguments(folder)) == 0
  return folder, err.getvalue()


def test_a_run_killed_past_an_epochs_end_ends_with_the_bits_of_the_unbroken_one(
  unbroken, resumed
):
  assert ROWS < 4 * 16
  folder, err = resumed
  assert f'resuming from step 8 of {folder}' in err
  wanted, arrays_now = arrays(unbroken, STEPS), arrays(folder, STEPS)
  assert wanted.keys() == arrays_now.keys() and len(wanted) > 40
  different = [
    name for name, x in wanted.items() if x.tobytes() != arrays_now[name].tobytes()
  ]
  assert different == []


def test_the_position_of_a_run_is_a_few_numbers(unbroken):
  folder = unbroken / 'checkpoints' / str(STEPS) / 'data'
  assert json.loads((folder / 'position.json').read_text())['draws'] == STEPS * 16
  assert sum(path.stat().st_size for path in folder.iterdir()) < 1000


def refused(folder, capsys, **macros):
  capsys.readouterr()
  assert cli.main(arguments(folder, TRAIN_STEPS=STEPS + 4, **macros)) == 2
  *_, line = capsys.readouterr().err.splitlines()
  return line


def test_a_changed_row_is_noticed_by_name(data, unbroken, capsys):
  path = data / 'CB' / 'train.jsonl'
  rows = path.read_text()
  path.write_text(rows.replace('Premise 7', 'Another 7'))
  try:
    assert f'other data: {CB}: the rows of its source have changed; put back' in refused(
      unbroken, capsys
    )
    path.write_text(''.join(rows.splitlines(keepends=True)[:-1]))
    assert 'have changed (it had 37 examples and has 36)' in refused(unbroken, capsys)
  finally:
    path.write_text(rows)


def test_a_position_of_another_step_is_noticed(resumed):
  _, err = resumed
  assert 'its position is that of step 8' in err


def test_streams_and_indices_are_not_mixed(unbroken, capsys):
  line = refused(unbroken, capsys, DATA_CACHE='none')
  assert "READING='by index'; this run has 'as a stream'" in line


def test_tasks_without_rows_to_draw_are_named(data, tmp_path, capsys):
  write_cb(tmp_path)
  (tmp_path / 'CB' / 'train.jsonl').write_text('')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SUPER_GLUE_DIR', str(tmp_path))
    assert cli.main(arguments(tmp_path / 'run')) == 2
  assert 'train.jsonl' in capsys.readouterr().err
