"""Every mistake of a user's ends in one line on standard error and exit status 2."""

import pathlib
import re
import shutil
import socket

import pytest

from hyperprompt_jax import bindings, cli, configuration, run_lock
from hyperprompt_tasks import builtin, metrics, preprocessors, registration
from tests import tiny_run


@pytest.fixture
def mistake(capfd):
  """Runs the command line, which must fail in style; returns the line."""

  def run(arguments, *, progress=0, table=False):
    capfd.readouterr()
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ''
    assert 'Traceback' not in err
    lines = err.splitlines()[progress:]
    if not table:
      assert len(lines) == 1, err
    assert lines[0].startswith('hyperprompt: ')
    assert 'In call to configurable' not in err
    return '\n'.join(lines)

  return run


@pytest.fixture
def refused(tmp_path, mistake):
  """Starts a training run that must be refused before a file is written."""

  def run(*more, **kwargs):
    folder = tmp_path / 'refused'
    line = mistake(tiny_run.train_arguments(folder, *more, **kwargs))
    assert not folder.exists()
    return line

  return run


@pytest.fixture
def copy(trained, tmp_path):
  """A copy of the trained run, to be damaged."""
  folder = tmp_path / 'copy'
  shutil.copytree(trained, folder)
  return folder


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()
  }


# ---- The command line ----


def test_a_verb_that_is_none(mistake):
  assert "no verb 'trian'" in mistake(['trian'])


@pytest.mark.parametrize(
  ('argument', 'said'),
  [
    ('--gin_fil=models/tiny.gin', 'did you mean --gin_file?'),
    ('--nonsense', "unknown argument '--nonsense'"),
    ('models/tiny.gin', "unknown argument 'models/tiny.gin'"),
    ('--gin.TRAIN_STEPS', '--gin.NAME=VALUE'),
    ('--gin_file', 'expected one argument; see hyperprompt train --help'),
  ],
)
def test_an_argument_that_is_none(refused, argument, said):
  assert said in refused(argument)


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['eval'], '--model_dir'),
    (['infer', '--model_dir=x', '--output=y'], '--input --task'),
    (['infer', '--model_dir=x', '--output=y', '--input=a', '--task=b'], 'not allowed'),
  ],
)
def test_a_flag_that_is_missing_or_too_many(mistake, arguments, said):
  assert said in mistake(arguments)


# ---- gin ----


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('TRAIN_STEP=3', 'did you mean TRAIN_STEPS?'),
    ('config.Config.emb_dims=3', 'no parameter emb_dims (did you mean emb_dim?)'),
    ('config.Confg.emb_dim=3', 'no config.Confg (did you mean config.Config?)'),
    ('trian.train.total_steps=3', 'no trian.train (did you mean train.train?)'),
    ('METHOD=@conditioning.HyperPromtGlobal()', 'conditioning.HyperPromptGlobal?'),
    ('VOCABULARY=bytes', '''a string needs quotes: --gin.VOCABULARY="'bytes'"'''),
    ('MODEL_DIR=/tmp/run', '''a string needs quotes: --gin.MODEL_DIR="'/tmp/run'"'''),
    ('TRAIN_STEPS=', 'has no value'),
    ('TRAIN_STEPS=1e', 'no Python literal'),
    ('TRAIN_STEPS=(1', 'no Python literal'),
    ('TRAIN_STEPS={[]: 1}', 'no Python literal'),
    ('TRAIN_STEPS=' + '[' * 10_000, 'a value is nested too deeply'),
  ],
)  # fmt: skip
def test_a_binding_that_names_or_means_nothing(refused, binding, said):
  line = refused(f'--gin.{binding}')
  assert said in line
  assert f'--gin.{binding.split("=")[0]}' in line


def test_a_gin_file_that_includes_itself(refused, tmp_path, monkeypatch):
  (tmp_path / 'a.gin').write_text("include 'b.gin'")
  (tmp_path / 'b.gin').write_text("include './a.gin'")
  monkeypatch.chdir(tmp_path)
  for _ in range(2):
    assert 'a.gin includes itself' in refused('--gin_file=a.gin')


@pytest.mark.parametrize(
  ('circle', 'name'),
  [
    (['TRAIN_STEPS=%TRAIN_STEPS'], 'TRAIN_STEPS'),
    (['EVAL_PERIOD=[%LOG_PERIOD]', 'LOG_PERIOD=%EVAL_PERIOD'], 'EVAL_PERIOD'),
    (['config.Config.emb_dim=@config.Config()'], 'config.Config'),
    (['config.Config.emb_dim=@a/config.Config()'], 'a/config.Config'),
  ],
)
def test_bindings_that_go_in_a_circle(refused, circle, name):
  line = refused(*(f'--gin.{binding}' for binding in circle))
  assert f'{name} is bound to what needs {name} itself' in line


def test_what_a_scope_binds_anew_is_no_circle():
  configuration.parse(
    ['models/tiny.gin'],
    ['config.Config.emb_dim=@a/config.Config()', 'a/config.Config.emb_dim=3'],
  )
  assert list(bindings.circles()) == []


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ("TRAIN_STEPS='many'", "TRAIN_STEPS must be of type int or None, not 'many'"),
    ('BATCH_SIZE=2.5', 'BATCH_SIZE must be of type int, not 2.5'),
    ('BATCH_SIZE=True', 'BATCH_SIZE must be of type int, not True'),
    ('MODEL_DIR=3', 'MODEL_DIR must be of type str, not 3'),
    ('MIXTURE_OR_TASK_NAME=3', 'MIXTURE_OR_TASK_NAME must be of type str'),
    ('VOCABULARY=3', 'VOCABULARY must be of type str'),
    ('METHOD=3', 'METHOD must be of type Method, not 3'),
    ("LEARNING_RATE='high'", 'LEARNING_RATE must be of type float or'),
    ("DROPOUT_RATE='high'", 'DROPOUT_RATE must be of type float'),
    ("EVAL_STEPS='all'", 'EVAL_STEPS must be of type int'),
    ("EVALUATOR_NUM_EXAMPLES='all'", 'must be of type int or None'),
    ("RANDOM_SEED='a'", 'RANDOM_SEED must be of type int'),
    ("CHECKPOINT_PERIOD='a'", 'CHECKPOINT_PERIOD must be of type int'),
    ("checkpoints.Retention.keep='a'", 'Retention.keep must be of type int or None'),
    ("partitioning.Partitioner.num_partitions='a'", 'num_partitions must be of type int'),
    ("config.Config.mlp_activations='gelu'", 'mlp_activations must be of type tuple'),
  ],
)  # fmt: skip
def test_a_value_of_the_wrong_type(refused, binding, said):
  assert said in refused(f'--gin.{binding}')


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('BATCH_SIZE=0', 'BATCH_SIZE must be a positive integer, not 0'),
    ('TRAIN_STEPS=-1', 'TRAIN_STEPS must be a positive integer'),
    ('EVAL_PERIOD=0', 'EVAL_PERIOD must be a positive integer'),
    ('CHECKPOINT_PERIOD=0', 'CHECKPOINT_PERIOD must be a positive integer'),
    ('LOG_PERIOD=0', 'LOG_PERIOD must be a positive integer'),
    ('EVAL_STEPS=-1', 'EVAL_STEPS must be 0 or more'),
    ('EVALUATOR_NUM_EXAMPLES=0', 'EVALUATOR_NUM_EXAMPLES must be positive'),
    ('DROPOUT_RATE=1.5', 'dropout_rate must be in [0, 1)'),
    ('config.Config.emb_dim=0', 'emb_dim must be a positive integer'),
    ("config.Config.mlp_activations=('gelo',)", 'gelo'),
    ("TASK_FEATURE_LENGTHS={'inputs': 8}", "must be like {'inputs': 512, 'targets': 64}"),
    ("TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 0}", 'must be like'),
    ("TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8, 'x': 8}", 'must be like'),
    ('NUM_DATA_SHARDS=0', 'NUM_DATA_SHARDS=0 does not divide BATCH_SIZE=4'),
    ('NUM_DATA_SHARDS=3', 'NUM_DATA_SHARDS=3 does not divide BATCH_SIZE=4'),
    ('train.train.max_segments=0', 'max_segments must be a positive integer'),
    ('train.train.num_microbatches=0', 'num_microbatches must be a positive integer'),
    ('train.train.num_microbatches=3', 'BATCH_SIZE=4 is not divided by num_microbatches=3'),
    ('partitioning.Partitioner.num_partitions=0', 'num_partitions must be a positive'),
    ('partitioning.Partitioner.fsdp=3', 'num_partitions=1 times fsdp=3 does not divide'),
    ('partitioning.Partitioner.num_partitions=3', 'num_partitions=3 does not divide'),
    ('USE_CACHED_TASKS=True', 'no cache of hp_builtin_first'),
    ("MODEL_DIR=''", 'MODEL_DIR is empty'),
  ],
)  # fmt: skip
def test_a_value_that_cannot_be(refused, binding, said):
  assert said in refused(f'--gin.{binding}')


def test_macros_that_must_be_set(refused):
  line = refused(without=['TASK_FEATURE_LENGTHS', 'MIXTURE_OR_TASK_NAME'])
  assert 'TASK_FEATURE_LENGTHS' in line
  assert 'MIXTURE_OR_TASK_NAME' in line
  assert 'MODEL_DIR' not in line
  assert 'TRAIN_STEPS must be set' in refused(without=['TRAIN_STEPS'])


@pytest.mark.parametrize(
  ('left_out', 'said'),
  [
    ('models', 'VOCABULARY is not set'),
    ('methods', 'methods/hyperprompt_global.gin or methods/hyperprompt_sep.gin'),
    ('runs', 'add --gin_file=runs/finetune.gin'),
  ],
)
def test_a_kind_of_gin_file_that_is_left_out(mistake, tmp_path, left_out, said):
  # No bindings of the network's: they would be the first thing missed.
  files = [f'--gin_file={f}' for f in tiny_run.FILES if not f.startswith(left_out)]
  required = [
    a
    for a in tiny_run.train_arguments(tmp_path / 'run')
    if a.startswith(('--gin.MODEL_DIR', '--gin.MIXTURE', '--gin.TASK', '--gin.TRAIN'))
  ]
  assert said in mistake(['train', *files, *required])


def test_no_gin_file_at_all(mistake):
  assert 'train needs' in mistake(['train'])


@pytest.mark.parametrize('file', ['models/tinny.gin', '/nowhere/x.gin', '/', 'x' * 300])
def test_a_gin_file_that_is_not_there(refused, file):
  line = refused(f'--gin_file={file}')
  assert f'no gin file {file}' in line
  assert ('did you mean models/tiny.gin?' in line) == (file == 'models/tinny.gin')


@pytest.mark.parametrize(
  'content',
  [
    b'TRAIN_STEPS = = 3\n',
    b'nothing gin would know\n',
    b'\xff\xfe\x00',
    b"TRAIN_STEPS = '''3",
    b'TRAIN_STEPS = {{}: 1}',
    b'TRAIN_STEPS = \x1b[2J\r\xc2\x85',
    b'TRAIN_STEPS = ' + b'[' * 10_000,
  ],
)
def test_a_gin_file_that_does_not_parse(refused, tmp_path, content):
  file = tmp_path / 'mine.gin'
  file.write_bytes(content)
  assert str(file) in refused(f'--gin_file={file}')


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ("from_files.files = {'a': 3}", 'from_files.files must be of type Mapping['),
    ("from_files.labels = {'a': 'yes'}", 'from_files.labels must be of type Mapping['),
    ("condition.tasks = {'a': 'b'}", 'condition.tasks must be of type Mapping[str, float]'),
    ("condition.task_list = 'abc'", 'task_list must be of type Sequence[str] or None'),
    ("condition.task_list = ['a', 3]", 'task_list must be of type Sequence[str] or None'),
  ],
)
def test_own_tasks_of_the_wrong_type(refused, tmp_path, binding, said):
  file = tmp_path / 'mine.gin'
  file.write_text(
    'from __gin__ import dynamic_registration\n'
    f'import hyperprompt_tasks\nhyperprompt_tasks.{binding}\n'
  )
  assert said in refused(f'--gin_file={file}')


# ---- Tasks, vocabularies, folders ----


def test_a_mixture_that_is_none(refused):
  line = refused(MIXTURE_OR_TASK_NAME='hp_bultin')
  assert 'hp_bultin is neither a task nor a mixture; nearest: hp_builtin,' in line


def test_a_task_without_a_training_split(refused):
  assert 'has no split train' in refused(MIXTURE_OR_TASK_NAME='hp_super_glue_axb_v102')


def test_a_super_glue_folder_that_is_none(refused, monkeypatch):
  monkeypatch.setenv('SUPER_GLUE_DIR', '/nowhere')
  assert '/nowhere is no folder' in refused(MIXTURE_OR_TASK_NAME='hp_super_glue_cb_v102')


def test_super_glue_with_neither_a_folder_nor_tfds(refused, monkeypatch):
  monkeypatch.delenv('SUPER_GLUE_DIR', raising=False)

  def offline(self):
    raise OSError('no network')

  monkeypatch.setattr(
    'tensorflow_datasets.core.DatasetBuilder.download_and_prepare', offline
  )
  line = refused(MIXTURE_OR_TASK_NAME='hp_super_glue_cb_v102')
  assert 'no network; set SUPER_GLUE_DIR' in line


@pytest.mark.parametrize('content', [None, b'no model', b''])
def test_a_vocabulary_that_cannot_be_read(refused, tmp_path, content):
  path = tmp_path / 'sentencepiece.model'
  if content is not None:
    path.write_bytes(content)
  line = refused(f'--gin.VOCABULARY={str(path)!r}')
  assert f'vocabulary {path} cannot be read' in line


def test_a_vocabulary_larger_than_the_embedding(refused):
  line = refused('--gin.config.Config.vocab_size=100')
  assert 'set config.Config.vocab_size to at least 259' in line


def test_a_task_id_that_is_no_task(trained, monkeypatch, tmp_path, mistake):
  wrong = lambda dataset, task_id: dataset.map(lambda x: {**x, 'task_ids': [task_id + 9]})
  monkeypatch.setattr(preprocessors, 'add_task_ids', wrong)
  source = builtin.BuiltinSource('copy')
  name = 'hp_test_wrong_task_id'
  registration.add_task(
    name,
    source=source,
    text=[],
    task_list=builtin.TASKS,
    conditioned_task='copy',
    metric_fns=[metrics.accuracy],
  )
  run = tiny_run.train_arguments(tmp_path / 'run', MIXTURE_OR_TASK_NAME=name)
  assert 'task id 12, but the task list has 8 tasks' in mistake(run)
  infer = [f'--model_dir={trained}', f'--task={name}', f'--output={tmp_path / "x"}']
  assert 'task id 12, but the task list has 8 tasks' in mistake(['infer', *infer])
  evaluate = ['eval', f'--model_dir={trained}', f'--gin.MIXTURE_OR_TASK_NAME={name!r}']
  assert 'task id 12, but the task list has 8 tasks' in mistake(evaluate, progress=1)


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('first_layer=1', 'HyperPromptGlobal.first_layer=1 is out of range: the encoder has'),
    ("stacks='everywhere'", "'decoder' or 'both', not 'everywhere'"),
    ("prompt_init='words'", "'random' or 'vocabulary', not 'words'"),
    ('bottleneck_dim=0', 'bottleneck_dim must be at least 1, not 0'),
  ],
)
def test_an_option_of_a_method_that_cannot_be(refused, binding, said):
  assert said in refused(f'--gin.conditioning.HyperPromptGlobal.{binding}')


def test_a_model_dir_that_is_a_file(mistake, tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  assert f'MODEL_DIR {file} cannot' in mistake(tiny_run.train_arguments(file))

  assert f'{file}/run cannot' in mistake(tiny_run.train_arguments(file / 'run'))
  assert file.read_text() == 'mine'


@pytest.mark.parametrize('verb', ['train', 'eval'])
def test_a_bucket_that_does_not_answer_is_found_out_at_once(mistake, monkeypatch, verb):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{port}')
  command = {
    'train': tiny_run.train_arguments('gs://bucket/run'),
    'eval': ['eval', '--model_dir=gs://bucket/run'],
  }[verb]
  assert re.search('(MODEL_DIR |--model_dir=)gs://bucket/run cannot be', mistake(command))


def test_a_model_dir_that_cannot_be_written(mistake):
  # Permissions do not hold root back; /proc does.
  folder = pathlib.Path('/proc/run')
  assert 'MODEL_DIR /proc/run cannot be' in mistake(tiny_run.train_arguments(folder))


# ---- Runs and their checkpoints ----


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


@pytest.mark.parametrize('verb', ['train', 'eval'])
def test_a_checkpoint_of_another_network_is_listed_both_ways(mistake, copy, verb):
  before = contents(copy)
  changed = ['--gin_file=methods/mtl.gin', '--gin.config.Config.mlp_dim=24']
  if verb == 'train':
    arguments = tiny_run.train_arguments(copy, *changed)
  else:
    arguments = ['eval', f'--model_dir={copy}', *changed]
  text = mistake(arguments, table=True, progress=0 if verb == 'train' else 1)
  assert f'checkpoint {copy}/checkpoints/4 is of another network' in text
  assert 'method/prompts: wanted absent, found [8, 2, 16]' in text
  assert 'decoder/layers/mlp/wo/kernel: wanted [1, 24, 16], found [1, 16, 16]' in text
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
  other = "--gin.evaluate.evaluate.mixture_or_task_name='hp_super_glue_cb_v102'"
  line = mistake(['eval', f'--model_dir={trained}', other])
  assert 'hp_super_glue_cb_v102 is of the task list boolq,' in line


@pytest.mark.parametrize(
  ('changed', 'said'),
  [
    ({'MIXTURE_OR_TASK_NAME': 'hp_builtin_copy'}, "='hp_builtin_first'; this run has"),
    ({'BATCH_SIZE': 8}, 'BATCH_SIZE=4; this run has 8'),
    ({'TASK_FEATURE_LENGTHS': {'inputs': 16, 'targets': 8}}, 'TASK_FEATURE_LENGTHS='),
    ({'RANDOM_SEED': 1}, 'RANDOM_SEED=0; this run has 1'),
  ],
)  # fmt: skip
def test_a_run_does_not_go_on_with_other_data(mistake, copy, changed, said):
  before = contents(copy)
  line = mistake(tiny_run.train_arguments(copy, **{'TRAIN_STEPS': 6, **changed}))
  assert said in line
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
  'half of the position': lambda step: truncate(next((step / 'data').glob('*.data-*'))),
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


# ---- Input of infer ----

GOOD = '{"task": "copy", "inputs": "copy: abc"}'


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('hello', 'no JSON: Expecting value at character 1'),
    (GOOD[:-1], 'no JSON'),
    ('[' * 100_000, 'no JSON: nested too deeply'),
    ('9' * 5_000, 'no JSON: a number has too many digits'),
    (GOOD[:-1] + ', "more": NaN}', 'no JSON: Out of range float values'),
    ('["\x1b[2J\u2028"]', 'no JSON: Invalid control character'),
    ('"\u2028"', 'expected an object with strings "task" and "inputs"'),
    (GOOD.replace('copy"', f'{"x" * 10**6}"'), "xxx' is not one of this model; it knows"),
    ('[]', 'expected an object with strings "task" and "inputs"'),
    ('{"task": "copy"}', 'expected an object'),
    ('{"task": "copy", "inputs": 3}', 'expected an object'),
    ('{"task": 3, "inputs": "a"}', 'expected an object'),
    ('{"task": "cpy", "inputs": "a"}', "'cpy' is not one of this model (did you mean copy"),
    ('{"task": "boolq", "inputs": "a"}', 'it knows first, last, max, copy,'),
    (r'{"task": "copy", "inputs": "\ud800"}', 'surrogates not allowed'),
    (b'{"task": "copy", "inputs": "\xe9"}', 'no JSON in UTF-8'),
  ],
)  # fmt: skip
def test_a_line_that_is_no_question(mistake, trained, tmp_path, line, said):
  questions, answers = tmp_path / 'questions.jsonl', tmp_path / 'answers.jsonl'
  bad = line if isinstance(line, bytes) else line.encode()
  questions.write_bytes(GOOD.encode() + b'\n\n' + bad + b'\n' + GOOD.encode())
  text = mistake(
    [
      'infer',
      f'--model_dir={trained}',
      f'--input={questions}',
      f'--output={answers}',
    ]
  )
  assert text.startswith(f'hyperprompt: {questions}:3: ')
  assert said in text
  assert [p.name for p in tmp_path.iterdir()] == ['questions.jsonl']


@pytest.mark.parametrize('content', [None, '', '\n \n'])
def test_a_file_without_a_question(mistake, trained, tmp_path, content):
  questions, answers = tmp_path / 'questions.jsonl', tmp_path / 'answers.jsonl'
  if content is not None:
    questions.write_text(content)
  line = mistake(
    ['infer', f'--model_dir={trained}', f'--input={questions}', f'--output={answers}']
  )
  assert f'--input {questions}' in line
  assert not answers.exists()


@pytest.mark.parametrize('output', ['', 'absent/answers.jsonl'])
def test_an_output_that_cannot_be_written(mistake, trained, tmp_path, output):
  path = tmp_path / output
  task = '--task=hp_builtin_first'
  line = mistake(['infer', f'--model_dir={trained}', task, f'--output={path}'])
  assert f'--output {path} cannot be written' in line
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--task=hp_bultin_copy'], 'nearest: hp_builtin_copy'),
    (['--task=hp_super_glue_cb_v102'], 'hp_super_glue_cb_v102 is of the task list boolq,'),
    (['--task=hp_builtin'], 'is a mixture: choose one task of it, hp_builtin_copy,'),
    (['--task=hp_builtin_copy', '--split=test'], 'no split test; it has train, valid'),
    (['--task=hp_builtin_copy', '--step=3'], '--step=3: there is no such checkpoint'),
    (['--task=hp_builtin_copy', '--gin.BATCH_SIZE=0'], 'BATCH_SIZE must be a positive'),
  ],
)  # fmt: skip
def test_a_task_that_infer_cannot_take(mistake, trained, tmp_path, flags, said):
  answers = tmp_path / 'answers.jsonl'
  assert said in mistake(['infer', f'--model_dir={trained}', f'--output={answers}', *flags])
  assert not answers.exists()


def test_eval_checks_what_it_is_given(mistake, trained):
  common = ['eval', f'--model_dir={trained}']
  assert 'BATCH_SIZE must be' in mistake([*common, '--gin.BATCH_SIZE=0'])
  assert 'EVAL_STEPS must be' in mistake([*common, '--gin.EVAL_STEPS=-1'])
  assert 'must be like' in mistake([*common, '--gin.TASK_FEATURE_LENGTHS={}'])
