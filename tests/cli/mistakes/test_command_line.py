"""Mistakes in the command line and in gin."""

import pytest

from hyperprompt_jax.configuration import bindings, gin_files
from tests import tiny_run


def test_a_verb_that_is_none(mistake):
  assert "no verb 'trian'" in mistake(['trian'])


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--gin_fil=models/tiny.gin', 'did you mean --gin_file?'),
    ('--nonsense', "unknown argument '--nonsense'"),
    ('models/tiny.gin', "unknown argument 'models/tiny.gin'"),
    ('--gin.TRAIN_STEPS', '--gin.NAME=VALUE'),
    ('--gin_file', 'expected one argument; see hyperprompt train --help'),
  ],
)
def test_an_argument_that_is_none(refused, argument, message):
  assert message in refused(argument)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['eval'], '--model_dir'),
    (['infer', '--model_dir=x', '--output=y'], '--input --task'),
    (['infer', '--model_dir=x', '--output=y', '--input=a', '--task=b'], 'not allowed'),
  ],
)
def test_a_flag_that_is_missing_or_too_many(mistake, arguments, message):
  assert message in mistake(arguments)


@pytest.mark.parametrize(
  ('binding', 'message'),
  [
    ('TRAIN_STEP=3', 'did you mean TRAIN_STEPS?'),
    ('config.Config.emb_dims=3', 'no parameter emb_dims (did you mean emb_dim?)'),
    ('config.Confg.emb_dim=3', 'no config.Confg (did you mean config.Config?)'),
    ('trian.train.logs=3', 'no trian.train (did you mean train.train?)'),
    ('METHOD=@methods.HyperPromtGlobal()', 'methods.HyperPromptGlobal?'),
    ('VOCABULARY=bytes', '''a string needs quotes: --gin.VOCABULARY="'bytes'"'''),
    ('MODEL_DIR=/tmp/run', '''a string needs quotes: --gin.MODEL_DIR="'/tmp/run'"'''),
    ('TRAIN_STEPS=', 'has no value'),
    ('TRAIN_STEPS=1e', 'no Python literal'),
    ('TRAIN_STEPS=(1', 'no Python literal'),
    ('TRAIN_STEPS={[]: 1}', 'no Python literal'),
    ('TRAIN_STEPS=' + '[' * 10_000, 'a value is nested too deeply'),
  ],
)  # fmt: skip
def test_a_binding_that_names_or_means_nothing(refused, binding, message):
  line = refused(f'--gin.{binding}')
  assert message in line
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
    (['EVAL_PERIOD=[%LOG_PERIOD]', 'LOG_PERIOD=%EVAL_PERIOD'], 'LOG_PERIOD'),
    (['config.Config.emb_dim=@config.Config()'], 'config.Config'),
    (['config.Config.emb_dim=@a/config.Config()'], 'a/config.Config'),
  ],
)
def test_bindings_that_go_in_a_circle(refused, circle, name):
  line = refused(*(f'--gin.{binding}' for binding in circle))
  assert f'{name} is bound to what needs {name} itself' in line


def test_what_a_scope_binds_anew_is_no_circle():
  gin_files.parse(
    ['models/tiny.gin'],
    ['config.Config.emb_dim=@a/config.Config()', 'a/config.Config.emb_dim=3'],
  )
  assert list(bindings.circles()) == []


@pytest.mark.parametrize(
  ('binding', 'message'),
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
    ("KEEP_CHECKPOINTS='a'", 'KEEP_CHECKPOINTS must be of type int or None'),
    ("partitioning.Partitioner.num_partitions='a'", 'num_partitions must be of type int'),
    ("config.Config.mlp_activations='gelu'", 'mlp_activations must be of type tuple'),
  ],
)  # fmt: skip
def test_a_value_of_the_wrong_type(refused, binding, message):
  assert message in refused(f'--gin.{binding}')


@pytest.mark.parametrize(
  ('binding', 'message'),
  [
    ('BATCH_SIZE=0', 'BATCH_SIZE must be an integer from 1 to 1048576, not 0'),
    (f'BATCH_SIZE={10**12}', 'from 1 to 1048576, not 1000000'),
    ('TRAIN_STEPS=-1', 'TRAIN_STEPS must be an integer from 1 to 2147483647, or None'),
    ('TRAIN_STEPS=2147483648', 'TRAIN_STEPS must be an integer from 1 to 2147483647'),
    ('TRAIN_STEPS_RELATIVE=2147483648', 'TRAIN_STEPS_RELATIVE must be an integer from 1'),
    ('EVAL_PERIOD=0', 'EVAL_PERIOD must be an integer from 1 to 2147483647'),
    ('CHECKPOINT_PERIOD=0', 'CHECKPOINT_PERIOD must be an integer from 1'),
    ('LOG_PERIOD=0', 'LOG_PERIOD must be an integer from 1'),
    ('EVAL_STEPS=-1', 'EVAL_STEPS must be an integer from 0'),
    ('EVALUATOR_NUM_EXAMPLES=0', 'must be an integer from 1 to 2147483647, or None'),
    ('DATA_REPORT_EXAMPLES=-1', 'DATA_REPORT_EXAMPLES must be an integer from 0'),
    ('KEEP_CHECKPOINTS=0', 'KEEP_CHECKPOINTS must be an integer from 1'),
    ('KEEP_BEST=-1', 'KEEP_BEST must be an integer from 0'),
    ('RANDOM_SEED=-1', 'RANDOM_SEED must be an integer from 0 to 4294967295'),
    ('RANDOM_SEED=9223372036854775808', 'RANDOM_SEED must be an integer from 0 to 42949'),
    ('LEARNING_RATE=-1e-3', 'LEARNING_RATE must be a number at least 0 and finite'),
    ('LEARNING_RATE=1e999', 'must be a number at least 0 and finite, not inf'),
    ('Z_LOSS=-1.0', 'Z_LOSS must be a number from 0 to 1, not -1.0'),
    ('LABEL_SMOOTHING=1.0', 'LABEL_SMOOTHING must be a number at least 0 and below 1'),
    ('LABEL_SMOOTHING=1e999', 'LABEL_SMOOTHING must be a number at least 0 and below 1'),
    ('DROPOUT_RATE=1.5', 'DROPOUT_RATE must be a number at least 0 and below 1'),
    ("DTYPE='float16'", "DTYPE must be 'float32', 'bfloat16', not 'float16'"),
    ("REMAT_POLICY='some'", "must be 'none', 'minimal', 'full', not 'some'"),
    ("FRESH_PARAMETERS='some'", "must be 'task', 'none', 'last_task', not 'some'"),
    ('config.Config.emb_dim=0', 'emb_dim must be a positive integer'),
    ("config.Config.mlp_activations=('gelo',)", 'gelo'),
    ("TASK_FEATURE_LENGTHS={'inputs': 8}", "must be like {'inputs': 512, 'targets': 64}"),
    ("TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 0}", 'must be like'),
    ("TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8, 'x': 8}", 'must be like'),
    (f"TASK_FEATURE_LENGTHS={{'inputs': {10**10}, 'targets': 8}}", 'from 1 to 65536'),
    ('NUM_DATA_SHARDS=0', 'NUM_DATA_SHARDS must be an integer from 1'),
    ('NUM_DATA_SHARDS=3', 'NUM_DATA_SHARDS=3 does not divide BATCH_SIZE=4'),
    ('MAX_SEGMENTS=0', 'MAX_SEGMENTS must be an integer from 1 to 1024'),
    ('NUM_MICROBATCHES=0', 'NUM_MICROBATCHES must be an integer from 1'),
    ('NUM_MICROBATCHES=3', 'BATCH_SIZE=4 is not divided by NUM_MICROBATCHES=3'),
    ('NUM_PARTITIONS=0', 'NUM_PARTITIONS must be an integer from 1'),
    ('FSDP=3', 'NUM_PARTITIONS=1 times FSDP=3 does not divide'),
    ('NUM_PARTITIONS=3', 'NUM_PARTITIONS=3 does not divide'),
    ('USE_CACHED_TASKS=True', 'no cache of hp_builtin_first'),
    ("MODEL_DIR=''", 'MODEL_DIR is empty'),
  ],
)  # fmt: skip
def test_a_value_that_cannot_be(refused, binding, message):
  assert message in refused(f'--gin.{binding}')


def test_macros_that_must_be_set(refused):
  line = refused(without=['TASK_FEATURE_LENGTHS', 'MIXTURE_OR_TASK_NAME'])
  assert 'TASK_FEATURE_LENGTHS' in line
  assert 'MIXTURE_OR_TASK_NAME' in line
  assert 'MODEL_DIR' not in line
  assert 'TRAIN_STEPS must be set' in refused(without=['TRAIN_STEPS'])


@pytest.mark.parametrize(
  ('left_out', 'message'),
  [
    ('models', 'describes a network: add --gin_file=models/tiny.gin'),
    ('methods', 'a method: add --gin_file=methods/hyperprompt_global.gin'),
    ('runs', 'add --gin_file=runs/finetune.gin'),
  ],
)
def test_a_kind_of_gin_file_that_is_left_out(mistake, tmp_path, left_out, message):
  # Bindings of the network would be the first to be reported.
  files = [f'--gin_file={f}' for f in tiny_run.FILES if not f.startswith(left_out)]
  required = [
    a
    for a in tiny_run.train_arguments(tmp_path / 'run')
    if a.startswith(('--gin.MODEL_DIR', '--gin.MIXTURE', '--gin.TASK', '--gin.TRAIN'))
  ]
  assert message in mistake(['train', *files, *required])


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
  ('binding', 'message'),
  [
    ("from_files.files = {'a': 3}", 'from_files.files must be of type Mapping['),
    ("from_files.labels = {'a': 'yes'}", 'from_files.labels must be of type Mapping['),
    (
      "condition.tasks = {'a': 'b'}",
      'condition.tasks must be of type '
      'Mapping[str, float | hyperprompt_tasks.rates.Proportional]',
    ),
    ("condition.task_list = 'abc'", 'task_list must be of type Sequence[str] or None'),
    ("condition.task_list = ['a', 3]", 'task_list must be of type Sequence[str] or None'),
  ],
)
def test_own_tasks_of_the_wrong_type(refused, tmp_path, binding, message):
  file = tmp_path / 'mine.gin'
  file.write_text(
    'from __gin__ import dynamic_registration\n'
    f'import hyperprompt_tasks\nhyperprompt_tasks.{binding}\n'
  )
  assert message in refused(f'--gin_file={file}')
