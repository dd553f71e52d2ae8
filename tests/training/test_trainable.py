"""Tuning a part of the parameters: what moves, what is saved, what is refused."""

import functools
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.frozen import fingerprint
from hyperprompt_jax.nn.stacking import unstack_layers
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import optimizers
from hyperprompt_jax.training.train_step import (
  abstract_state,
  initial_state,
  make_train_step,
)
from hyperprompt_jax.training.trainable import resolve
from tests import tiny, tiny_run

STEPS = 20


def arguments(folder, **macros):
  return tiny_run.train_arguments(
    folder,
    network={**tiny_run.NETWORK, **tiny_run.UNROLLED},
    **{
      'TUNED_PARAMETERS': 'task',
      'TRAIN_STEPS': STEPS,
      'EVAL_PERIOD': STEPS,
      'CHECKPOINT_PERIOD': STEPS // 2,
      'LOG_PERIOD': STEPS,
      **macros,
    },
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory, compile_once):
  """The folder of a finished run that tuned the task parameters. Read only."""
  folder = tmp_path_factory.mktemp('tuned') / 'run'
  assert cli.main(arguments(folder)) == 0
  return folder


def read(folder):
  """Arrays of an Orbax checkpoint, by path."""
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {name(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_checkpoint_holds_only_what_moved_and_a_reference_to_the_base(run):
  base = read(run / 'base')
  first = read(run / f'checkpoints/{STEPS // 2}/params')
  last = read(run / f'checkpoints/{STEPS}/params')
  assert base and not any(path.startswith('method/') for path in base)
  assert last and all(path.startswith('method/') for path in last)
  assert all(not np.array_equal(first[path], last[path]) for path in last)
  optimizer = read(run / f'checkpoints/{STEPS}/optimizer')
  assert any('prompts' in path for path in optimizer)
  assert not any('attention' in path or 'embedder' in path for path in optimizer)
  reference = json.loads((run / f'checkpoints/{STEPS}/run/metadata').read_text())['base']
  assert reference['path'] == 'base' and reference['fingerprint']


@pytest.mark.slow(held_by='test_a_frozen_backbone_is_the_checkpoint_itself')
def test_a_run_that_goes_on_and_eval_read_the_base(run, tmp_path, capsys):
  copy = tmp_path / 'moved'  # the reference is relative to the run
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints' / str(STEPS))
  assert cli.main(arguments(copy)) == 0
  again, once = (read(f / f'checkpoints/{STEPS}/params') for f in (copy, run))
  for path, array in once.items():
    np.testing.assert_array_equal(again[path], array)
  capsys.readouterr()
  assert cli.main(['eval', f'--model_dir={copy}', '--json']) == 0
  report = json.loads(capsys.readouterr().out)['checkpoints'][0]
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  recorded = [json.loads(line) for line in lines if 'eval/average' in line][-1]
  # Training evaluated what it had in memory.
  assert report['losses']['first'] == pytest.approx(recorded['eval/first/loss'], rel=1e-6)


def one_line(capsys, arguments, progress=0):
  capsys.readouterr()
  assert cli.main(arguments) == 2
  lines = tiny_run.without_header(capsys.readouterr().err)[progress:]
  assert len(lines) == 1 and lines[0].startswith('hyperprompt: '), lines
  return lines[0]


@pytest.mark.slow(held_by='test_a_frozen_backbone_is_the_checkpoint_itself')
def test_a_base_that_is_gone_or_another_is_refused(run, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'base')
  evaluate = ['eval', f'--model_dir={copy}']
  line = one_line(capsys, evaluate, progress=1)
  assert f'{copy}/base cannot be read' in line and 'put the original folder back' in line
  other = tmp_path / 'other'
  assert cli.main(arguments(other, TRAIN_STEPS=1, RANDOM_SEED=1)) == 0
  shutil.copytree(other / 'base', copy / 'base')
  message = f'{copy}/base is not the base that this run was trained on'
  assert message in one_line(capsys, evaluate, progress=1)
  assert message in one_line(capsys, arguments(copy, TRAIN_STEPS=STEPS + 1))


def test_a_run_does_not_go_on_with_another_choice(run, capsys):
  line = one_line(capsys, arguments(run, TUNED_PARAMETERS='all'))
  assert "TUNED_PARAMETERS='task'; this run has 'all'" in line


@pytest.mark.parametrize(
  ('tuned', 'more', 'message'),
  [
    ('some', (), "'task_and_layer_norms', 'last_task', not 'some'"),
    (
      'task',
      ('--gin.METHOD=@methods.MultiTaskLearning()',),
      "'task' leaves nothing to train",
    ),
  ],
)
def test_a_choice_that_cannot_be(tmp_path, capsys, tuned, more, message):
  line = one_line(capsys, [*arguments(tmp_path / 'run', TUNED_PARAMETERS=tuned), *more])
  assert message in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow(held_by='test_a_frozen_backbone_is_the_checkpoint_itself')
@pytest.mark.parametrize(
  ('tuned', 'microbatches'), [('task', 1), ('task_and_layer_norms', 2)]
)
def test_after_twenty_steps_the_backbone_is_bit_identical(tuned, microbatches):
  layers = {'num_encoder_layers': 1, 'num_decoder_layers': 1, 'scan_layers': False}
  model, optimizer = tiny.model(**layers), optimizers.adafactor(0.01)
  partitioner = Partitioner()
  with partitioner.activate():
    trainable = resolve(model.param_axes(), tuned)
    like = abstract_state(model, optimizer, partitioner, trainable)
    state = initial_state(model, optimizer, like, 0, trainable)
    before = traverse_util.flatten_dict(jax.tree.map(np.asarray, state.params))
    step = make_train_step(
      model,
      optimizer,
      partitioner,
      like,
      seed=0,
      num_microbatches=microbatches,
      trainable=trainable,
    )
    for seed in range(20):
      batch = tiny.batch(rows=6, seed=seed)
      state, _ = step(state, jax.device_put(batch, partitioner.batch_sharding))
  updated = {
    path
    for path, leaf in traverse_util.flatten_dict(state.params).items()
    if not np.array_equal(leaf, before[path])
  }
  norms = {path for path in before if path[-1] == 'scale'}
  assert len(norms) == 7  # of a layer of each stack, and of the two stacks
  wanted = {path for path in before if path[0] == 'method'}
  assert updated == wanted | (norms if tuned == 'task_and_layer_norms' else set())


def test_the_fingerprint_sees_every_bit_and_every_place():
  params = tiny.init(tiny.model())
  print_of = lambda tree: fingerprint(by_path(tree).items())
  one = print_of(params)
  assert one == print_of(jax.tree.map(lambda x: x + 0, params))
  assert one == print_of(unstack_layers(params))
  kernel = params['encoder']['layers']['attention']['query']['kernel']
  for changed in (
    kernel.at[1, 2, 3].set(np.nextafter(kernel[1, 2, 3], np.float32(9))),
    kernel[::-1],  # the layers in another order
  ):
    params['encoder']['layers']['attention']['query']['kernel'] = changed
    assert print_of(params) != one
