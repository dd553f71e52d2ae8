"""The project's gin files fit together, and are found wherever a command runs."""

import itertools

import gin
import pytest

from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import runs

GIN = gin_files.gin_directory()
MODELS = sorted(p.name for p in (GIN / 'models').glob('*.gin') if p.stem != 't5_1_1')
METHODS = sorted(p.name for p in (GIN / 'methods').glob('*.gin'))
# Every method with one size, and every size with one method: a size offers all methods the
# same macros, which the test checks.
PAIRS = {
  *(('tiny.gin', method) for method in METHODS),
  *zip(MODELS, itertools.cycle(METHODS), strict=False),
}


@pytest.mark.parametrize(('model', 'method'), sorted(PAIRS))
def test_every_model_goes_with_every_method(model, method):
  files = [f'models/{model}', f'methods/{method}', 'runs/finetune.gin']
  required = [
    'MODEL_DIR="/run"',
    'MIXTURE_OR_TASK_NAME="hp_builtin"',
    'TASK_FEATURE_LENGTHS={"inputs": 8, "targets": 8}',
    'TRAIN_STEPS=1',
  ]
  if model.startswith('madlad400'):
    required.append('VOCABULARY="/madlad"')
  gin_files.parse(files, required)  # it refuses macros that nothing sets
  text = gin.config_str()
  defined = {line.split(' = ')[0] for line in text.splitlines() if ' = ' in line}
  macros = {name for name in defined if name.isupper()}
  assert macros >= {'METHOD', 'VOCABULARY', 'MODEL_DIR'}
  # A size offers every method the widths that it may take.
  offered = {'BOTTLENECK_DIM', 'TASK_EMBED_DIM', 'MATCHED_PARAMETERS'}
  assert macros >= offered
  assert [name for name in sorted(macros - offered) if f'%{name}' not in text] == []


@pytest.mark.parametrize('method', METHODS)
def test_the_built_in_run_goes_with_every_method(method):
  files = ['models/tiny.gin', f'methods/{method}', 'runs/builtin.gin']
  gin_files.parse(files, ['MODEL_DIR="/run"'])
  assert '%gin.REQUIRED' not in gin.config_str()


def test_prompt_tunings_recipe_goes_with_its_method():
  files = ['models/tiny.gin', 'methods/prompt_tuning.gin', 'runs/prompt_tuning.gin']
  required = [
    *('MODEL_DIR="/run"', 'MIXTURE_OR_TASK_NAME="hp_builtin"', 'TRAIN_STEPS=1'),
    'TASK_FEATURE_LENGTHS={"inputs": 8, "targets": 8}',
  ]
  gin_files.parse(files, required)
  recipe = {
    'LEARNING_RATE': 0.3,
    'WEIGHT_DECAY_RATE': 1e-5,
    'TUNED_PARAMETERS': 'task',
    'optimizers.adafactor.multiply_by_parameter_scale': False,
  }
  for name, value in recipe.items():
    parameter = f'{name}/gin.macro.value' if name.isupper() else name
    assert gin.query_parameter(parameter) == value


@pytest.mark.parametrize('verb', ['eval', 'infer', 'peek'])
def test_gin_files_of_verbs_parse_after_a_config_that_training_wrote(trained, verb):
  runs.configure(str(trained), f'runs/{verb}.gin', [], [])
  assert gin.query_parameter('runs.Run.model_dir').scoped_selector == 'MODEL_DIR/gin.macro'


def test_every_gin_file_is_used_by_one_of_these_tests():
  tested = {f'models/{m}' for m in MODELS} | {f'methods/{m}' for m in METHODS}
  tested |= {'models/t5_1_1.gin', 'runs/finetune.gin', 'runs/run.gin'}
  tested |= {'runs/prompt_tuning.gin', 'runs/settings.gin', 'runs/record.gin'}
  tested |= {'runs/params.gin', 'runs/eval.gin', 'runs/infer.gin', 'runs/builtin.gin'}
  tested |= {'runs/peek.gin', 'runs/settings.gin'}
  tested.add('runs/plan.gin')  # by test_plan.py
  tested.add('runs/super_glue.gin')  # by test_reproduce_paper.py
  # By training/test_importers.py.
  tested |= {'tasks/natural_instructions.gin', 'tasks/task_column.gin'}
  # By test_t5x.py.
  tested |= {f't5x/{name}.gin' for name in ('model', 'finetune', 'eval', 'infer')}
  assert {str(p.relative_to(GIN)) for p in GIN.rglob('*.gin')} == tested


def test_folders_of_the_working_directory_hide_no_gin_file(tmp_path, monkeypatch):
  for folder in ('runs/demo', 'models', 'methods'):  # `make demo` leaves the first
    (tmp_path / folder).mkdir(parents=True)
  (tmp_path / 'runs' / 'finetune.gin').write_text("MODEL_DIR = 'of the user'")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
  files = [
    'models/tiny.gin',
    'methods/mtl.gin',
    'runs/builtin.gin',
  ]  # it includes finetune.gin
  gin_files.parse(files, ["MODEL_DIR='run'"])
  assert gin_files.parameter('settings.EvaluationSettings.period') == 100


def test_an_include_is_found_beside_the_file_that_includes_it(tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'outer.gin').write_text("include 'inner.gin'")
  (tmp_path / 'mine' / 'inner.gin').write_text('SEEN = 7\n')
  gin_files.parse([str(tmp_path / 'mine' / 'outer.gin')], [])
  assert gin.query_parameter('SEEN/macro.value') == 7


def test_a_missing_include_is_named_whatever_folders_there_are(tmp_path, monkeypatch):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'outer.gin').write_text("include 'runs/nothing.gin'")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match=r'outer.gin: .*runs/nothing.gin'):
    gin_files.parse(['outer.gin'], [])
