"""Settings refuse values out of range, and name the range."""

import dataclasses
import math

import pytest

from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.configuration.setting import LARGEST
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.training import settings

DATA = {
  'mixture_or_task_name': 'mixture',
  'task_feature_lengths': {'inputs': 8, 'targets': 4},
  'vocabulary': 'bytes',
}
REQUIRED = {settings.DataSettings: DATA, settings.CheckpointSettings: {'model_dir': '/run'}}
GROUPS = (
  settings.DataSettings,
  settings.OptimisationSettings,
  settings.EvaluationSettings,
  settings.Retention,
  settings.InitialCheckpoint,
  settings.CheckpointSettings,
  settings.LogSettings,
)
RANGED = [
  (group, name, described)
  for group in GROUPS
  for name, described in group.described().items()
  if described.range
]


def made(group, **values):
  return group(**{**REQUIRED.get(group, {}), **values})


@pytest.mark.parametrize(('group', 'name', 'described'), RANGED)
def test_the_ends_of_a_range_are_taken_and_the_next_values_are_not(group, name, described):
  bounds = described.range
  if bounds.choices:
    for choice in bounds.choices:
      assert getattr(made(group, **{name: choice}), name) == choice
    outside = ['nothing of this name']
  else:
    for value in (bounds.at_least, bounds.at_most):
      assert getattr(made(group, **{name: value}), name) == value
    outside = [bounds.at_least - 1, bounds.at_most + 1, 10**30]
  for value in outside:
    with pytest.raises(UserError, match=f'^{described.macro} must be ') as raised:
      made(group, **{name: value})
    assert str(bounds) in str(raised.value)


@pytest.mark.parametrize('value', [2.0, True, '2', math.nan])
def test_a_value_of_another_type_is_refused(value):
  with pytest.raises(UserError, match='BATCH_SIZE must be of type int, not'):
    made(settings.DataSettings, batch_size=value)


@pytest.mark.parametrize('name', ['learning_rate', 'z_loss', 'label_smoothing'])
@pytest.mark.parametrize('value', [-0.1, math.nan, math.inf, -math.inf])
def test_a_rate_is_finite_and_in_its_range(name, value):
  with pytest.raises(UserError, match=f'{name.upper()} must be a number'):
    ObjectSettings.check(name, value)


def test_a_schedule_is_a_learning_rate():
  ObjectSettings.check('learning_rate', lambda step: 1e-3)


@pytest.mark.parametrize(
  'lengths',
  [
    {'inputs': 8},
    {'inputs': 8, 'targets': 0},
    {'inputs': settings.LONGEST + 1, 'targets': 8},
    {'inputs': 8, 'targets': 8, 'more': 8},
  ],
)
def test_lengths_name_inputs_and_targets_within_a_range(lengths):
  with pytest.raises(
    UserError, match=r"like \{'inputs': 512, 'targets': 64\}, each length"
  ):
    made(settings.DataSettings, task_feature_lengths=lengths)


def test_a_batch_has_fewer_tokens_than_32_bits_count():
  lengths = {'inputs': settings.LONGEST, 'targets': 8}
  rows = LARGEST // settings.LONGEST
  assert made(settings.DataSettings, task_feature_lengths=lengths, batch_size=rows)
  with pytest.raises(UserError, match='are over 2147483647 tokens'):
    made(settings.DataSettings, task_feature_lengths=lengths, batch_size=rows + 1)


def test_steps_end_where_the_counter_of_steps_ends():
  relative = settings.OptimisationSettings(relative_steps=LARGEST)
  assert relative.last_step(0) == LARGEST
  with pytest.raises(UserError, match='is over 2147483647 steps'):
    relative.last_step(1)


def test_a_setting_cannot_be_changed():
  group = made(settings.DataSettings)
  with pytest.raises(dataclasses.FrozenInstanceError):
    group.batch_size = 3
