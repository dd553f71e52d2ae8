"""Runs that start from a published checkpoint, and what comes of them."""

import dataclasses
import functools
import json
import math
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.formats import huggingface
from hyperprompt_jax.checkpoints.initial import open_for
from hyperprompt_jax.checkpoints.lazy import in_memory
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.configuration import static
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import parameters
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.stacking import unstack_layers
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training.settings import InitialCheckpoint
from hyperprompt_jax.training.train_step import abstract_params
from tests import published, tiny, tiny_run

STEP = published.STEP
NETWORK = {**published.NETWORK, 'methods.HyperPromptGlobal.prompt_length': 2}
MTL = ('models/tiny.gin', 'methods/mtl.gin', 'runs/finetune.gin')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A native T5X checkpoint of the network. Read only."""
  return published.t5x(tmp_path_factory.mktemp('t5x'))


def arguments(folder, path, *more, files=tiny_run.FILES, network=NETWORK, **macros):
  macros = {'INITIAL_CHECKPOINT_PATH': str(path), 'TRAIN_STEPS_RELATIVE': 1, **macros}
  without = ['TRAIN_STEPS'] if 'TRAIN_STEPS' not in macros else []
  return tiny_run.train_arguments(
    folder, *more, files=files, network=network, without=without, **macros
  )


def train(folder, path, *more, **kwargs):
  """A run that moves nothing, and is not evaluated."""
  macros = {
    'MIXTURE_OR_TASK_NAME': tiny_run.UNSCORED,
    'EVAL_STEPS': 0,
    'LEARNING_RATE': 0.0,
  }
  args = arguments(folder, path, *more, **{**macros, **kwargs})
  assert cli.main(args) == 0
  return folder


def mtl(folder, path, **kwargs):
  return train(folder, path, files=MTL, network=published.NETWORK, **kwargs)


def params_of(folder, step):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / f'checkpoints/{step}/params')
  return {path: np.asarray(x) for path, x in by_path(tree).items()}


def backbone_of(path):
  return published.values(open_source(str(path)).without_method().arrays)


def test_the_backbone_is_the_checkpoints_and_the_method_is_fresh(
  source, tmp_path, compile_once, capfd
):
  run = train(tmp_path / 'run', source)
  assert f'starting from step {STEP} of {source} (T5X)' in capfd.readouterr().err
  published.assert_same(backbone_of(run), backbone_of(source))
  fresh = {p: x for p, x in params_of(run, STEP + 1).items() if p.startswith('method/')}
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


def mistake(capsys, args):
  capsys.readouterr()
  assert cli.main(args) == 2
  out, err = capsys.readouterr()
  assert out == '' and 'Traceback' not in err
  message = err[err.index('hyperprompt: ') :]
  return message.rstrip('\n')


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


def test_a_method_is_loaded_where_the_run_says_so(source, tmp_path, compile_once, capsys):
  first = train(tmp_path / 'first', source)
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


# ---- convert ----


def convert(capsys, path, output, *more):
  capsys.readouterr()
  args = ['convert', f'--input={path}', f'--output={output}', *more, '--json']
  assert cli.main(args) == 0
  return json.loads(capsys.readouterr().out)


def test_from_t5x_through_a_run_to_t5x_and_to_the_byte(
  source, tmp_path, compile_once, capsys
):
  run = mtl(tmp_path / 'run', source)
  report = convert(capsys, run, tmp_path / 'out', '--to=t5x')
  assert report['step'] == STEP + 1
  assert report['checkpoint'] == str(tmp_path / f'out/checkpoint_{STEP + 1}')
  published.assert_same(backbone_of(report['checkpoint']), backbone_of(source))
  # Its own gin file describes it: no other model's is needed, nor is that one named.
  model = static.Configuration()
  model.add_file(report['checkpoint'].rpartition('/')[0] + '/model.gin')
  for name, value in {**published.NETWORK, 'VOCABULARY': 'bytes'}.items():
    assert model.values[name] == value
  again = train(tmp_path / 'again', report['checkpoint'], files=MTL[1:], network={})
  published.assert_same(backbone_of(again), backbone_of(source))


def test_from_hugging_face_through_a_run_to_hugging_face_and_to_the_byte(
  tmp_path, compile_once, capsys
):
  """The folder is enough: size and vocabulary come from it."""
  model = published.hugging_face(tmp_path / 'model')
  (model / 'tokenizer_config.json').write_text('{"tokenizer_class": "ByT5Tokenizer"}')
  run = train(tmp_path / 'run', model, files=MTL[1:], network={})
  # It goes on without the folder, by the same command.
  aside = model.rename(tmp_path / 'aside')
  train(run, model, files=MTL[1:], network={})
  model = aside.rename(model)
  convert(capsys, run, tmp_path / 'out', '--to=huggingface')
  published.assert_same(backbone_of(tmp_path / 'out'), backbone_of(model))
  config = json.loads((tmp_path / 'out/config.json').read_text())
  first = json.loads((model / 'config.json').read_text())
  assert config == first
  tokenizer = json.loads((tmp_path / 'out/tokenizer_config.json').read_text())
  assert tokenizer == {'tokenizer_class': 'ByT5Tokenizer'}
  capsys.readouterr()
  assert (
    cli.main(['params', f'--init={model}', '--gin_file=methods/mtl.gin', '--json']) == 0
  )
  row = json.loads(capsys.readouterr().out)
  size = sum(array.size for array in backbone_of(model).values())
  assert (row['size'], row['backbone']) == ('model', size)


def test_a_run_with_a_method_to_t5x_and_to_hugging_face(
  source, tmp_path, compile_once, capsys
):
  run = train(tmp_path / 'run', source)
  report = convert(capsys, run, tmp_path / 't5x', '--to=t5x')
  restored = open_source(report['checkpoint'])
  assert restored.method_paths
  published.assert_same(
    published.values(restored.arrays), published.values(open_source(str(run)).arrays)
  )
  args = ['convert', f'--input={run}', f'--output={tmp_path / "hf"}', '--to=huggingface']
  assert cli.main([*args, '--license=mit']) == 0
  published.assert_same(backbone_of(tmp_path / 'hf'), backbone_of(source))
  assert (tmp_path / 'hf/README.md').read_text().startswith('---\nlicense: mit\n')
  assert (tmp_path / 'hf/modeling_hyperprompt.py').is_file()
  args = ['convert', f'--input={report["checkpoint"]}', f'--output={tmp_path / "hf2"}']
  args.append('--to=huggingface')
  assert 'no record of it: convert the run' in mistake(capsys, args)
  assert cli.main([*args, '--drop_method']) == 0
  published.assert_same(backbone_of(tmp_path / 'hf2'), backbone_of(source))


def test_values_that_are_not_finite_are_refused_unless_they_are_asked_for(tmp_path, capsys):
  model = published.hugging_face(tmp_path / 'model')
  file = model / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  name = 'encoder.final_layer_norm.weight'
  arrays[name][3] = math.nan
  safetensors.numpy.save_file(arrays, file, metadata={'format': 'pt'})
  args = ['convert', f'--input={model}', f'--output={tmp_path / "out"}', '--to=t5x']
  expected = 'encoder/encoder_norm/scale has values that are not finite'
  assert expected in mistake(capsys, args)
  assert not (tmp_path / 'out').exists()
  assert cli.main([*args, '--keep_nonfinite']) == 0
  err = capsys.readouterr().err
  assert (
    err == f'WARNING: {model} has values that are not finite in {expected.split()[0]}\n'
  )


def test_rows_dtype_and_vocabulary(source, tmp_path, capsys):
  more = ('--to=huggingface', '--vocab_size=320', '--dtype=bfloat16')
  report = convert(capsys, source, tmp_path / 'hf', *more)
  assert report['config']['vocab_size'] == 320
  restored = backbone_of(tmp_path / 'hf')
  assert {str(x.dtype) for x in restored.values()} == {'bfloat16'}
  assert restored[huggingface.EMBEDDING].shape == (320, 16)
  (tmp_path / 'hf/spiece.model').write_bytes(b'pieces')
  convert(capsys, tmp_path / 'hf', tmp_path / 't5x', '--to=t5x', '--vocab_size=384')
  assert (tmp_path / 't5x/spiece.model').read_bytes() == b'pieces'
  assert (
    f"VOCABULARY = '{tmp_path}/t5x/spiece.model'"
    in (tmp_path / 't5x/model.gin').read_text()
  )


@pytest.mark.parametrize(
  ('more', 'expected'),
  [
    (('--to=tf',), "invalid choice: 'tf'"),
    (('--to=t5x', '--vocab_size=0'), '--vocab_size must be a positive integer'),
    (('--to=t5x', '--gin.TRAIN_STEPS=3'), 'convert takes no gin bindings'),
    ((), 'required: --to'),
  ],
)
def test_arguments_that_cannot_be(source, tmp_path, capsys, more, expected):
  args = ['convert', f'--input={source}', f'--output={tmp_path / "out"}', *more]
  assert expected in mistake(capsys, args)
  assert [*tmp_path.iterdir()] == []


def test_nothing_is_left_half_written(source, tmp_path, capsys):
  path = shutil.copytree(source, tmp_path / source.name)
  chunk = path / 'target.decoder.decoder_norm.scale/0'
  chunk.write_bytes(chunk.read_bytes()[:5])
  for to in ('t5x', 'huggingface'):
    args = ['convert', f'--input={path}', f'--output={tmp_path / "out"}', f'--to={to}']
    assert 'decoder_norm/scale is incomplete or damaged' in mistake(capsys, args)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]
  args = ['convert', f'--input={source}', f'--output={path}', '--to=t5x']
  assert 'exists already' in mistake(capsys, args)


def test_a_disk_that_is_full(source, tmp_path, capsys):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  for to in ('t5x', 'huggingface'):
    args = ['convert', f'--input={source}', f'--output={tmp_path / "out"}', f'--to={to}']
    # A limit on the size of files stands for the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
      line = mistake(capsys, args)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f'--output {tmp_path / "out"} cannot be written' in line and '\n' not in line
    assert [*tmp_path.iterdir()] == []
