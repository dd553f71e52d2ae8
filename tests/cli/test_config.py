"""`hyperprompt config`, the help of settings, and the plain flags that set them."""

import json
import re
import subprocess
import sys

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.cli import arguments, train
from hyperprompt_jax.configuration import checks, macros, paths, static
from hyperprompt_jax.errors import UserError

RUN_FILES = [
  'models/tiny.gin',
  'methods/hyperprompt_global.gin',
  'runs/finetune.gin',
]
REQUIRED = [
  "MODEL_DIR='/run'",
  "MIXTURE_OR_TASK_NAME='hp_builtin'",
  "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
]
FILES = [f'--gin_file={file}' for file in RUN_FILES]
WORDS = [*FILES, *(f'--gin.{binding}' for binding in REQUIRED)]


def output(capsys, *words):
  capsys.readouterr()
  assert cli.main(list(words)) == 0
  return capsys.readouterr().out


def refused(capsys, *words):
  capsys.readouterr()
  assert cli.main(list(words)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  return line


@pytest.fixture(scope='module')
def composed():
  return checks.check(RUN_FILES, REQUIRED)


def test_every_macro_of_a_run_is_listed_and_every_listed_one_is_of_a_run(composed):
  # Files of sizes set widths of methods and a budget, which are none of a run's.
  sizes = static.Configuration()
  sizes.add_file('models/tiny.gin')
  of_size = {name for name in sizes.values if '.' not in name} - {'VOCABULARY'}
  names = {name for name in composed.values if '.' not in name}
  assert names - of_size == {*macros.described()}
  for file in paths.own_files():
    if file.startswith('runs/'):
      names = re.findall(r'^([A-Z_]+) = ', (paths.gin_directory() / file).read_text(), re.M)
      assert {*names} <= {*macros.described()}, file


def test_the_defaults_of_the_settings_are_those_of_the_gin_files(composed):
  for macro, setting in macros.described().items():
    value = composed.resolved(macro)
    if setting.is_required or macro == 'METHOD':
      continue
    assert (repr(value) if isinstance(value, static.Reference) else value) == (
      setting.default
    ), macro


@pytest.mark.parametrize('macro', sorted(macros.described()))
def test_every_macro_is_in_the_help_of_train_and_in_the_list(macro, capsys):
  setting = macros.described()[macro]
  with pytest.raises(SystemExit):
    cli.main(['train', '--help'])
  page = ' '.join(capsys.readouterr().out.split())
  assert f'{setting.flag} ' in page
  # A long word may be broken over two lines.
  assert setting.help.replace(' ', '') in page.replace(' ', '')
  listed = json.loads(output(capsys, 'config', '--json'))[macro]
  assert listed['flag'] == setting.flag and listed['meaning'] == setting.meaning
  assert setting.type in output(capsys, 'config').split(f'{macro}  ')[1].split('\n')[0]


def test_a_composed_configuration_is_printed_with_its_values(capsys):
  text = output(capsys, 'config', *WORDS, '--batch_size=32')
  lines = text.splitlines()
  assert 'BATCH_SIZE = 32' in lines
  assert "MIXTURE_OR_TASK_NAME = 'hp_builtin'" in lines
  assert 'CHECKPOINT_PERIOD = 1000' in lines  # by way of EVAL_PERIOD
  assert 'config.Config.emb_dim = 64' in lines
  report = json.loads(output(capsys, 'config', *WORDS, '--json'))
  assert report['BATCH_SIZE'] == '128'


def test_two_runs_are_compared_without_running_their_files(tmp_path, capsys):
  for name, batch_size in {'a': 8, 'b': 16}.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.gin').write_text(
      f'import this_module_is_nowhere\nBATCH_SIZE = {batch_size}\nTRAIN_STEPS = 5\n'
      f'x.y.batch_size = %BATCH_SIZE\n' + 'PACK = True\n' * (name == 'b')
    )
  words = ['config', '--diff', str(tmp_path / 'a'), str(tmp_path / 'b')]
  assert json.loads(output(capsys, *words, '--json')) == {
    'BATCH_SIZE': ['8', '16'],
    'PACK': [None, 'True'],
  }
  assert output(capsys, *words).splitlines()[:3] == ['BATCH_SIZE', '  8', '  16']
  assert 'no folder of a training run' in refused(capsys, *words[:2], '/', words[3])


@pytest.mark.parametrize(
  ('flag', 'binding'),
  [
    ('--model_dir=/tmp/a b', "MODEL_DIR='/tmp/a b'"),
    ('--mixture=hp_builtin', "MIXTURE_OR_TASK_NAME='hp_builtin'"),
    ('--mixture_or_task_name=hp_builtin', "MIXTURE_OR_TASK_NAME='hp_builtin'"),
    ('--lengths=512,64', "TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 64}"),
    ("--lengths={'inputs': 8, 'targets': 4}", None),
    ('--init=None', 'INITIAL_CHECKPOINT_PATH=None'),
    ('--init=/flan', "INITIAL_CHECKPOINT_PATH='/flan'"),
    ('--train_steps=100', 'TRAIN_STEPS=100'),
    ('--learning_rate=1e-4', 'LEARNING_RATE=0.0001'),
    ('--pack=true', 'PACK=True'),
    ('--optimizer=@optax.adamw()', 'OPTIMIZER=@optax.adamw()'),
    ('--dtype=bfloat16', "DTYPE='bfloat16'"),
    ('--num_data_shards=None', 'NUM_DATA_SHARDS=None'),
  ],
)
def test_a_plain_flag_sets_a_macro(flag, binding):
  parser = arguments.Parser('train', None)
  arguments.add_settings(parser)
  (made,) = parser.parse([flag]).bindings
  assert made == (binding or "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}")


# Each answer is given before JAX and TensorFlow are imported.
MISTAKES = {
  ('trian',): "there is no verb 'trian' (did you mean train?)",
  ('train', *WORDS, '--bach_size=3'): 'did you mean --batch_size?',
  ('train', *WORDS, '--batch_size=3e'): "--batch_size must be of type int, not '3e'",
  ('train', *WORDS, '--batch_size=0'): 'an integer from 1 to 1048576, not 0',
  ('train', *WORDS, '--pack=perhaps'): "--pack must be of type bool, not 'perhaps'",
  ('train', *WORDS, '--dtype=float16'): "must be 'float32', 'bfloat16', not 'float16'",
  ('train', *WORDS[:-1], '--lengths=8'): "--lengths must be like 512,64, not '8'",
  ('train', *WORDS, '--seed=3', '--gin.RANDOM_SEED=4'): 'both set RANDOM_SEED: give one',
  ('train', *WORDS, '--gin.BATCH_SIZ=3'): 'did you mean BATCH_SIZE?',
  ('train', *WORDS, '--gin.BATCH_SIZE=3e'): 'BATCH_SIZE is of type int',
  ('train', *WORDS, '--gin.DTYPE=float32'): 'or --dtype=float32',
  ('train', *WORDS, '--gin.BATCH_SIZE=0'): 'BATCH_SIZE must be an integer from 1',
  ('train', *WORDS[:-1]): 'TASK_FEATURE_LENGTHS must be set: add --lengths=…',
  ('train', *WORDS, '--gin_file=methods/mtl.gin'): (
    'methods/hyperprompt_global.gin and methods/mtl.gin each choose a method'
  ),
  ('train', *WORDS, '--gin_file=models/base.gin'): (
    'models/tiny.gin and models/base.gin each choose a size'
  ),
  ('train', '--gin_file=models/tinny.gin'): 'did you mean models/tiny.gin?',
  ('train',): 'train needs gin files',
  ('eval', '--model_dir=/nowhere'): '/nowhere is no folder of a training run',
  ('infer', '--model_dir=/nowhere', '--output=x'): '--input --task',
  ('convert', '--to=t5', '--input=x', '--output=y'): "invalid choice: 't5'",
  ('plan', '--topology=v4:2x2x2', '--fsdp=0'): '--fsdp must be a positive integer',
  ('params', '--gin_file=models/base.gin'): (
    'no gin file of this run describes a method: add --gin_file=methods/'
  ),
  ('peek', '--model_dir=/nowhere'): '/nowhere is no folder of a training run',
}


def test_mistakes_in_flags_are_told_without_jax_and_tensorflow():
  code = (
    'import contextlib, io, json, sys; from hyperprompt_jax import cli; answers = []\n'
    'for words in json.loads(sys.argv[1]):\n'
    '  err = io.StringIO()\n'
    '  with contextlib.redirect_stderr(err):\n'
    '    status = cli.main(words)\n'
    '  answers.append([status, err.getvalue()])\n'
    "print(json.dumps([answers, sorted({'jax', 'tensorflow'} & {*sys.modules})]))"
  )
  ended = subprocess.run(
    [sys.executable, '-c', code, json.dumps(list(MISTAKES))],
    capture_output=True,
    text=True,
    check=True,
  )
  answers, loaded = json.loads(ended.stdout)
  assert loaded == []
  for (status, err), (words, message) in zip(answers, MISTAKES.items(), strict=True):
    assert status == 2 and message in err and len(err.splitlines()) == 1, (words, err)


def test_the_advice_of_a_message_works(capsys):
  line = refused(capsys, 'train', *WORDS[:-1], '--train_steps=1')
  flag = re.search(r'add (--\w+)=…', line)[1]
  parsed = train.parse([*WORDS[:-1], '--train_steps=1', f'{flag}=8,4'])
  assert "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}" in parsed.bindings


def test_a_file_that_is_no_gin_is_named(tmp_path):
  (tmp_path / 'x.gin').write_bytes(b'\xff')
  with pytest.raises(UserError, match=r'x\.gin'):
    checks.check([str(tmp_path / 'x.gin')], [])


def test_files_that_a_run_does_not_need_may_be_gone(tmp_path):
  sizes = ['--gin_file=models/madlad400_3b.gin', '--train_steps=1']
  words = [word for word in WORDS if word != '--gin_file=models/tiny.gin']
  words = [word for word in words if not word.startswith('--gin.MODEL_DIR')]
  model_dir, pieces = tmp_path / 'run', tmp_path / 'pieces.model'
  vocabulary = [f'--vocabulary={pieces}:0', f'--model_dir={model_dir}']
  with pytest.raises(UserError, match=r'pieces\.model:0 cannot be read'):
    train.parse([*words, *sizes, *vocabulary])
  pieces.touch()
  train.parse([*words, *sizes, *vocabulary])
  # Nor does a run that goes on need the checkpoint of its start.
  gone = [*words, *sizes, *vocabulary, f'--init={tmp_path / "gone"}']
  with pytest.raises(UserError, match='gone cannot be read'):
    train.parse(gone)
  (model_dir / 'checkpoints').mkdir(parents=True)
  train.parse(gone)
