"""Dynamic batching, with a function in place of a model."""

import threading
import time

import pytest

from hyperprompt_jax.serving.batcher import (
  Batcher,
  ClosedError,
  ExpiredError,
  Job,
  Limits,
  QueueFullError,
)


class Model:
  """Computes a batch only when it is let, and remembers the batches."""

  def __init__(self):
    self.batches = []
    self.started = threading.Semaphore(0)
    self.go = threading.Semaphore(0)

  def compute(self, group, values):
    self.batches.append((group, list(values)))
    self.started.release()
    assert self.go.acquire(timeout=20)
    if 'bad' in values:
      raise RuntimeError('it failed')
    return [f'{group} {value}' for value in values]


@pytest.fixture
def model():
  return Model()


@pytest.fixture
def start(model):
  batchers = []

  def start(**limits):
    batchers.append(Batcher(model.compute, Limits(**{'wait_seconds': 0, **limits})))
    return batchers[-1]

  yield start
  model.go.release(1000)
  assert all(batcher.close(20) for batcher in batchers)


def jobs(values, group='greedy', length=16):
  return [Job(group, length, value) for value in values]


def busy(batcher, model):
  """Keeps the thread busy, so that what is submitted next waits."""
  (future,) = batcher.submit(jobs(['first']), 20)
  assert model.started.acquire(timeout=20)
  return future


def test_jobs_that_wait_share_a_batch_and_get_their_own_results(start, model):
  batcher = start(batch_size=4)
  busy(batcher, model)
  futures = [batcher.submit(jobs([f'task {n}']), 20)[0] for n in range(6)]
  model.go.release(1000)
  assert [future.result(20) for future in futures] == [f'greedy task {n}' for n in range(6)]
  sizes = [len(values) for _, values in model.batches]
  assert sizes == [1, 4, 2]


def test_groups_and_distant_lengths_do_not_share_a_batch(start, model):
  batcher = start()
  busy(batcher, model)
  waiting = [*jobs('a', length=64), *jobs('b', 'beams', 64), *jobs('c', length=16)]
  waiting += [*jobs('d', length=128), *jobs('e', length=64), *jobs('f', length=32)]
  futures = batcher.submit(waiting, 20)
  model.go.release(1000)
  assert [future.result(20) for future in futures] == [
    'greedy a', 'beams b', 'greedy c', 'greedy d', 'greedy e', 'greedy f'
  ]  # fmt: skip
  batches = [values for _, values in model.batches[1:]]
  assert batches == [['a', 'e', 'f', 'd'], ['b'], ['c']]


def test_the_oldest_job_is_never_passed_over(start, model):
  batcher = start(batch_size=2)
  busy(batcher, model)
  (old,) = batcher.submit(jobs(['old'], 'rare'), 20)
  batcher.submit(jobs(range(50)), 20)
  model.go.release(2)
  assert old.result(20) == 'rare old'
  assert model.batches[1] == ('rare', ['old'])


def test_a_job_waits_for_others_until_the_batch_is_full(start, model):
  batcher = start(batch_size=2, wait_seconds=30)
  (first,) = batcher.submit(jobs(['a']), 60)
  (second,) = batcher.submit(jobs(['b']), 60)
  model.go.release()
  assert first.result(20) == 'greedy a' and second.result(20) == 'greedy b'
  assert model.batches == [('greedy', ['a', 'b'])]


def test_a_job_waits_no_longer_than_the_limit(start, model):
  batcher = start(batch_size=2, wait_seconds=0.02)
  model.go.release()
  (future,) = batcher.submit(jobs(['alone']), 20)
  assert future.result(20) == 'greedy alone'


def test_a_full_queue_takes_all_jobs_of_a_request_or_none(start, model):
  batcher = start(queue_size=3)
  busy(batcher, model)
  kept = batcher.submit(jobs('ab'), 20)
  with pytest.raises(QueueFullError):
    batcher.submit(jobs('cd'), 20)
  assert len(batcher) == 2
  kept += batcher.submit(jobs('e'), 20)
  model.go.release(1000)
  assert [future.result(20) for future in kept] == ['greedy a', 'greedy b', 'greedy e']


def test_cancelled_jobs_are_not_computed_and_make_room(start, model):
  batcher = start(queue_size=2)
  busy(batcher, model)
  kept, gone = batcher.submit(jobs('ab'), 20)
  assert gone.cancel()
  (late,) = batcher.submit(jobs('c'), 20)
  model.go.release(1000)
  assert (kept.result(20), late.result(20)) == ('greedy a', 'greedy c')
  assert model.batches[1:] == [('greedy', ['a', 'c'])]


def test_jobs_that_wait_past_their_deadline_are_given_up(start, model):
  batcher = start()
  first = busy(batcher, model)
  (late,) = batcher.submit(jobs(['late']), 0.01)
  (patient,) = batcher.submit(jobs(['patient']), 60)
  time.sleep(0.02)
  model.go.release(2)
  with pytest.raises(ExpiredError):
    late.result(20)
  assert (first.result(20), patient.result(20)) == ('greedy first', 'greedy patient')
  assert model.batches[1:] == [('greedy', ['patient'])]


def test_a_batch_that_fails_tells_its_jobs_and_the_next_one_is_computed(start, model):
  batcher = start()
  busy(batcher, model)
  futures = batcher.submit(jobs(['bad', 'other']), 20)
  (good,) = batcher.submit(jobs(['good'], 'beams'), 20)
  model.go.release(1000)
  for future in futures:
    with pytest.raises(RuntimeError, match='it failed'):
      future.result(20)
  assert good.result(20) == 'beams good'


def test_closing_computes_what_waits_and_refuses_the_rest(start, model):
  batcher = start(batch_size=2, wait_seconds=30)
  futures = batcher.submit(jobs('abcde'), 60)
  assert not batcher.close(0)
  with pytest.raises(ClosedError):
    batcher.submit(jobs('f'), 60)
  model.go.release(1000)
  assert batcher.close(20)
  assert [future.result(0) for future in futures] == [f'greedy {x}' for x in 'abcde']


class Compiled:
  """Computes batches, and those of slow groups for the first time when it is let."""

  def __init__(self):
    self.batches, self.known = [], set()
    self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)
    self.batcher = Batcher(self.compute, Limits(wait_seconds=0), is_slow=self.is_slow)

  def compute(self, group, values):
    is_slow = self.is_slow(group, values)
    self.batches.append((group, *values))
    self.started.release()
    assert not is_slow or self.go.acquire(timeout=20)
    self.known.add((group, len(values)))
    return values

  def is_slow(self, group, values):
    return group.startswith('slow') and (group, len(values)) not in self.known

  def submit(self, values, group):
    return self.batcher.submit(jobs(values, group), 20)


def test_a_slow_batch_holds_up_no_others_and_is_quick_from_then_on():
  compiled = Compiled()
  slow = compiled.submit('a', 'slow')
  assert compiled.started.acquire(timeout=20)
  # Another slow batch waits, and quick ones that come later do not.
  slower = compiled.submit('b', 'slower')
  assert [one.result(20) for one in compiled.submit('cd', 'quick')] == ['c', 'd']
  assert compiled.batches == [('slow', 'a'), ('quick', 'c', 'd')]
  compiled.go.release()
  assert slow[0].result(20) == 'a'
  # While the other slow one is computed, two jobs go one after the other as the first did.
  assert compiled.started.acquire(timeout=20) and compiled.started.acquire(timeout=20)
  assert [one.result(20) for one in compiled.submit('ef', 'slow')] == ['e', 'f']
  assert compiled.batches[2:] == [('slower', 'b'), ('slow', 'e'), ('slow', 'f')]
  assert not compiled.batcher.close(0) and not slower[0].done()
  compiled.go.release()
  assert compiled.batcher.close(20) and slower[0].result(0) == 'b'


def test_batches_are_observed(model):
  seen = []
  batcher = Batcher(model.compute, Limits(), lambda number, seconds: seen.append(number))
  model.go.release()
  batcher.submit(jobs('abc'), 20)
  assert batcher.close(20)
  assert seen == [3]
