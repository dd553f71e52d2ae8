"""Mistakes in tasks, vocabularies and folders."""

import pathlib
import re
import socket

import pytest

from hyperprompt_tasks import builtin, metrics, preprocessors, registration, tfds_downloads
from tests import tiny_run


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
  monkeypatch.setattr(tfds_downloads, 'obstacle', lambda builder: 'no network')
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
  ('binding', 'message'),
  [
    ('first_layer=1', 'HyperPromptGlobal.first_layer=1 is out of range: the encoder has'),
    ("stacks='everywhere'", "'decoder' or 'both', not 'everywhere'"),
    ("prompt_init='words'", "'random' or 'vocabulary', not 'words'"),
    ('bottleneck_dim=0', 'bottleneck_dim must be at least 1, not 0'),
  ],
)
def test_an_option_of_a_method_that_cannot_be(refused, binding, message):
  assert message in refused(f'--gin.methods.HyperPromptGlobal.{binding}')


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
  # Root may write despite permissions, but not to /proc.
  folder = pathlib.Path('/proc/run')
  assert 'MODEL_DIR /proc/run cannot be' in mistake(tiny_run.train_arguments(folder))
