"""A task that is added to a trained model changes nothing for the other tasks."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import TrainState
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import optimizers, trainable
from hyperprompt_jax.training.settings import LAST_TASK
from hyperprompt_jax.training.train_step import abstract_state, make_train_step
from tests import tiny, tiny_run

OWN = """
from __gin__ import dynamic_registration
import hyperprompt_tasks

MIXTURE_OR_TASK_NAME = '{name}'
hyperprompt_tasks.from_files:
  name = '{name}'
  files = {{{files}}}
  task_list = {tasks}
"""


@pytest.mark.parametrize(
  ('method', 'scan'),
  [
    pytest.param('adapter', True, marks=pytest.mark.slow),
    pytest.param('hyperformer', True, marks=pytest.mark.slow),
    pytest.param('hyperprompt_global', True, marks=pytest.mark.slow),
    ('hyperprompt_sep', False),
  ],
)
def test_only_the_last_tasks_own_parameters_move(method, scan):
  """Steps have rows of all tasks; those of the other tasks have no effect, either."""
  model = tiny.model(tiny.METHODS[method], scan_layers=scan, num_decoder_layers=1)
  optimizer, partitioner = optimizers.adafactor(0.1), Partitioner()
  with partitioner.activate():
    last_task = trainable.resolve(model.param_axes(), LAST_TASK)
    like = abstract_state(model, optimizer, partitioner, last_task)
    params = tiny.init(model)
    opt_state = optimizer.init(last_task.active_part(last_task.split(params)[0]))
    state = TrainState(np.int32(0), params, opt_state)
    before = {path: np.asarray(x) for path, x in by_path(state.params).items()}
    step = make_train_step(model, optimizer, partitioner, like, seed=0, trainable=last_task)
    for seed in range(2):
      state, _ = step(state, tiny.batch(seed=seed))
  axes = last_task.task_axes
  assert axes
  num_changed = 0
  for path, after in by_path(state.params).items():
    old, new = before[path], np.asarray(after)
    axis = axes.get(tuple(path.split('/')))
    if axis is None:
      np.testing.assert_array_equal(old, new, err_msg=path)
      continue
    others = np.arange(old.shape[axis] - 1)
    np.testing.assert_array_equal(old.take(others, axis), new.take(others, axis), path)
    num_changed += not np.array_equal(old.take(-1, axis), new.take(-1, axis))
  assert num_changed
  for leaf in jax.tree.leaves(state.opt_state):
    assert leaf.size <= max(x.size for x in before.values())


def own(folder, name, tasks):
  """A gin file of tasks in files, each with a train and a validation split."""
  for task in tasks:
    rows = [{'inputs': f'{task} {n}', 'targets': f'{task}{n % 3}'} for n in range(8)]
    (folder / f'{task}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  files = ', '.join(
    f"'{t}': {{'train': '{folder}/{t}.jsonl', 'validation': '{folder}/{t}.jsonl'}}"
    for t in tasks
  )
  path = folder / f'{name}.gin'
  path.write_text(OWN.format(name=name, files=files, tasks=list(tasks)))
  return path


def arguments(folder, gin, **macros):
  return tiny_run.train_arguments(
    folder,
    files=(*tiny_run.FILES, gin),
    without=('MIXTURE_OR_TASK_NAME', 'TRAIN_STEPS'),
    **{'TRAIN_STEPS_RELATIVE': 2, 'EVAL_PERIOD': 2, 'EVAL_STEPS': 0, **macros},
  )


def params(folder, step):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / f'checkpoints/{step}/params')
  return {path: np.asarray(x) for path, x in by_path(tree).items()}


def predictions(run, tmp_path, *tasks):
  output = tmp_path / f'{run.name}.jsonl'
  lines = [json.dumps({'task': t, 'inputs': f'{t} {n}'}) for t in tasks for n in range(4)]
  (tmp_path / 'questions.jsonl').write_text('\n'.join(lines))
  flags = [f'--model_dir={run}', f'--input={tmp_path}/questions.jsonl']
  assert cli.main(['infer', *flags, f'--output={output}']) == 0
  return output.read_text().splitlines()


@pytest.mark.slow(held_by='test_only_the_last_tasks_own_parameters_move')
@pytest.mark.filterwarnings('error:Some donated buffers')
def test_a_task_is_added_to_a_trained_model(tmp_path, compile_once, capsys):
  first, second = tmp_path / 'first', tmp_path / 'second'
  two = own(tmp_path, 'own_two_of_three', ('z', 'a'))
  assert cli.main(arguments(first, two, LEARNING_RATE=0.01)) == 0
  three = own(tmp_path, 'own_three', ('z', 'a', 'm'))
  added = {
    'INITIAL_CHECKPOINT_PATH': str(first),
    'FRESH_PARAMETERS': 'last_task',
    'TUNED_PARAMETERS': 'last_task',
  }
  assert cli.main(arguments(second, three, **added)) == 0
  # A checkpoint holds the parameters with an axis of tasks, and refers to all others.
  before, after = params(first, 2), params(second, 4)
  assert 0 < len(after) < len(before) and not (second / 'base').exists()
  for path, array in after.items():
    (axis,) = [n for n, size in enumerate(before[path].shape) if array.shape[n] != size]
    assert array.shape[axis] == 3
    np.testing.assert_array_equal(array.take((0, 1), axis), before[path], path)
  new = predictions(second, tmp_path, 'z', 'a', 'm')
  assert new[:8] == predictions(first, tmp_path, 'z', 'a') and len(new) == 12
  capsys.readouterr()
  # If the old tasks did not come first, their ids would change.
  other = own(tmp_path, 'own_three_otherwise', ('m', 'z', 'a'))
  assert cli.main(arguments(tmp_path / 'third', other, **added)) == 2
  message = f'{first} is of the task list z, a; '
  assert message in (err := capsys.readouterr().err)
  assert 'this run without its last, m, z: list the old tasks first' in err
