"""The structure of the code: layers, circles and sizes, read from the source."""

import ast
import functools
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = {'hyperprompt_jax': ROOT, 'hyperprompt_tasks': ROOT / 'tasks'}
PROGRAMS = ('benchmarks', 'studies', 'tools')
MAX_LINES = 60
MAX_PARAMETERS = 8

# A part imports from its own layer and from those before it. The settings of training are
# dataclasses without JAX, which belong to the configuration.
LAYERS = (
  ('errors',),
  ('runtime', 'configuration', 'training.settings'),
  ('nn',),
  ('methods',),
  ('decoding', 'losses', 'model', 'partitioning', 'sampling'),
  (
    'checkpoints',
    'data',
    'demonstration',
    'evaluation',
    'inference',
    'inspection',
    'onnx',
    'planning',
    'training',
    't5x',
  ),
  ('serving',),
  ('cli', '__main__'),
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def level(module):
  """The layer of a module of hyperprompt_jax: its own, else its folder's."""
  _, *names = module.split('.')
  return LEVELS.get('.'.join(names[:2]), LEVELS[names[0]])


# Functions that may be longer, or take more parameters, each with its reason: at most five.
EXCEPTIONS: dict[str, str] = {}


def module_name(path, root):
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def sources():
  """The syntax trees of both packages by the names of their modules."""
  return {
    module_name(path, root): ast.parse(path.read_text(encoding='utf-8'))
    for package, root in PACKAGES.items()
    for path in sorted((root / package).rglob('*.py'))
  }


def imported_names(tree):
  """Every dotted name that a module imports, wherever the statement stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@functools.cache
def imports(module):
  """The modules of both packages that a module imports."""
  result = set()
  for name in imported_names(sources()[module]):
    while name and name not in sources():
      name = name.rpartition('.')[0]
    result.add(name)
  return sorted(result - {'', module})


def upward_imports():
  result = []
  for module in sources():
    for other in imports(module):
      ours = module.startswith('hyperprompt_jax.') and other.startswith('hyperprompt_jax.')
      if module.startswith('hyperprompt_tasks'):
        wrong = not other.startswith('hyperprompt_tasks')
      else:
        wrong = ours and level(module) < level(other)
      if wrong:
        result.append(f'{module} imports {other}')
  return result


def wrong_imports(folders, forbidden):
  return [
    f'{path.relative_to(ROOT)} imports {name}'
    for folder in folders
    for path in sorted((ROOT / folder).rglob('*.py'))
    for name in imported_names(ast.parse(path.read_text(encoding='utf-8')))
    if name.split('.')[0] in forbidden
  ]


def functions():
  """Qualified name and node of every function of both packages."""

  def walk(node, prefix):
    for child in ast.iter_child_nodes(node):
      name = prefix
      if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        name = f'{prefix}.{child.name}'
      if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield name, child
      yield from walk(child, name)

  for module, tree in sources().items():
    yield from walk(tree, module)


def num_parameters(node):
  arguments = node.args
  names = [
    argument.arg
    for argument in [
      *arguments.posonlyargs,
      *arguments.args,
      *arguments.kwonlyargs,
      *filter(None, [arguments.vararg, arguments.kwarg]),
    ]
  ]
  return len(names) - (names[:1] in (['self'], ['cls']))


def long_functions():
  """Functions over either limit: their names, with lines and parameters."""
  return {
    name: (node.end_lineno - node.lineno + 1, num_parameters(node))
    for name, node in functions()
    if node.end_lineno - node.lineno >= MAX_LINES or num_parameters(node) > MAX_PARAMETERS
  }


def test_few_modules_stand_at_the_root():
  assert len(list((ROOT / 'hyperprompt_jax').glob('*.py'))) <= 10


def test_every_part_has_a_layer():
  parts = {name.split('.')[1] for name in sources() if name.startswith('hyperprompt_jax.')}
  assert parts == {part.split('.')[0] for part in LEVELS}


def test_imports_point_one_way():
  assert upward_imports() == []


def test_nothing_imports_in_a_circle():
  graphlib.TopologicalSorter({module: imports(module) for module in sources()}).prepare()


def test_nothing_imports_the_adapter_to_t5x():
  assert [name for name in sources() if 'hyperprompt_jax.t5x' in imports(name)] == []


def test_packages_tests_and_programs_are_apart():
  assert wrong_imports(['hyperprompt_jax', 'tasks'], ['tests', *PROGRAMS]) == []
  assert wrong_imports(['tests'], PROGRAMS) == []
  assert wrong_imports(PROGRAMS, ['tests']) == []


def test_functions_are_short_and_take_few_parameters():
  assert {
    name: size for name, size in long_functions().items() if name not in EXCEPTIONS
  } == {}


def test_exceptions_are_few_and_all_are_needed():
  assert len(EXCEPTIONS) <= 5
  assert set(EXCEPTIONS) <= set(long_functions())
