"""Numbers of parameters, against published sizes and against parameters that are made."""

import json
from unittest import mock

import gin
import jax
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.cli import params
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inspection import parameter_count
from hyperprompt_jax.methods import SingleTask, added_parameters, within_budget
from hyperprompt_jax.model import Model
from tests import slow, tiny

# Of T5 1.1 (Raffel et al. 2020; the checkpoints' own counts).
PUBLISHED = {
  'small': 76_961_152,
  'base': 247_577_856,
  'large': 783_150_080,
  'xl': 2_849_757_184,
  'xxl': 11_135_332_352,
}
METHODS = {*tiny.METHODS, 'single_task'}
# What hyperprompt_global may add, with SuperGLUE's eight tasks.
MOST = {'base': 0.02, 'xxl': 0.0014}


def report(capsys, *arguments):
  capsys.readouterr()
  assert cli.main(['params', *arguments, '--json']) == 0
  return json.loads(capsys.readouterr().out)


@pytest.fixture(
  scope='module',
  params=slow.all_but([('base',)], [('base',), ('small', 'large', 'xl', 'xxl')]),
)
def rows(request, tmp_path_factory):
  """The rows of the default widths, by size and method, the others, and the picture."""
  picture = tmp_path_factory.mktemp('params') / 'growth.png'
  with mock.patch.object(parameter_count, 'SIZES', request.param):
    counted = params._rows([], [], 8, everything=True)
  parameter_count.draw(counted, str(picture))
  default = [row for row in counted if row['family'] == 'default']
  matched = [row for row in counted if row['family'] == 'matched']
  return {(row['size'], row['method']): row for row in default}, picture, matched


def sizes_of(rows):
  return {size for size, _ in rows[0]}


def test_all_lists_every_size_and_every_method(rows):
  assert {*parameter_count.SIZES} == {*PUBLISHED}
  wanted = {(size, method) for size in sizes_of(rows) for method in METHODS}
  assert rows[0].keys() == wanted


@pytest.mark.parametrize('size', PUBLISHED)
def test_backbones_have_the_published_numbers_of_parameters(size):
  files = [f'models/{size}.gin', 'methods/mtl.gin']
  assert params._count_files(files, [], 8).backbone == PUBLISHED[size]


@pytest.mark.parametrize('size', MOST)
def test_hyperprompt_global_adds_no_more_than_the_paper_says(size):
  files = [f'models/{size}.gin', 'methods/hyperprompt_global.gin']
  counts = params._count_files(files, [], 8)
  assert counts.task / counts.backbone == counts.ratio
  assert 0 < counts.ratio <= MOST[size]


def test_growth_is_per_task_and_the_methods_keep_their_order(rows):
  for row in rows[0].values():
    added = {int(tasks): entry['task'] for tasks, entry in row['growth'].items()}
    assert [*added] == [1, 2, 4, 8, 16, 32, 64]
    assert added[8] == row['task'] and added[64] - added[1] == 63 * row['per_task']
  for size in sizes_of(rows):
    per_task = {method: rows[0][size, method]['per_task'] for method in METHODS}
    assert per_task['mtl'] == 0 and per_task['single_task'] == PUBLISHED[size]
    assert per_task['hyperformer'] < per_task['hyperprompt_share']
    assert per_task['hyperprompt_global'] < per_task['hyperprompt_sep']
    assert per_task['hyperprompt_sep'] < per_task['adapter']


def test_the_matched_family_has_one_number_of_parameters(rows):
  for size in sizes_of(rows):
    added = {row['method']: row['task'] for row in rows[2] if row['size'] == size}
    assert added.keys() == METHODS - {'mtl', 'single_task'}
    middle = (min(added.values()) + max(added.values())) / 2
    for method, number in added.items():
      assert abs(number / middle - 1) <= 0.02, (size, method)


# The sizes beside T5 1.1 with a budget of their own, of which the file says that every
# method meets it. That takes half a second each.
OTHERS = (
  *('3b_1_0', '11b_1_0', 'byt5_small', 'byt5_base', 'byt5_large', 'byt5_xl', 'byt5_xxl'),
  *('ul2', 'madlad400_3b', 'madlad400_7b', 'madlad400_10b'),
)


@pytest.mark.parametrize('size', slow.all_but(['ul2'], OTHERS))
def test_every_method_meets_the_budget_of_a_size(size, monkeypatch):
  # Neither the backbone nor the growth is needed here.
  monkeypatch.setattr(parameter_count, 'TASKS', ())
  monkeypatch.setattr(parameter_count, '_backbone', lambda config: 1)
  settings = ["VOCABULARY='bytes'", 'EXTRA_PARAMETERS=%MATCHED_PARAMETERS']
  for method in METHODS - {'mtl', 'single_task'}:
    files = [f'models/{size}.gin', f'methods/{method}.gin']
    counts = params._count_files(files, settings, 8)
    budget = gin.query_parameter('MATCHED_PARAMETERS/macro.value')
    assert abs(counts.task / budget - 1) <= 0.02, method


def test_a_budget_that_no_width_meets_is_refused():
  method = tiny.METHODS['adapter']
  with pytest.raises(UserError, match='EXTRA_PARAMETERS=100 cannot be met to 2 %'):
    within_budget(method, tiny.config(), 4, 100)


@pytest.mark.parametrize('method', [m for m in tiny.METHODS if m != 'mtl'])
def test_a_model_takes_the_widths_that_meet_the_budget(method):
  config = tiny.config(emb_dim=64, num_heads=4, head_dim=16)
  budget = 38_300  # within 1 % of an adapter with a bottleneck of 6
  model = Model(config, tiny.METHODS[method], tiny.TASKS, extra_parameters=budget)
  added = sum(x.size for x in jax.tree.leaves(model.param_shapes()['method']))
  assert abs(added / budget - 1) <= 0.02


def test_the_picture_is_drawn(rows):
  assert rows[1].read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('method', tiny.METHODS)
def test_what_is_counted_is_what_is_made(method):
  counts = parameter_count.count(tiny.config(), tiny.METHODS[method], 4)
  made = Model(tiny.config(), tiny.METHODS[method], tiny.TASKS).param_shapes()
  sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in made.items()}
  assert counts.task == sizes.pop('method', 0)
  assert counts.backbone == sum(sizes.values())


@pytest.mark.parametrize('method', tiny.METHODS)
def test_growth_is_counted_for_any_number_of_tasks(method):
  counts = parameter_count.count(tiny.config(), tiny.METHODS[method], 4)
  counted = added_parameters(tiny.METHODS[method], tiny.config(), 16)
  assert counts.growth[16] == counted


def test_a_growth_that_is_no_line_is_counted_throughout():
  numbers = {1, 2, 4, 8, 9}
  squares = parameter_count._growth(lambda tasks: tasks**2, numbers)
  assert squares == {tasks: tasks**2 for tasks in numbers}


def test_single_task_copies_the_backbone_for_every_further_task():
  counts = parameter_count.count(tiny.config(), SingleTask(), 4)
  assert counts.task == 3 * counts.backbone and counts.growth[1] == 0


def test_one_model_and_method_are_one_object_named_after_their_files(capsys):
  files = ['--gin_file=methods/hyperprompt_sep.gin', '--gin_file=models/tiny.gin']
  row = report(capsys, *files, '--num_tasks=3')
  assert (row['num_tasks'], row['size'], row['method']) == (3, 'tiny', 'hyperprompt_sep')
  assert row.keys() >= {'backbone', 'task', 'per_task', 'ratio', 'growth'}
  assert report(capsys, *files, '--num_tasks=4')['task'] - row['task'] == row['per_task']
  wider = report(
    capsys, *files, '--num_tasks=3', '--gin.methods.HyperPromptSep.bottleneck_dim=48'
  )
  assert wider['task'] > row['task']


def test_the_table_goes_to_standard_output(capsys):
  files = ['--gin_file=models/tiny.gin', '--gin_file=methods/adapter.gin']
  assert cli.main(['params', *files]) == 0
  out, err = capsys.readouterr()
  assert 'adapter' in out and '246,784' in out
  assert err == ''
