import ast
import pathlib

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import builtin, registration, task_lists

SUPER_GLUE = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc')
GLUE = ('cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte')
OTHER = task_lists.TaskList(tasks=('one', 'two'), scores={})


@pytest.fixture
def other_task():
  """A task whose ids index another list; it is removed after the test."""
  name = 'hp_test_other'
  hyperprompt_tasks.add_task(
    name,
    source=builtin.BuiltinSource('copy'),
    text=[],
    task_list=OTHER,
    conditioned_task='two',
  )
  yield name
  seqio.TaskRegistry.remove(name)
  del task_lists._declared[name]


@pytest.mark.parametrize(
  ('name', 'tasks'),
  [
    ('hp_super_glue_v102_proportional', SUPER_GLUE),
    ('hp_super_glue_cb_v102', SUPER_GLUE),
    ('hp_dpr_v001_simple', SUPER_GLUE),
    ('hp_wsc_dpr_simple_proportional', SUPER_GLUE),
    ('hp_glue_wnli_v002_simple_eval', SUPER_GLUE),
    ('hp_glue_v002_proportional', GLUE),
    ('hp_glue_v002_proportional.mnli', GLUE),
    ('hp_glue_mnli_and_dev_v002', GLUE),
    ('hp_glue_wnli_v002', ('wnli',)),
  ],
)
def test_benchmarks_have_their_conditioned_tasks_in_order(name, tasks):
  assert hyperprompt_tasks.task_list(name) == tasks


def test_an_unknown_name_is_told_the_nearest_known_ones():
  with pytest.raises(hyperprompt_tasks.UnknownNameError) as error:
    hyperprompt_tasks.task_list('hp_super_glue_v102_proportionall')
  message = str(error.value)
  assert message.startswith('hp_super_glue_v102_proportionall is neither')
  assert 'hp_super_glue_v102_proportional' in message.split('nearest: ')[1]
  assert '\n' not in message


def test_a_task_without_ids_is_told_apart_from_an_unknown_one():
  seqio.TaskRegistry.add('hp_test_plain', builtin.BuiltinSource('copy'), {})
  try:
    with pytest.raises(hyperprompt_tasks.UnknownNameError, match='has no task list'):
      hyperprompt_tasks.task_list('hp_test_plain')
  finally:
    seqio.TaskRegistry.remove('hp_test_plain')


def test_ids_index_the_list_that_the_task_was_added_with(other_task):
  assert hyperprompt_tasks.task_list(other_task) == ('one', 'two')
  dataset = seqio.TaskRegistry.get(other_task).get_dataset(None, 'validation')
  assert next(dataset.as_numpy_iterator())['task_ids'].tolist() == [1]


def test_a_mixture_over_two_lists_is_refused_and_not_registered(other_task):
  with pytest.raises(ValueError, match=f'{other_task}.*must share one list'):
    hyperprompt_tasks.add_mixture(
      'hp_test_mixture', {'hp_builtin_copy': 1.0, other_task: 1.0}
    )
  assert 'hp_test_mixture' not in seqio.MixtureRegistry.names()


def test_a_mixture_made_with_seqio_alone_has_the_list_of_its_members(other_task):
  seqio.MixtureRegistry.add('hp_test_seqio', ['hp_super_glue_cb_v102'], 1.0)
  seqio.MixtureRegistry.add('hp_test_both', [other_task, 'hp_builtin_copy'], 1.0)
  try:
    assert hyperprompt_tasks.task_list('hp_test_seqio') == SUPER_GLUE
    with pytest.raises(ValueError, match='must share one list'):
      hyperprompt_tasks.task_list('hp_test_both')
  finally:
    seqio.MixtureRegistry.remove('hp_test_seqio')
    seqio.MixtureRegistry.remove('hp_test_both')


def test_a_conditioned_task_outside_the_list_is_refused():
  with pytest.raises(ValueError, match='three'):
    hyperprompt_tasks.add_task(
      'hp_test_third',
      source=builtin.BuiltinSource('copy'),
      text=[],
      task_list=OTHER,
      conditioned_task='three',
    )
  assert 'hp_test_third' not in seqio.TaskRegistry.names()


def test_a_task_has_one_list(other_task):
  with pytest.raises(ValueError, match='already'):
    hyperprompt_tasks.declare(other_task, OTHER)


@pytest.mark.parametrize(
  ('tasks', 'scores'), [(('one', 'one'), {}), (('one',), {'two': ()})]
)
def test_a_list_that_contradicts_itself_is_refused(tasks, scores):
  with pytest.raises(ValueError):
    task_lists.TaskList(tasks=tasks, scores=scores)


def test_every_list_fits_the_vocabulary_of_ids():
  for tasks in task_lists._declared.values():
    assert len(tasks.tasks) <= registration.MAX_TASKS


def test_the_package_imports_neither_jax_nor_its_neighbours():
  package = pathlib.Path(hyperprompt_tasks.__file__).parent
  imported = set()
  for path in package.glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        imported.update(alias.name for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        imported.add(node.module)
  tops = {name.split('.')[0] for name in imported}
  assert not tops & {'jax', 'flax', 'optax', 'orbax', 'hyperprompt_jax', 't5'}


def test_results_show_a_task_by_the_name_of_its_conditioned_task():
  names = hyperprompt_tasks.short_names('hp_super_glue_v102_proportional', 'validation')
  assert tuple(sorted(names.values())) == SUPER_GLUE
  assert names['hp_super_glue_wsc_v102_simple_eval'] == 'wsc'
  # Both parts of MNLI are validated, and belong to one conditioned task.
  names = hyperprompt_tasks.short_names('hp_glue_v002_proportional', 'validation')
  of_mnli = {task for task in names if 'mnli' in task}
  assert len(of_mnli) == 2 and all(names[task] == task for task in of_mnli)
  assert {*names.values()} - of_mnli == {*GLUE} - {'mnli'}


def test_a_task_is_found_by_either_name():
  find = lambda name: hyperprompt_tasks.seqio_name('hp_builtin', name, 'validation')
  assert find('copy') == find('hp_builtin_copy') == 'hp_builtin_copy'
  assert find('no_task') == 'no_task'
