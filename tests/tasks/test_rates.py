"""Rates: proportional ones, patterns of tasks, and what is refused."""

import math

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import Proportional, errors, rates, registration

_SIZE = 8192  # of each task of the built-in mixture


def test_a_proportional_rate_has_a_cap_and_a_temperature():
  assert Proportional().rate(300) == 300
  assert Proportional(cap=100).rate(300) == 100
  assert Proportional(cap=100).rate(30) == 30
  assert Proportional(cap=100, temperature=2).rate(300) == 10
  assert Proportional(temperature=3).rate(0) == 0


@pytest.mark.parametrize('options', [{'cap': 0}, {'cap': math.nan}, {'temperature': -1.0}])
def test_a_cap_or_temperature_that_is_none_is_refused(options):
  (name,) = options
  with pytest.raises(errors.TaskError, match=f'the {name} of proportional rates must be'):
    Proportional(**options)


def test_a_pattern_stands_for_the_tasks_that_match_it():
  expanded = rates.expand('new', {'hp_builtin_r*': 2.0, 'hp_builtin_copy': 1})
  assert expanded == {
    'hp_builtin_reverse': 2.0,
    'hp_builtin_rotate': 2.0,
    'hp_builtin_copy': 1.0,
  }
  with pytest.raises(errors.TaskError, match='no registered SeqIO task matches hp_no'):
    rates.expand('new', {'hp_no*': 1.0})


def test_members_may_be_proportional_to_their_examples():
  expanded = rates.expand('new', {'hp_builtin': Proportional(temperature=2)})
  assert set(expanded.values()) == {math.sqrt(_SIZE)}
  assert len(expanded) == 8


def test_a_mixture_of_patterns_and_mixtures_is_made():
  name = hyperprompt_tasks.condition(
    'patterns', {'hp_builtin_re*': 5.0, 'hp_wsc_dpr_simple_proportional': 2.0}
  )
  mixture = seqio.MixtureRegistry.get(name)
  by_task = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert by_task['patterns.hp_builtin_reverse'] == 5.0
  assert sum(by_task.values()) == pytest.approx(7.0)


@pytest.mark.parametrize(
  ('chosen', 'tasks'),
  [
    ('re*, copy', ['copy', 'reverse']),
    (3, ['first', 'max', 'rotate']),
    ('3', ['first', 'max', 'rotate']),
    (99, sorted(hyperprompt_tasks.task_list('hp_builtin'))),
  ],
)
def test_a_part_of_a_mixture_has_the_tasks_that_are_chosen(chosen, tasks):
  name = hyperprompt_tasks.part('hp_builtin', chosen)
  assert sorted(hyperprompt_tasks.groups(name)) == tasks
  assert hyperprompt_tasks.task_list(name) == hyperprompt_tasks.task_list('hp_builtin')
  assert hyperprompt_tasks.part('hp_builtin', chosen) == name


def test_a_part_that_is_none_is_refused():
  with pytest.raises(errors.TaskError, match="hp_builtin has no task 'cpy'; nearest: copy"):
    hyperprompt_tasks.part('hp_builtin', 'cpy')
  with pytest.raises(errors.TaskError, match='none of the tasks of hp_builtin is chosen'):
    hyperprompt_tasks.part('hp_builtin', 0)
  assert hyperprompt_tasks.part('hp_builtin', None) == 'hp_builtin'


def test_rates_that_seqio_alone_registered_are_checked_where_they_are_read():
  seqio.MixtureRegistry.add('unchecked', [('hp_builtin_copy', lambda task: -1.0)])
  with pytest.raises(errors.TaskError, match='the rate of hp_builtin_copy is -1'):
    registration.rates_of('unchecked', 'train')
