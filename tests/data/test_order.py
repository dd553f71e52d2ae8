"""Draws and permutations: functions of their numbers."""

import collections
import itertools
import math

import numpy as np
import pytest

from hyperprompt_jax.data import order


def permutation(size, key=7):
  return order.permuted(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))


@pytest.mark.parametrize(
  'size', [1, 2, 3, 16, 250, 4096, 4097, 4160, 5000, 65_536, 138_854]
)
def test_every_row_has_one_place(size):
  places = permutation(size)
  np.testing.assert_array_equal(np.sort(places), np.arange(size))
  if size > 3:
    assert not np.array_equal(places, permutation(size, key=8))


def test_the_permutations_of_few_rows_are_equally_frequent():
  frequency = collections.Counter(tuple(permutation(4, key=key)) for key in range(4800))
  assert set(frequency) == set(itertools.permutations(range(4)))
  # Chi-square of 23 degrees of freedom: over 49.7 once in a thousand.
  assert sum((n - 200) ** 2 / 200 for n in frequency.values()) < 49.7


def test_the_places_of_a_row_among_many_are_spread_evenly():
  """The network of pairs, where nothing is sorted: over 1,000 permutations."""
  size, keys = 10_007, np.arange(1000, dtype=np.uint64)
  for row in (0, 1, 5000, size - 1):
    places = order.permuted(np.full(1000, row), np.full(1000, size), order.mixed(keys))
    tenths = np.bincount(places * 10 // size, minlength=10)
    assert ((tenths - 100.0) ** 2 / 100).sum() < 27.9  # of 9 degrees: once in a thousand


def test_neighbours_among_many_do_not_stay_neighbours():
  places = permutation(100_000)
  assert abs(np.corrcoef(places, np.arange(100_000))[0, 1]) < 0.02
  # By chance two of 100,000 neighbours stay so.
  assert (np.abs(np.diff(places)) == 1).sum() < 15


def made(seed=0, sizes=(5, 70, 900), rates=(1.0, 2.0, 5.5)):
  names = [f'task {n}' for n in range(len(sizes))]
  return order.Draws(names, sizes, rates, seed)


@pytest.mark.parametrize('cut', [1, 7, 128, 1000])
def test_draws_do_not_depend_on_where_one_begins(cut):
  whole = made().at(0, 3000)
  for start in range(0, 3000 - cut, cut):
    part = made().at(start, cut)
    for name in ('task', 'epoch', 'example'):
      np.testing.assert_array_equal(
        getattr(part, name), getattr(whole, name)[start : start + cut]
      )


def test_each_task_has_its_share_at_any_time():
  draws, rates = made(), np.array([1.0, 2.0, 5.5])
  task = draws.at(0, 5000).task
  for end in range(1, 5000, 13):
    share = np.bincount(task[:end], minlength=3)
    assert (np.abs(share - end * rates / rates.sum()) < 2).all()


def test_the_order_of_tasks_is_no_pattern():
  task = made(rates=(1.0, 1.0, 1.0)).at(0, 6000).task
  follows = np.zeros((3, 3))
  np.add.at(follows, (task[:-1], task[1:]), 1)
  # By chance alone a task would follow itself 667 times; shares are held closer than that.
  assert follows.min() > 150


@pytest.mark.parametrize('rates', [(1.0, 2.0, 5.5), (1e-6, 1.0, 1e6), (3.0, 3.0, 3.0)])
def test_an_epoch_of_a_task_has_each_example_once(rates):
  drawn = made(rates=rates).at(0, 20_000)
  for task, size in enumerate((5, 70, 900)):
    of_task = drawn.task == task
    epochs, examples = drawn.epoch[of_task], drawn.example[of_task]
    np.testing.assert_array_equal(epochs, np.arange(len(epochs)) // size)
    for epoch in range(len(epochs) // size):
      assert sorted(examples[epochs == epoch]) == [*range(size)]


def test_an_order_depends_on_seed_and_task_alone():
  def examples(seed, sizes, rates, task=1):
    drawn = made(seed, sizes, rates).at(0, 4000)
    return drawn.example[drawn.task == task][:70].tolist()

  first = examples(0, (5, 70), (1.0, 1.0))
  assert first == examples(0, (9, 70, 3), (1.0, 3.0, 2.0))
  assert first != examples(1, (5, 70), (1.0, 1.0))


def test_epochs_have_orders_of_their_own():
  drawn = made(sizes=(70,), rates=(1.0,)).at(0, 70 * 50)
  orders = {tuple(drawn.example[n * 70 : (n + 1) * 70]) for n in range(50)}
  assert len(orders) == 50


def test_draws_far_away_are_as_those_at_the_start():
  drawn = made().at(10**12, 2000)
  share = np.bincount(drawn.task) / 2000
  np.testing.assert_allclose(share, np.array([1.0, 2.0, 5.5]) / 8.5, atol=0.003)
  assert drawn.epoch[drawn.task == 0].min() > 10**12 / 8.5 / 5 - 2


def test_as_many_as_two_thousand_tasks():
  draws = made(sizes=[50] * 2000, rates=[1.0] * 2000)
  drawn = draws.at(100_000, 4000)
  assert np.bincount(drawn.task, minlength=2000).max() <= 4
  assert math.isclose(drawn.epoch.mean(), 1, abs_tol=0.1)
