"""`hyperprompt convert`, from and to each format."""

import json
import math
import resource
import shutil

import pytest
import safetensors.numpy

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.configuration import static
from tests import published
from tests.checkpoints.started import MTL, STEP, backbone_of, mistake, mtl, train


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
  source, started_run, tmp_path, capsys
):
  run = started_run
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
  assert restored[EMBEDDING].shape == (320, 16)
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
