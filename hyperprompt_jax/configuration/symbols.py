"""The names of gin bindings, looked up in the source of our modules without importing it.

A mistyped `--gin.config.Config.emb_dims=8` is then told at once. Names of other packages
are left to gin, which imports them.
"""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

from hyperprompt_jax.errors import UserError, nearest

_PACKAGE = pathlib.Path(__file__).parents[1]
# In a checkout the tasks lie in a folder of their own, in the wheel beside this package.
_FOLDERS = (_PACKAGE.parent, _PACKAGE.parent / 'tasks')


def check_parameter(name: str, statement: str) -> None:
  """Checks a name such as `config.Config.emb_dim`.

  Args:
    name: is the name, with at least a module and a configurable.
    statement: is the import that binds the module's name.

  Raises:
    UserError: if the module is ours, and has no such configurable or parameter.
  """
  module, configurable, parameter = name.split('.')[-3:]
  path = check_configurable(f'{module}.{configurable}', statement)
  parameters = path and _parameters(path, configurable)
  if parameters and parameter not in parameters:
    hint = nearest(parameter, parameters)
    raise UserError(f'{module}.{configurable} has no parameter {parameter}{hint}')


def check_configurable(name: str, statement: str) -> str:
  """Checks a name such as `methods.HyperPromptGlobal`; returns the path of its module.

  The path is empty if the module is not ours. The arguments and the error are those of
  `check_parameter`.
  """
  module, configurable = name.split('.')[-2:]
  match = re.match(r'(?:from ([\w.]+) )?import ([\w.]+)', statement)
  path = _path('.'.join(filter(None, match.groups()))) if match else ''
  if not path:
    return ''
  known = _definitions(path)
  if configurable not in known:
    raise UserError(
      f'there is no {module}.{configurable}'
      f'{nearest(f"{module}.{configurable}", (f"{module}.{other}" for other in known))}'
    )
  return path


def _path(module: str) -> str:
  """Returns the path of a module of ours, or nothing."""
  if module.split('.')[0] not in ('hyperprompt_jax', 'hyperprompt_tasks'):
    return ''
  for folder in _FOLDERS:
    stem = folder.joinpath(*module.split('.'))
    for path in (stem.with_suffix('.py'), stem / '__init__.py'):
      if path.is_file():
        return str(path)
  return ''


@functools.cache
def _definitions(path: str) -> dict[str, ast.stmt]:
  """Returns the classes, functions and imports of a module, by name."""
  with open(path, encoding='utf-8') as file:
    tree = ast.parse(file.read())
  definitions: dict[str, ast.stmt] = {}
  for node in tree.body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
      definitions[node.name] = node
    elif isinstance(node, ast.ImportFrom | ast.Import):
      for alias in node.names:
        definitions[alias.asname or alias.name] = node
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      definitions |= {each.id: node for each in targets if isinstance(each, ast.Name)}
  return definitions


def _parameters(path: str, name: str) -> set[str]:
  """Returns the parameters of a class or function; empty if they cannot be known."""
  node = _definitions(path).get(name)
  if isinstance(node, ast.FunctionDef):
    return set() if node.args.kwarg else {*_arguments(node)}
  if isinstance(node, ast.ClassDef):
    return _fields(path, node)
  if isinstance(node, ast.ImportFrom) and node.module:
    original = next(a.name for a in node.names if (a.asname or a.name) == name)
    source = _path(node.module)
    return _parameters(source, original) if source else set()
  return set()


def _fields(path: str, node: ast.ClassDef) -> set[str]:
  """Returns the arguments of a class: of its `__init__`, else its fields and its bases'."""
  fields = set()
  for statement in node.body:
    if isinstance(statement, ast.FunctionDef) and statement.name == '__init__':
      return {*_arguments(statement)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
      fields.add(statement.target.id)
  bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
  return fields.union(*(_parameters(path, base) for base in bases))


def _arguments(node: ast.FunctionDef) -> Iterator[str]:
  arguments = node.args
  for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
    yield argument.arg
