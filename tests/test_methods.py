"""Every method trains from its gin file alone, and so does a user's own method."""

import json
import pathlib
import re

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import SingleTask
from hyperprompt_jax.training import train
from tests import slow, tiny, tiny_run

METHODS = sorted(p.stem for p in (gin_files.gin_directory() / 'methods').glob('*.gin'))
STEPS = 12
NETWORK = {**tiny_run.BACKBONE, **tiny_run.UNROLLED}


def arguments(folder, method_file, *more, **macros):
  """Returns the arguments of a run on a mixture that takes the method from its file."""
  macros = {
    'MIXTURE_OR_TASK_NAME': tiny_run.TWO_UNSCORED,
    'TRAIN_STEPS': STEPS,
    'BATCH_SIZE': 16,
    'EVAL_PERIOD': STEPS,
    'EVAL_STEPS': 0,
    'LEARNING_RATE': 0.05,
    'LOG_PERIOD': STEPS // 3,
    'DROPOUT_RATE': 0.0,
    **macros,
  }
  files = ('models/tiny.gin', method_file, 'runs/finetune.gin')
  return tiny_run.train_arguments(folder, *more, files=files, network=NETWORK, **macros)


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [r['train/loss'] for r in map(json.loads, lines) if 'train/loss' in r]


def test_every_method_has_a_gin_file():
  assert {*METHODS} == {*tiny.METHODS, 'single_task'}


@pytest.mark.parametrize('method', slow.all_but(['hyperprompt_global'], tiny.METHODS))
def test_a_method_trains_on_a_mixture_from_its_gin_file(method, tmp_path, compile_once):
  folder = tmp_path / 'run'
  assert cli.main(arguments(folder, f'methods/{method}.gin')) == 0
  first, *_, last = losses(folder)
  assert last < 0.9 * first


def single_task(folder, mixture):
  files = ('models/tiny.gin', 'methods/single_task.gin', 'runs/finetune.gin')
  return tiny_run.train_arguments(
    folder, files=files, network=NETWORK, MIXTURE_OR_TASK_NAME=mixture, EVAL_STEPS=0
  )


def test_single_task_trains_every_task_by_itself(tmp_path, compile_once, capsys):
  mixture = tiny_run.TWO_TASKS
  folder, tasks = tmp_path / 'run', ('copy', 'first')
  assert cli.main(single_task(folder, mixture)) == 0
  out = capsys.readouterr().out
  assert [p.name for p in sorted(folder.iterdir())] == sorted(tasks)
  for task in tasks:
    lines = (folder / task / 'metrics.jsonl').read_text().splitlines()
    trained = {name for line in lines for name in json.loads(line) if '/loss/' in name}
    assert trained == {f'train/loss/{task}'}
    binding = f"MIXTURE_OR_TASK_NAME = 'hp_builtin_{task}'"
    assert binding in (folder / task / 'config.gin').read_text()
  # One table shows all tasks and their average.
  closing = out[out.rindex('Validation scores') :]
  assert all(task in closing for task in tasks) and 'average' in closing

  assert cli.main(['eval', f'--model_dir={folder / "copy"}', '--json']) == 0
  scores = json.loads(capsys.readouterr().out)['checkpoints'][0]['scores']
  assert scores.keys() == {'copy'}
  assert cli.main(['eval', f'--model_dir={folder}']) == 2
  assert f'a run for each task: name one of {folder}/copy,' in capsys.readouterr().err


@pytest.mark.slow(held_by='test_single_task_trains_every_task_by_itself')
def test_single_task_of_one_task_is_one_run(tmp_path, compile_once):
  assert cli.main(single_task(tmp_path, 'hp_builtin_copy')) == 0
  assert (tmp_path / 'config.gin').is_file() and not (tmp_path / 'copy').exists()


def test_the_function_train_refuses_several_single_tasks(tmp_path):
  gin_files.parse(
    ['models/tiny.gin', 'methods/single_task.gin', 'runs/builtin.gin'],
    [f"MODEL_DIR='{tmp_path / 'run'}'"],
  )
  assert gin_files.bound_class('model.Model.method') is SingleTask
  with pytest.raises(UserError, match='trains 8 tasks, and this method one at a time'):
    gin_files.call(train.train)


def documented(language):
  """The code block of docs/methods.md in that language."""
  text = pathlib.Path(__file__).parent.parent.joinpath('docs/methods.md').read_text()
  (block,) = re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
  return block


def test_a_ninth_method_is_a_class_elsewhere_and_a_line_of_gin(
  tmp_path, monkeypatch, compile_once, capsys
):
  (tmp_path / 'my_project.py').write_text(documented('python'))
  file = tmp_path / 'my_method.gin'
  file.write_text(documented('gin'))
  monkeypatch.syspath_prepend(tmp_path)
  folder = tmp_path / 'run'
  assert cli.main(arguments(folder, str(file))) == 0
  first, *_, last = losses(folder)
  assert last < 0.9 * first
  counts = ['params', '--gin_file=models/tiny.gin', f'--gin_file={file}', '--json']
  capsys.readouterr()
  assert cli.main(counts) == 0
  row = json.loads(capsys.readouterr().out)
  assert row['method'] == 'my_method' and row['per_task'] == 2 * 2 * 8 * 64
