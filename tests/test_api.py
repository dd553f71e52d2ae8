"""The public API: what `import hyperprompt_jax` gives, and when it is loaded."""

import ast
import pathlib
import subprocess
import sys

import pytest

import hyperprompt_jax
from hyperprompt_jax import cli, methods
from hyperprompt_jax.configuration import recorded


@pytest.mark.parametrize('name', hyperprompt_jax.__all__)
def test_every_public_name_is_there_and_listed(name):
  assert getattr(hyperprompt_jax, name) is not None
  assert name in dir(hyperprompt_jax)


def test_every_method_is_public():
  made = {
    name
    for name in methods.__all__
    if issubclass(type(getattr(methods, name)), type)
    and issubclass(getattr(methods, name), methods.Method)
  } - {'Method'}
  assert len(made) >= 8
  assert made <= {*hyperprompt_jax.__all__}
  assert made == {*recorded.METHODS}


def test_type_checkers_see_the_names_that_are_loaded_lazily():
  path = pathlib.Path(hyperprompt_jax.__file__)
  (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
  seen = {alias.name for statement in block.body for alias in statement.names}
  assert seen | {'__version__'} == {*hyperprompt_jax.__all__}
  assert path.with_name('py.typed').is_file()


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'Confg'"):
    _ = hyperprompt_jax.Confg


def test_a_public_name_of_the_network_loads_no_tensorflow():
  code = (
    'import sys, hyperprompt_jax\n'
    "assert not {'jax', 'tensorflow'} & {*sys.modules}\n"
    'hyperprompt_jax.Transformer, hyperprompt_jax.HyperPromptGlobal, hyperprompt_jax.load\n'
    "assert 'jax' in sys.modules and 'tensorflow' not in sys.modules\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_the_command_tells_the_version(capsys):
  assert cli.main(['--version']) == 0
  assert capsys.readouterr().out == f'hyperprompt {hyperprompt_jax.__version__}\n'
