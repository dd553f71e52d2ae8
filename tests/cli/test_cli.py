import gc
import importlib
import io
import json
import logging
import os
import pathlib
import platform
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import rich.console

from hyperprompt_jax import cli
from hyperprompt_jax.cli import command
from hyperprompt_jax.runtime import terminal, workarounds
from tests import tiny_run

LOADED = (
  "import sys; print(sorted({'tensorflow', 'jax', 'jaxlib', 'flax'} & {*sys.modules}))"
)


def python(code):
  return subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd='/'
  )


def json_of(capsys, *arguments):
  capsys.readouterr()
  assert cli.main(list(arguments)) == 0
  return json.loads(capsys.readouterr().out)


def lines_of(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_the_import_loads_neither_tensorflow_nor_jax():
  assert python(f'import hyperprompt_jax; {LOADED}').stdout == '[]\n'


def test_the_help_loads_neither_tensorflow_nor_jax():
  out = python(f"from hyperprompt_jax import cli; cli.main(['--help']); {LOADED}").stdout
  usage, loaded = out.rstrip('\n').rsplit('\n', 1)
  assert loaded == '[]'
  assert all(verb in usage for verb in command.VERBS)
  for status in (0, 1, 2, 130, 143):
    assert re.search(rf'\b{status}\b', usage.split('exit status:')[1])


@pytest.mark.parametrize('verb', sorted(command.VERBS))
def test_every_verb_has_help(verb, capsys):
  with pytest.raises(SystemExit) as end:
    cli.main([verb, '--help'])
  assert end.value.code == 0
  out, err = capsys.readouterr()
  assert out.startswith(f'usage: hyperprompt {verb}')
  assert err == ''


ARENAS = """
import contextlib, ctypes, threading
from hyperprompt_jax import cli
with contextlib.suppress(SystemExit):
  cli.main(['VERB', '--help'])
libc = ctypes.CDLL(None)
all_here = threading.Barrier(9)
for _ in range(8):
  threading.Thread(target=lambda: (libc.malloc(100), all_here.wait())).start()
all_here.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, 'stdout'))
"""


# With other C libraries the command sets nothing, and malloc_info does not exist.
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has arenas')
def test_many_threads_have_two_arenas_of_memory_and_one_in_training_on_a_cpu(monkeypatch):
  arenas = lambda verb: python(ARENAS.replace('VERB', verb)).stdout.count('<heap nr=')
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert (arenas('params'), arenas('train')) == (2, 1)
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu,cpu')
  assert arenas('train') == 2
  monkeypatch.setenv('MALLOC_ARENA_MAX', '3')  # the user's choice wins
  assert arenas('train') == 3


def test_a_reader_that_has_had_enough_is_no_error():
  read, write = os.pipe()
  os.close(read)
  files = ['--gin_file=models/tiny.gin', '--gin_file=methods/mtl.gin']
  with os.fdopen(write) as pipe:
    ended = subprocess.run(
      [sys.executable, '-m', 'hyperprompt_jax', 'params', *files, '--json'],
      stdout=pipe,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert (ended.returncode, ended.stderr) == (141, '')


def test_no_verb_at_all_prints_the_usage_and_fails(capsys):
  assert cli.main([]) == 2
  assert 'usage: hyperprompt VERB' in capsys.readouterr().out


@pytest.mark.slow(held_by='test_eval_finds_what_training_found')
def test_eval_prints_one_json_object_and_nothing_else(trained, capsys):
  report = json_of(capsys, 'eval', f'--model_dir={trained}', '--json')
  (checkpoint,) = report['checkpoints']
  assert checkpoint['step'] == 4
  assert checkpoint['scores'].keys() == {'first'}
  assert checkpoint['losses']['first'] > 0


def test_eval_finds_what_training_found(trained, capsys):
  report = json_of(capsys, 'eval', f'--model_dir={trained}', '--step=all', '--json')
  assert [c['step'] for c in report['checkpoints']] == [2, 4]
  recorded = {
    line['step']: line
    for line in lines_of(trained / 'metrics.jsonl')
    if 'eval/average' in line
  }
  for checkpoint in report['checkpoints']:
    line = recorded[checkpoint['step']]
    assert checkpoint['average'] == line['eval/average']
    assert checkpoint['losses']['first'] == pytest.approx(line['eval/first/loss'], rel=1e-6)


@pytest.fixture
def scored(trained, tmp_path):
  """A copy of the run whose second evaluation is the better one."""
  run = tmp_path / 'scored'
  shutil.copytree(trained, run)
  lines = lines_of(run / 'metrics.jsonl')
  for line in lines:
    for name in ('eval/score/first', 'eval/average'):
      if name in line:
        line[name] = float(10 * line['step'])
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return run


@pytest.mark.slow(held_by='test_a_step_is_a_number_the_latest_or_the_best')
@pytest.mark.parametrize('choice', ['best', 'best_per_task'])
def test_eval_takes_the_step_that_scored_best_in_training(scored, capsys, choice):
  report = json_of(capsys, 'eval', f'--model_dir={scored}', f'--step={choice}', '--json')
  assert [c['step'] for c in report['checkpoints']] == [4]
  if choice == 'best_per_task':
    assert report['best_per_task']['first']['step'] == 4


@pytest.mark.slow(held_by='test_eval_finds_what_training_found')
def test_eval_prints_a_table_of_all_steps(trained, capsys):
  assert cli.main(['eval', f'--model_dir={trained}', '--step=all']) == 0
  out = capsys.readouterr().out
  assert 'Validation scores (x 100)\n' in out
  assert 'step 2' in out
  assert 'step 4' in out


def test_infer_on_a_file_and_on_a_task_agree_in_order(trained, tmp_path, capsys):
  by_task, by_file = tmp_path / 'task.jsonl', tmp_path / 'file.jsonl'
  common = ['infer', f'--model_dir={trained}']
  assert cli.main([*common, '--task=hp_builtin_first', f'--output={by_task}']) == 0
  of_task = lines_of(by_task)
  assert [line['task'] for line in of_task] == ['first'] * 128
  assert all(line['targets'] == line['inputs'][len('first: ')] for line in of_task)

  # Every third line in reverse order: no multiple of the batch, and one of another task.
  asked = [{'task': line['task'], 'inputs': line['inputs']} for line in of_task[::-3]]
  asked[1]['task'] = 'copy'
  questions = tmp_path / 'questions.jsonl'
  questions.write_text('\n'.join(json.dumps(line) for line in asked), encoding='utf-8')
  assert cli.main([*common, f'--input={questions}', f'--output={by_file}']) == 0
  answers = lines_of(by_file)
  assert [{k: a[k] for k in ('task', 'inputs')} for a in answers] == asked
  expected = [line['prediction'] for line in of_task[::-3]]
  assert [a['prediction'] for a in answers][2:] == expected[2:]
  assert sorted(p.name for p in tmp_path.glob('*.tmp')) == []


def test_infer_and_the_evaluation_of_training_predict_the_same(trained, tmp_path):
  output = tmp_path / 'predictions.jsonl'
  common = ['infer', f'--model_dir={trained}', '--task=hp_builtin_first', '--step=4']
  assert cli.main([*common, f'--output={output}']) == 0
  (logged,) = (trained / 'inference_eval').glob('*first*4.jsonl')
  evaluated = lines_of(logged)
  assert len({line['prediction'] for line in evaluated}) > 1
  predicted = [line['prediction'] for line in lines_of(output)][:6]
  assert predicted == [line['prediction'] for line in evaluated]


def test_infer_cuts_a_long_input_and_generates_no_more_than_asked(trained, tmp_path):
  questions, answers = tmp_path / 'q.jsonl', tmp_path / 'a.jsonl'
  asked = [{'task': 'first', 'inputs': 'first: ' + 'a' * n} for n in (12, 13, 200)]
  questions.write_text('\n'.join(json.dumps(line) for line in asked), encoding='utf-8')
  common = ['infer', f'--model_dir={trained}', f'--input={questions}']
  cut = '--gin.TASK_FEATURE_LENGTHS={"inputs": 20, "targets": 2}'
  assert cli.main([*common, cut, f'--output={answers}']) == 0
  # 20 tokens hold 19 bytes and EOS.
  whole, cut_by_one, cut_by_many = [line['prediction'] for line in lines_of(answers)]
  assert whole == cut_by_one == cut_by_many
  assert len(whole.encode()) <= 2


def test_infer_passes_through_what_else_a_line_holds(trained, tmp_path):
  questions, answers = tmp_path / 'q.jsonl', tmp_path / 'a.jsonl'
  line = {'task': 'max', 'inputs': 'é', 'id': 7}
  # The file has the byte order mark and the line ends that Windows writes.
  text = f'\ufeff{json.dumps(line)}\r\n\r\n{json.dumps(line)}\r\n'
  questions.write_bytes(text.encode('utf-8'))
  common = ['infer', f'--model_dir={trained}', f'--input={questions}']
  assert cli.main([*common, f'--output={answers}']) == 0
  assert [{**answer, 'prediction': ''} for answer in lines_of(answers)] == 2 * [
    {**line, 'prediction': ''}
  ]


def test_files_and_runs_are_found_from_another_working_directory(
  trained, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(trained, tmp_path / 'moved')
  arguments = tiny_run.train_arguments(pathlib.Path('moved'))
  assert cli.main(arguments) == 0  # the run has no step left to do
  report = json_of(capsys, 'eval', '--model_dir=moved', '--json')
  assert report['checkpoints'][0]['step'] == 4
  assert sorted(os.listdir(tmp_path)) == ['moved']


@pytest.mark.slow(held_by='test_files_and_runs_are_found_from_another_working_directory')
def test_a_run_evaluates_where_it_was_copied_to(trained, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(trained, copy)
  shutil.rmtree(copy / 'checkpoints' / '4')
  # The original still has step 4, but the copy is evaluated.
  report = json_of(capsys, 'eval', f'--model_dir={copy}', '--step=all', '--json')
  assert [c['step'] for c in report['checkpoints']] == [2]


def test_progress_in_a_terminal_is_a_bar_and_messages_stand_above_it(monkeypatch):
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=True, width=120)
  monkeypatch.setattr(terminal, 'stderr_console', lambda: console)
  progress = terminal.Progress(total_steps=10, step=0, enabled=True)
  progress.report(5, loss=0.25, examples=4)
  progress.message('step 5: [saved]')
  progress.close()
  shown = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', out.getvalue())
  assert 'step 5: [saved]' in shown and '[progress' not in shown
  last = [line for line in re.split(r'[\r\n]', shown) if line.strip()][-1]
  assert re.match(
    r'train \S+.* 5/10 loss 0\.2500 .*steps/s .*examples/s .*ETA 0:00:0', last
  )


@pytest.mark.parametrize('verb', command.VERBS)
def test_each_verb_runs_by_the_packages_name(verb, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['-m', verb, '--help'])
  with pytest.raises(SystemExit) as ended:
    runpy.run_module('hyperprompt_jax', run_name='__main__')
  assert ended.value.code == 0
  assert f'usage: hyperprompt {verb}' in capsys.readouterr().out


def test_what_is_imported_is_spared_the_garbage_collector(tmp_path, monkeypatch):
  (tmp_path / 'never_imported_before.py').write_text('HELD = [[] for _ in range(999)]')
  monkeypatch.syspath_prepend(tmp_path)
  before = gc.get_freeze_count()
  with workarounds.imports_without_collection():
    assert not gc.isenabled()
    importlib.import_module('never_imported_before')
  assert gc.isenabled() and gc.get_freeze_count() > before + 999
  before = gc.get_freeze_count()
  with workarounds.imports_without_collection():
    pass
  assert gc.isenabled() and gc.get_freeze_count() <= before


@pytest.mark.parametrize(
  'name, level, path, shown',
  [
    ('jax._src.xla_bridge', logging.WARNING, 'jax/_src/xla_bridge.py', True),
    ('jax._src.compiler', logging.WARNING, 'hyperprompt/lib/jax/_src/compiler.py', False),
    ('hyperprompt_tasks.registration', logging.WARNING, 'registration.py', True),
    ('absl', logging.ERROR, 'lib/orbax/checkpoint/x.py', False),
    ('tensorflow', logging.ERROR, 'lib/tensorflow/x.py', True),
  ],
)
def test_jaxs_word_on_devices_is_shown_and_other_notes_are_not(name, level, path, shown):
  record = logging.LogRecord(name, level, path, 1, 'a note', None, None)
  assert command._is_for_users(record) is shown
