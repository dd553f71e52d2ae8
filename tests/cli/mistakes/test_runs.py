"""Mistakes in runs and their checkpoints."""

import re
import shutil

import pytest

from hyperprompt_jax.runtime import run_lock
from tests import tiny_run


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()
  }


@pytest.mark.parametrize(
  'arguments', [['eval'], ['infer', '--task=hp_builtin_first', '--output=/nowhere/x']]
)
def test_a_folder_that_is_no_run(mistake, tmp_path, arguments):
  for folder in (tmp_path, tmp_path / 'absent'):
    line = mistake([*arguments, f'--model_dir={folder}'])
    assert f'{folder} is no folder of a training run' in line


def test_a_run_without_checkpoints(mistake, copy):
  shutil.rmtree(copy / 'checkpoints')
  assert 'no checkpoints in' in mistake(['eval', f'--model_dir={copy}'])
  (copy / 'checkpoints').mkdir()
  assert 'no checkpoint in' in mistake(['eval', f'--model_dir={copy}'])
  assert 'no checkpoint in' in mistake(['eval', f'--model_dir={copy}', '--step=all'])


@pytest.mark.parametrize('step', ['3', 'lastest', '-1', '²'])
def test_a_step_that_is_none(mistake, trained, step):
  line = mistake(['eval', f'--model_dir={trained}', f'--step={step}'])
  assert f'--step={step}: there is no such checkpoint; there are 2, 4, latest' in line


@pytest.mark.parametrize('step', ['best', 'best_per_task'])
def test_the_best_of_a_run_without_scores(mistake, copy, step):
  (copy / 'metrics.jsonl').unlink()
  assert 'score' in mistake(['eval', f'--model_dir={copy}', f'--step={step}'])


OTHER_NETWORK = [
  '--gin.METHOD=@methods.MultiTaskLearning()',
  '--gin.config.Config.mlp_dim=24',
]


@pytest.mark.parametrize('verb', ['train', 'eval'])
def test_a_checkpoint_of_another_network_is_listed_both_ways(mistake, copy, verb):
  before = contents(copy)
  if verb == 'train':
    arguments = tiny_run.train_arguments(copy, *OTHER_NETWORK)
  else:
    arguments = ['eval', f'--model_dir={copy}', *OTHER_NETWORK]
  text = mistake(arguments, table=True, progress=0 if verb == 'train' else 1)
  assert f'checkpoint {copy}/checkpoints/4 is of another network' in text
  assert 'method/encoder_prompts: wanted absent, found [8, 2, 16]' in text
  assert 'decoder/layers/mlp/wo/kernel: wanted [1, 24, 16], found [1, 16, 16]' in text
  assert contents(copy) == before


def test_a_run_does_not_go_on_with_an_activation_that_shapes_do_not_show(mistake, copy):
  before = contents(copy)
  changed = "--gin.config.Config.mlp_activations=('relu','linear')"
  line = mistake(tiny_run.train_arguments(copy, changed))
  assert "was trained with config.Config.mlp_activations=['gelu', 'linear']" in line
  assert contents(copy) == before


def test_parameters_that_a_checkpoint_lacks_are_listed(mistake, copy):
  text = mistake(
    ['eval', f'--model_dir={copy}', "--gin.config.Config.mlp_activations=('relu',)"],
    table=True,
    progress=1,
  )
  assert 'decoder/layers/mlp/wi/kernel: wanted [1, 16, 16], found absent' in text
  assert 'decoder/layers/mlp/wi_0/kernel: wanted absent, found [1, 16, 16]' in text


def test_a_checkpoint_of_another_task_list(mistake, trained):
  other = "--gin.MIXTURE_OR_TASK_NAME='hp_super_glue_cb_v102'"
  line = mistake(['eval', f'--model_dir={trained}', other])
  assert 'is of the task list first, last,' in line
  assert 'this run has boolq, cb,' in line


def test_a_mixture_of_another_task_list_than_the_models(mistake, trained):
  other = "--gin.settings.DataSettings.mixture_or_task_name='hp_super_glue_cb_v102'"
  line = mistake(['eval', f'--model_dir={trained}', other])
  assert 'hp_super_glue_cb_v102 is of the task list boolq,' in line


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'MIXTURE_OR_TASK_NAME': 'hp_builtin_copy'}, "='hp_builtin_first'; this run has"),
    ({'BATCH_SIZE': 8}, 'BATCH_SIZE=4; this run has 8'),
    ({'TASK_FEATURE_LENGTHS': {'inputs': 16, 'targets': 8}}, 'TASK_FEATURE_LENGTHS='),
    ({'RANDOM_SEED': 1}, 'RANDOM_SEED=0; this run has 1'),
  ],
)  # fmt: skip
def test_a_run_does_not_go_on_with_other_data(mistake, copy, changed, message):
  before = contents(copy)
  line = mistake(tiny_run.train_arguments(copy, **{'TRAIN_STEPS': 6, **changed}))
  assert message in line
  assert contents(copy) == before


def remove(path):
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest_data(item):
  files = (item / 'ocdbt.process_0' / 'd').iterdir()
  return max(files, key=lambda path: path.stat().st_size)


DAMAGES = {
  'no parameters': lambda step: remove(step / 'params'),
  'no manifest': lambda step: remove(step / 'params' / 'manifest.ocdbt'),
  'no parameter data': lambda step: remove(largest_data(step / 'params')),
  'half of the parameters': lambda step: truncate(largest_data(step / 'params')),
  'half of the metadata': lambda step: truncate(step / 'params' / '_METADATA'),
  'no task list': lambda step: remove(step / 'run'),
  'half of the task list': lambda step: truncate(step / 'run' / 'metadata'),
}
TRAIN_DAMAGES = {
  'no optimizer': lambda step: remove(step / 'optimizer'),
  'half of the optimizer': lambda step: truncate(largest_data(step / 'optimizer')),
  'no position': lambda step: remove(step / 'data'),
  'half of the position': lambda step: truncate(step / 'data' / 'position.json'),
}


@pytest.mark.parametrize('damage', [*DAMAGES, *TRAIN_DAMAGES])
def test_training_refuses_a_damaged_checkpoint(mistake, copy, damage):
  remove(copy / 'checkpoints' / '2')  # to which it would go back
  (DAMAGES | TRAIN_DAMAGES)[damage](copy / 'checkpoints' / '4')
  before = contents(copy)
  line = mistake(tiny_run.train_arguments(copy, TRAIN_STEPS=6))
  assert f'{copy}/checkpoints/4 cannot be read, it is damaged or incomplete' in line
  assert contents(copy) == before


@pytest.mark.parametrize('damage', DAMAGES)
def test_infer_refuses_a_damaged_checkpoint(mistake, copy, tmp_path, damage):
  DAMAGES[damage](copy / 'checkpoints' / '4')
  output = tmp_path / 'answers.jsonl'
  line = mistake(
    ['infer', f'--model_dir={copy}', '--task=hp_builtin_first', f'--output={output}']
  )
  assert f'{copy}/checkpoints/4 cannot be read, it is damaged or incomplete' in line
  assert list(tmp_path.glob('answers*')) == []


@pytest.mark.slow(held_by='test_a_step_that_is_not_finite_ends_the_run_before_it_is_saved')
def test_parameters_that_are_not_finite_end_training_before_they_are_saved(
  mistake, tmp_path
):
  arguments = tiny_run.train_arguments(
    tmp_path / 'run', LEARNING_RATE=1e30, CHECKPOINT_PERIOD=1
  )
  line = mistake(arguments)
  # Loss and gradient are those of the parameters before.
  assert re.search(
    r'step 1 is not finite \(loss \d\.\d+, gradient norm \d\.\d+, parameter norm inf; '
    r'tasks in its batch: first\), nothing of it is saved: lower LEARNING_RATE',
    line,
  )
  assert list((tmp_path / 'run' / 'checkpoints').iterdir()) == []


def test_a_run_where_another_one_is(mistake, copy):
  arguments = tiny_run.train_arguments(copy, TRAIN_STEPS=6)
  with run_lock.held(str(copy)):
    before = contents(copy)
    assert f'MODEL_DIR {copy} is in use by another run (process' in mistake(arguments)
    assert contents(copy) == before
