"""Runs that start from a published checkpoint, and what comes of them."""

import dataclasses
import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.initial import open_for
from hyperprompt_jax.checkpoints.lazy import in_memory
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import parameters
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.stacking import unstack_layers
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import InitialCheckpoint
from hyperprompt_jax.training.train_step import abstract_params
from tests import published, tiny
from tests.checkpoints.started import (
  STEP,
  arguments,
  backbone_of,
  mistake,
  mtl,
  params_of,
  train,
)


def test_the_backbone_is_the_checkpoints_and_the_method_is_fresh(source, started_run):
  published.assert_same(backbone_of(started_run), backbone_of(source))
  params = params_of(started_run, STEP + 1)
  fresh = {p: x for p, x in params.items() if p.startswith('method/')}
  assert fresh
  for path, array in fresh.items():
    assert array.std() > 0, path


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('kind', ['t5x', 'bfloat16', 'orbax', 'hugging_face'])
def test_every_format_gives_the_same_parameters(kind, scan, tmp_path):
  path = {
    't5x': published.t5x,
    'bfloat16': functools.partial(published.t5x, dtype='bfloat16'),
    'orbax': published.t5x_orbax,
    'hugging_face': lambda folder: published.hugging_face(folder / 'model'),
  }[kind](tmp_path)
  config = dataclasses.replace(published.CONFIG, scan_layers=scan)
  like = abstract_params(Model(config, tiny.mtl(), ('task',)), Partitioner())
  initial = open_for(InitialCheckpoint(str(path)), like)
  assert initial.step == (0 if kind == 'hugging_face' else STEP)
  got = {p: np.asarray(x) for p, x in by_path(unstack_layers(initial.load(like))).items()}
  dtype = jnp.dtype('bfloat16' if kind == 'bfloat16' else 'float32')
  published.assert_same(
    got,
    {
      p: x.astype(dtype).astype(np.float32)
      for p, x in published.values(published.arrays()).items()
    },
  )


def test_a_parameter_that_is_not_finite_is_named(tmp_path):
  arrays = published.arrays()
  scale = arrays['decoder/decoder_norm/scale'].read().copy()
  scale[3] = np.inf
  path = published.t5x(tmp_path, {**arrays, 'decoder/decoder_norm/scale': in_memory(scale)})
  like = abstract_params(Model(published.CONFIG, tiny.mtl(), ('task',)), Partitioner())
  initial = open_for(InitialCheckpoint(str(path)), like)
  with pytest.raises(
    UserError, match=f'{path} .*: decoder/decoder_norm/scale is not finite'
  ):
    initial.load(like)


@pytest.mark.slow(held_by='test_a_method_is_loaded_where_the_run_says_so')
def test_a_run_goes_on_from_another(source, tmp_path, compile_once):
  first = mtl(tmp_path / 'first', source)
  second = mtl(tmp_path / 'second', first)
  published.assert_same(backbone_of(second), backbone_of(source))
  lines = (second / 'metrics.jsonl').read_text().splitlines()
  assert {json.loads(line)['step'] for line in lines} == {STEP + 2}


@pytest.mark.slow(held_by='test_a_frozen_backbone_is_the_checkpoint_itself')
def test_train_steps_count_the_steps_of_the_checkpoint(
  source, tmp_path, compile_once, capsys
):
  run = tmp_path / 'run'
  more = {'EVAL_PERIOD': 4, 'CHECKPOINT_PERIOD': 2, 'LEARNING_RATE': 1e-3}
  train(run, source, TRAIN_STEPS=STEP + 4, TRAIN_STEPS_RELATIVE=None, **more)
  steps = lambda: sorted(p.name for p in (run / 'checkpoints').glob('1*'))
  assert steps() == ['1002', '1004']
  want = params_of(run, STEP + 4)
  # Cut off and started again, it counts from the same step, and needs no source.
  shutil.rmtree(run / 'checkpoints/1004')
  gone = tmp_path / 'gone'
  train(run, gone, TRAIN_STEPS_RELATIVE=4, **more)
  assert steps() == ['1002', '1004']
  published.assert_same(params_of(run, STEP + 4), want)
  capsys.readouterr()
  assert cli.main(['eval', f'--model_dir={run}', '--json']) == 0
  assert json.loads(capsys.readouterr().out)['checkpoints'][0]['step'] == STEP + 4


@pytest.mark.slow(held_by='test_prompts_start_from_distinct_embeddings_of_the_vocabulary')
def test_prompts_start_from_the_loaded_vocabulary(source, tmp_path, compile_once):
  option = "--gin.methods.HyperPromptGlobal.prompt_init='vocabulary'"
  run = train(tmp_path / 'run', source, option)
  prompts = params_of(run, STEP + 1)['method/encoder_prompts'].reshape(-1, 16)
  embedding = backbone_of(source)['token_embedder/embedding']
  # The prompts are at unit scale: each points along the embedding of a word.
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  cosines = unit(prompts) @ unit(embedding).T
  np.testing.assert_allclose(cosines.max(axis=1), 1.0, rtol=1e-3)
  assert cosines.argmax(axis=1).min() >= parameters.FIRST_WORD


def test_a_frozen_backbone_is_the_checkpoint_itself(source, tmp_path, compile_once, capsys):
  path = shutil.copytree(source, tmp_path / source.name)
  run = train(tmp_path / 'run', path, TUNED_PARAMETERS='task')
  assert f'starting from step {STEP} of {path} (T5X)' in capsys.readouterr().err
  assert not (run / 'base').exists()
  assert all(p.startswith('method/') for p in params_of(run, STEP + 1))
  reference = json.loads((run / f'checkpoints/{STEP + 1}/run/metadata').read_text())
  assert reference['base']['path'] == str(path)
  published.assert_same(backbone_of(run), backbone_of(path))
  assert cli.main(['eval', f'--model_dir={run}']) == 0
  train(run, path, TUNED_PARAMETERS='task', TRAIN_STEPS_RELATIVE=2)
  # Another checkpoint in its place is refused; so is none.
  shutil.rmtree(path)
  shutil.copytree(published.t5x(tmp_path / 'other', published.arrays(seed=1)), path)
  for args in (['eval', f'--model_dir={run}'], ['convert', f'--input={run}', *TO_T5X]):
    line = mistake(capsys, [a.format(tmp_path) for a in args])
    assert f'{path} is not the base that this run was trained on' in line
  shutil.rmtree(path)
  line = mistake(capsys, ['eval', f'--model_dir={run}'])
  assert f'{path} cannot be read; put the original folder back' in line


TO_T5X = ('--to=t5x', '--output={}/converted')


@pytest.mark.slow(held_by='test_rows_dtype_and_vocabulary')
def test_a_resized_vocabulary(source, tmp_path, compile_once, capsys):
  arrays = open_source(str(source)).with_vocabulary(300).arrays
  path = published.t5x(tmp_path / 'cut', arrays)
  args = arguments(tmp_path / 'run', path)
  lines = mistake(capsys, args).splitlines()
  assert '300 rows of the vocabulary' in lines[0] and 'RESIZE_VOCABULARY=True' in lines[0]
  assert lines[1:] == [
    '  decoder/logits_dense/kernel: wanted [16, 384], found [16, 300]',
    '  token_embedder/embedding: wanted [384, 16], found [300, 16]',
  ]
  run = train(tmp_path / 'run', path, RESIZE_VOCABULARY=True, TUNED_PARAMETERS='task')
  assert (run / 'base').is_dir()  # as the padded rows are nowhere else
  embedding = backbone_of(run)['token_embedder/embedding']
  original = backbone_of(source)['token_embedder/embedding']
  np.testing.assert_array_equal(embedding[:300], original[:300])
  assert (embedding[300:] == embedding[300]).all()


def test_a_method_is_loaded_where_the_run_says_so(source, started_run, tmp_path, capsys):
  first = started_run
  args = arguments(tmp_path / 'second', first)
  line = mistake(capsys, args)
  assert 'holds parameters of a method' in line and 'would lose them' in line
  second = train(tmp_path / 'second', first, FRESH_PARAMETERS='none')
  published.assert_same(params_of(second, STEP + 2), params_of(first, STEP + 1))
  # And where there is none to load, nothing starts fresh unasked.
  lines = mistake(
    capsys, arguments(tmp_path / 'third', source, FRESH_PARAMETERS='none')
  ).splitlines()
  assert "set FRESH_PARAMETERS='task' to start them anew" in lines[0]
  assert all(': wanted [' in line and 'found absent' in line for line in lines[1:])
  assert not (tmp_path / 'third').exists()


@pytest.mark.parametrize(
  ('more', 'macros', 'expected'),
  [
    (
      (),
      {'TRAIN_STEPS_RELATIVE': 0},
      'TRAIN_STEPS_RELATIVE must be an integer from 1 to 2147483647',
    ),
    ((), {'FRESH_PARAMETERS': 'some'}, "must be 'task', 'none', 'last_task', not 'some'"),
    (
      (),
      {'TRAIN_STEPS': 20, 'TRAIN_STEPS_RELATIVE': None},
      'set TRAIN_STEPS=1020 or TRAIN_STEPS_RELATIVE=20',
    ),
    (
      ('--gin.config.Config.num_decoder_layers=4',),
      {},
      'of another network than config.Config: num_decoder_layers is 3 there and 4 here; ',
    ),
    (
      ('--gin.config.Config.logits_via_embedding=True',),
      {},
      'logits_via_embedding is False there and True here; leave out the gin file',
    ),
    (
      ("--gin.config.Config.mlp_activations=('relu',)",),
      {},
      "mlp_activations is ('gelu', 'linear') there and ('relu',) here",
    ),
    (
      ('--gin.config.Config.scan_layers=False', '--gin.config.Config.mlp_dim=8'),
      {},
      'mlp_dim is 24 there and 8 here',
    ),
    (
      (
        '--gin.config.Config.emb_dim=32',
        '--gin.config.Config.position_bias_per_layer=True',
        '--gin.config.Config.vocab_size=512',
      ),
      {'RESIZE_VOCABULARY': True},
      'vocab_size is 384 there and 512 here, emb_dim is 16 there and 32 here, '
      'position_bias_per_layer is False there and True here',
    ),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
  more, macros, expected, source, tmp_path, capsys
):
  folder = tmp_path / 'run'
  line = mistake(capsys, arguments(folder, source, *more, **macros))
  assert expected in line and '\n' not in line
  assert not folder.exists()
