"""Many tasks of one folder or file: a gin file imports, trains and evaluates them."""

import json

import pytest

import hyperprompt_tasks
from hyperprompt_jax import cli
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.training import settings
from tests import tiny_run

TASKS = [f'task{n:03}_copy' for n in range(12)]
FILES = (*tiny_run.FILES, 'tasks/natural_instructions.gin')


def write_natural_instructions(folder):
  for task in TASKS:
    instances = [{'input': f'{n}', 'output': [f'{n}']} for n in range(6)]
    document = {'Definition': ['Copy.'], 'Positive Examples': [], 'Instances': instances}
    (folder / f'{task}.json').write_text(json.dumps(document))


@pytest.mark.slow(held_by='test_a_folder_of_natural_instructions_is_a_mixture')
def test_a_folder_of_tasks_is_trained_and_a_sample_evaluated(tmp_path, capsys):
  write_natural_instructions(tmp_path)
  importer = 'hyperprompt_tasks.from_natural_instructions'
  arguments = tiny_run.train_arguments(
    tmp_path / 'run',
    f'--gin.{importer}.directory={str(tmp_path)!r}',
    files=FILES,
    without=('MIXTURE_OR_TASK_NAME',),
    TRAIN_STEPS=1,
    BATCH_SIZE=24,
    EVAL_TASKS=3,
    DATA_REPORT_EXAMPLES=9,
    VOCABULARY='bytes',
  )
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  sample = TASKS[::4]
  assert [task for task in TASKS if task in out] == sample
  (record,) = (
    json.loads(line)
    for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    if 'eval/average' in line
  )
  scored = {name for name in record if name.startswith('eval/score/')}
  assert scored == {f'eval/score/{task}' for task in sample}
  report = json.loads((tmp_path / 'run' / 'data.json').read_text())
  assert {task['examples'] for task in report.values()} == {3}
  assert len(report) == len(TASKS)
  table = tmp_path / 'scores.csv'
  words = [f'--model_dir={tmp_path / "run"}', '--eval_tasks=task004*', f'--csv={table}']
  assert cli.main(['eval', *words]) == 0
  lines = [line.split(',') for line in table.read_text().splitlines()]
  assert lines[0] == ['step', 'task', 'metric', 'value']
  assert {line[1].removeprefix('natural_instructions.') for line in lines[1:]} == {TASKS[4]}


def test_a_file_with_a_column_of_tasks_is_imported_by_its_gin_file(tmp_path):
  path = tmp_path / 'all.jsonl'
  rows = [{'inputs': 'q', 'targets': 'a', 'task': task} for task in TASKS for _ in range(2)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  files = {'train': str(path)}
  gin_files.parse(
    (*tiny_run.FILES, 'tasks/task_column.gin'),
    [
      f'hyperprompt_tasks.from_task_column.files={files!r}',
      *('MODEL_DIR="/run"', 'TRAIN_STEPS=1', 'VOCABULARY="bytes"'),
    ],
  )
  name = gin_files.call(settings.DataSettings).mixture_or_task_name
  assert hyperprompt_tasks.task_list(name) == tuple(TASKS)
