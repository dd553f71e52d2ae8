"""Damaged checkpoints: the restored step and the error. `make chaos` tries every damage."""

import asyncio
import gc
import json
import logging
import random
import re
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import seqio
import tensorflow as tf
import tensorstore as ts
from etils import epath

from hyperprompt_jax.checkpoints.sums import differing, sums_by_path, weighted_sum
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import evaluator
from hyperprompt_jax.runtime import reporting, workarounds
from hyperprompt_jax.runtime.files import writing
from tools.reliability import files

LAST = f'checkpoints/{files.STEPS[-1]}'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return files.Run(tmp_path_factory.mktemp('damage'))


def largest(run, item):
  inside = [run.copy / file for file in run.files(f'{LAST}/{item}') if '/d/' in file]
  return max(inside, key=lambda path: path.stat().st_size)


def turn_a_bit(path):
  contents = bytearray(path.read_bytes())
  contents[len(contents) // 2] ^= 1
  path.write_bytes(contents)


def test_a_whole_checkpoint_is_restored_by_all(run):
  run.renew()
  ended = run.evaluate(), run.start_from(), run.go_on()
  assert ended == (files.RESTORED,) * 3


def test_one_bit_of_the_parameters_is_noticed_by_all_who_read_them(run):
  run.renew()
  turn_a_bit(largest(run, 'params'))
  ended = run.evaluate(), run.start_from(), run.go_on()
  assert ended == (files.REFUSED, files.REFUSED, files.WENT_BACK)


@pytest.mark.parametrize('item', ['optimizer', 'data', 'run'])
def test_one_bit_of_what_training_alone_needs_is_noticed(run, item):
  run.renew()
  if item == 'optimizer':
    turn_a_bit(largest(run, item))
  elif item == 'data':
    turn_a_bit(max((run.copy / LAST / item).glob('*.data-*')))
  else:  # the number of a step, in a file that stays good JSON
    path = run.copy / LAST / item / 'metadata'
    path.write_text(path.read_text().replace('"initial_step": 0', '"initial_step": 1'))
  assert run.go_on() == files.WENT_BACK


def test_what_is_damaged_is_kept_and_the_run_saves_on(run):
  run.renew()
  damaged = largest(run, 'params')
  turn_a_bit(damaged)
  contents = damaged.read_bytes()
  assert run.go_on() == files.WENT_BACK
  (kept,) = run.copy.glob(f'damaged/*/{damaged.relative_to(run.copy / LAST)}')
  assert kept.read_bytes() == contents
  assert run.save_again(files.STEPS[-1]) == files.RESTORED


def test_where_none_is_intact_the_last_is_named_and_nothing_is_moved(run):
  run.renew()
  for step in files.STEPS:
    (run.copy / f'checkpoints/{step}/params/manifest.ocdbt').unlink()
  assert run.go_on() == files.REFUSED
  assert not (run.copy / 'damaged').exists()
  assert len([*(run.copy / 'checkpoints').iterdir()]) == len(files.STEPS)


def test_old_steps_that_are_partly_deleted_do_no_harm(run):
  run.renew()
  rng = random.Random(3)
  for step in files.STEPS[:-1]:
    of_step = run.files(f'checkpoints/{step}')
    for file in rng.sample(of_step, len(of_step) // 2):
      (run.copy / file).unlink()
  assert run.go_on() == files.RESTORED
  assert run.save_again(files.STEPS[-1] + 1, keep=1) == files.RESTORED
  assert [p.name for p in (run.copy / 'checkpoints').iterdir()] == [
    str(files.STEPS[-1] + 1)
  ]


def test_what_a_kill_leaves_of_a_write_is_removed(run):
  folder = run.renew() / f'checkpoints/{files.STEPS[-1] + 1}.orbax-checkpoint-tmp'
  (folder / 'params').mkdir(parents=True)
  assert run.save_again(files.STEPS[-1] + 1) == files.RESTORED
  assert not folder.exists()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'int8', 'bool'])
def test_a_sum_is_that_of_the_words_weighted_by_their_places(dtype):
  x = np.asarray(jnp.asarray(np.random.default_rng(0).integers(-9, 9, (3, 5, 2)), dtype))
  words = x.view(f'uint{8 * x.dtype.itemsize}').ravel()
  expected = sum(int(w) * (2 * place + 1) for place, w in enumerate(words)) % 2**32
  assert int(weighted_sum(jnp.asarray(x))) == expected


def test_sums_name_the_arrays_that_differ():
  tree: dict[str, Any] = {'a': jnp.arange(4.0), 'b': {'c': jnp.ones((2, 3))}}
  sums = sums_by_path(tree)
  assert differing(tree, sums) == []
  changed = {**tree, 'b': {'c': tree['b']['c'].at[1, 2].set(jnp.nextafter(1.0, 2.0))}}
  assert differing(changed, sums) == ['b/c']
  assert differing({'a': tree['a']}, sums) == ['b/c']
  assert differing(jax.tree.map(lambda x: x, {**tree, 'd': tree['a']}), sums) == ['d']


# ---- The reads that Orbax abandons when one of several fails ----


def leave_behind(file):
  """Closes an event loop while a coroutine of a file waits in it for TensorStore; forgets
  another. Returns the warnings.
  """
  code = """async def read(future):
  try:
    await future
  except BaseException as error:
    raise Exception('nobody hears') from error"""
  names: dict[str, Any] = {}
  exec(compile(code, file, 'exec'), names)
  promise: Any
  future: Any
  promise, future = ts.Promise.new()
  loop = asyncio.new_event_loop()
  task = loop.create_task(names['read'](future))
  loop.run_until_complete(asyncio.sleep(0))
  loop.close()
  promise.set_result(0)
  del promise, future, loop, task
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    names['read'](None)  # no code awaits it
    gc.collect()
  return [str(warning.message) for warning in warned]


@pytest.mark.parametrize(
  ('file', 'notes'),
  [
    (ocp.__file__, []),
    (
      '/another/library.py',
      [
        'Task was destroyed but it is pending!',
        'nobody hears',
        "coroutine 'read' was never awaited",
      ],
    ),
  ],
)
def test_what_orbax_leaves_behind_is_not_on_the_terminal(
  run, monkeypatch, caplog, file, notes
):
  caught = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda note: caught.append(note.exc_value))
  run.renew()
  assert run.evaluate() == files.RESTORED
  caplog.clear()
  warned = leave_behind(file)
  logged = [message.splitlines()[0] for message in caplog.messages]
  assert [*logged, *map(str, caught), *warned] == notes


def test_a_failed_read_of_tensorstore_is_left_out_of_asyncios_notes(caplog):
  workarounds.silence_abandoned_reads()
  log = logging.getLogger('asyncio').error
  log('Task exception was never retrieved\nfuture: <… [tensorstore_spec=…]>')
  log('Task exception was never retrieved\nfuture: <… of another>')
  assert [message[-8:] for message in caplog.messages] == ['another>']


# ---- Storage that refuses a write ----


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path):
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  metrics = reporting.Metrics.__new__(reporting.Metrics)
  metrics._path = epath.Path(tmp_path / 'metrics.jsonl')
  metrics._writer = reporting.JsonlWriter(metrics._path)
  with pytest.raises(UserError, match=f'{tmp_path} cannot be written.*No space left'):
    metrics.write(1, 'train', {'loss': 2.5})


@pytest.mark.parametrize(
  'error',
  [
    PermissionError(13, 'Permission denied'),
    tf.errors.ResourceExhaustedError(None, None, '/run/x; Permission denied'),
    ValueError(
      'FAILED_PRECONDITION: Error writing local file "/run/x": Failed opening: "/run/x" '
      "[OS error 13: EACCES Permission denied] [source locations='a.cc:1']"
    ),
    ValueError(
      f'PERMISSION_DENIED: Error writing local file "/run/{"x" * 200}": Failed to open: '
      f'"/run/{"x" * 200}": Permission denied [os_error_code=\'13\']'
    ),
  ],
)
def test_what_a_library_says_of_storage_is_one_line(error):
  with pytest.raises(UserError) as refused, writing('/run'):
    raise error
  assert re.fullmatch(
    r'/run cannot be written: .*Permission denied; .*', str(refused.value)
  )


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(run, monkeypatch):
  run.renew()
  restore = ocp.CheckpointManager.restore

  def refuse(manager, step, args):
    if [*args.keys()] == ['params']:
      raise ValueError('PERMISSION_DENIED: Error opening "x": Permission denied')
    return restore(manager, step, args)

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', refuse)
  assert run.go_on() == files.REFUSED
  assert not (run.copy / 'damaged').exists()


def test_an_evaluation_that_is_done_again_stands_once_in_its_file(tmp_path):
  logger = evaluator._Logger(str(tmp_path))
  for step, score in ((10, 1.0), (20, 2.0), (20, 2.0), (30, 3.0)):
    logger('task', step, {'accuracy': seqio.metrics.Scalar(score)}, None, None, None)
  lines = (tmp_path / 'task-metrics.jsonl').read_text(encoding='utf-8').splitlines()
  assert [json.loads(line)['step'] for line in lines] == [10, 20, 30]
  assert [path.name for path in tmp_path.iterdir()] == ['task-metrics.jsonl']
  with (tmp_path / 'task-metrics.jsonl').open('a') as file:
    file.write('{"step": 40, "accu')  # a kill has cut it short
  logger('task', 40, {'accuracy': seqio.metrics.Scalar(4.0)}, None, None, None)
  lines = (tmp_path / 'task-metrics.jsonl').read_text(encoding='utf-8').splitlines()
  assert [json.loads(line)['step'] for line in lines] == [10, 20, 30, 40]
