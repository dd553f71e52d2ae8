"""The rules of SECURITY.md that hold for all of the code."""

import ast
import pathlib
import re

import pytest

from hyperprompt_jax.checkpoints import convert
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime.files import whole_file
from hyperprompt_tasks import errors
from tests import published

ROOT = pathlib.Path(__file__).parents[1]
RUNS_CODE = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve', 'torch'}
RUNS_CODE |= {'eval', 'exec', 'np.load', 'numpy.load', 'jnp.load', 'yaml.load'}


def used(tree):
  """Returns the modules that code imports, and the names that it calls."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield (node.module or '').partition('.')[0]
    elif isinstance(node, ast.Call):
      yield ast.unparse(node.func)


def test_nothing_is_used_that_runs_what_it_reads():
  files = [*ROOT.glob('hyperprompt_jax/**/*.py'), *ROOT.glob('tasks/**/*.py')]
  assert len(files) > 80
  for file in files:
    names = {*used(ast.parse(file.read_text(encoding='utf-8')))}
    forbidden = RUNS_CODE & names
    if file.name == 'modeling_hyperprompt.py':
      # It is copied for Transformers, imported by nothing here, and reads no file.
      forbidden = (forbidden - {'torch'}) | (names & {'torch.load', 'open'})
    assert not forbidden, f'{file}: {forbidden}'


@pytest.mark.parametrize(
  'error', [UserError, errors.DataError, errors.TaskError, errors.UnknownNameError]
)
def test_what_messages_quote_commands_no_terminal(error):
  line = str(error('a\x1b[2Jb\nc\u2028d\ud800 é…'))
  assert line == r'a\x1b[2Jb\nc\u2028d\ud800 é…'
  assert len(str(error('x' * 10**7))) < 1_100


def test_no_link_of_another_user_catches_what_is_written(tmp_path):
  mine, output = tmp_path / 'mine', tmp_path / 'answers.jsonl'
  mine.write_text('mine')
  (tmp_path / 'answers.jsonl.tmp').symlink_to(mine)
  with whole_file(output) as file:
    file.write('answers')
    (temporary,) = {*tmp_path.glob('.answers.jsonl.*')}
    # The name has twelve random digits, so nobody can place a link there beforehand.
    assert re.fullmatch(r'\.answers\.jsonl\.[0-9a-f]{12}\.tmp', temporary.name)
  assert (mine.read_text(), output.read_text()) == ('mine', 'answers')


def test_a_folders_name_writes_no_gin():
  written = convert._gin('a\nimport evil', published.CONFIG, "b'\nimport evil")
  assert 'evil' in written
  assert not [line for line in written.splitlines() if line.startswith('import')]
