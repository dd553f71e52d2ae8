"""Foreign folders are data: none of their code runs, and only regular files are read."""

import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import Checkpointer, has_checkpoints
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from tests import published

# An import of gin's, which runs the module `evil` beside it: that leaves a file.
GIN = 'import evil\n'


@pytest.fixture
def evil(tmp_path, monkeypatch):
  """The file that the module `evil` writes when it is imported."""
  modules = tmp_path / 'modules'
  modules.mkdir()
  trace = tmp_path / 'it_has_run'
  (modules / 'evil.py').write_text(f'open({str(trace)!r}, "w").close()\n')
  monkeypatch.syspath_prepend(modules)
  return trace


def add_run(folder: pathlib.Path) -> None:
  """Adds the files that make a folder look like a run of this project."""
  (folder / 'checkpoints' / '1' / 'params').mkdir(parents=True)
  (folder / 'config.gin').write_text(GIN)


def convert(path: pathlib.Path, output: pathlib.Path) -> int:
  return cli.main(['convert', f'--input={path}', f'--output={output}', '--to=t5x'])


def test_a_hugging_face_folder_that_looks_like_a_run_too_runs_nothing(tmp_path, evil):
  folder = published.hugging_face(tmp_path / 'bundle')
  add_run(folder)
  assert convert(folder, tmp_path / 'out') == 0
  assert not evil.exists()


def test_a_hugging_face_folder_named_like_a_step_runs_nothing(tmp_path, evil):
  folder = published.hugging_face(tmp_path / 'bundle' / 'checkpoints' / '1000')
  (folder / 'params').mkdir()
  (tmp_path / 'bundle' / 'config.gin').write_text(GIN)
  assert convert(folder, tmp_path / 'out') == 0
  assert not evil.exists()


def test_a_runs_own_gin_is_not_run_to_convert_it(trained, tmp_path, evil):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  (run / 'config.gin').write_text(GIN)
  assert (
    cli.main(
      [
        *('convert', f'--input={run}', f'--output={tmp_path / "out"}'),
        *('--to=t5x', '--drop_method'),
      ]
    )
    == 0
  )
  assert not evil.exists()


@pytest.mark.parametrize('kind', ['pipe', 'device'])
@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_a_file_of_hugging_faces_that_is_no_file(tmp_path, file, kind):
  folder = published.hugging_face(tmp_path / 'hf')
  replace(folder / file, kind)
  with pytest.raises(UserError, match=f'{file} is no regular file, and is not opened'):
    open_source(str(folder))


# Opens T5X checkpoints and restores runs, and prints the error of each.
OPEN = """
import sys
from hyperprompt_jax.checkpoints import Checkpointer
from hyperprompt_jax.checkpoints.source import open_source
for kind, path in (argument.split('=', 1) for argument in sys.argv[1:]):
  try:
    if kind == 't5x':
      print(len(open_source(path).arrays))
    else:
      Checkpointer(path, []).restore_params(4, {})
  except Exception as error:
    print(type(error).__name__, error)
"""


def test_files_of_checkpoints_that_are_no_files_are_named_and_not_opened(trained, tmp_path):
  arguments, expected = [], []
  for number, (file, kind) in enumerate(
    itertools.product(('checkpoint', 'array'), ('pipe', 'device'))
  ):
    folder = published.t5x(tmp_path / str(number))
    path = folder / file if file == 'checkpoint' else next(folder.glob('**/.zarray'))
    replace(path, kind)
    arguments.append(f't5x={folder}')
    expected.append(path)
  for name in ('_CHECKPOINT_METADATA', 'run/metadata'):
    run = shutil.copytree(trained, tmp_path / name.replace('/', '_'))
    replace(run / 'checkpoints' / '4' / name, 'pipe')
    arguments.append(f'run={run}')
    expected.append(run / 'checkpoints' / '4' / name)
  # A process that opened one of them would hang.
  ended = subprocess.run(
    [sys.executable, '-c', OPEN, *arguments],
    capture_output=True,
    text=True,
    timeout=120,
  )
  lines = [line for line in ended.stdout.splitlines() if line.startswith('UserError ')]
  assert len(lines) == len(expected), ended
  for line, path in zip(lines, expected, strict=True):
    assert line.startswith(f'UserError {path} is no regular file, and is not opened')


def test_a_description_of_endless_size_is_not_read(tmp_path):
  folder = published.t5x(tmp_path)
  path = next(folder.glob('**/.zarray'))
  with path.open('ab') as file:
    file.truncate(2**40)  # sparse: it takes no disk
  with pytest.raises(UserError, match='has 1,099,511,627,776 bytes, and is not read'):
    open_source(str(folder))


def replace(path: pathlib.Path, kind: str) -> None:
  """Replaces a file by a pipe, or by a link to a device that never ends."""
  path.unlink()
  if kind == 'pipe':
    os.mkfifo(path)
  else:
    path.symlink_to('/dev/zero')


@pytest.mark.parametrize('name', ['\u00b2', '\u0663', '99999999999999999999'])
def test_a_folder_among_the_steps_with_the_name_of_none_is_refused(tmp_path, name):
  odd = tmp_path / 'checkpoints' / name
  odd.mkdir(parents=True)
  for look in (has_checkpoints, lambda run: Checkpointer(run, []), open_source):
    with pytest.raises(UserError, match=f'{odd} is the name of no step: move it out'):
      look(str(tmp_path))


def test_other_folders_among_the_steps_are_left_alone(tmp_path):
  for name in ('007', '-3', '7abc', '1e3', ' 4'):
    (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  assert not has_checkpoints(str(tmp_path))
  assert Checkpointer(str(tmp_path), []).steps() == []
