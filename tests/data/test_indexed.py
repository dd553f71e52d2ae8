"""Batches by index: properties over drawn data, batches, packing, hosts and restores.

HYPERPROMPT_CASES=5000 in the environment draws so many cases.
"""

import json
import os

import numpy as np
import pytest
from etils import epath

from hyperprompt_jax.data import indexed, packing
from hyperprompt_jax.errors import UserError
from tests.data import made

CASES = int(os.environ.get('HYPERPROMPT_CASES', '25'))
LIMITS = {'inputs': 11, 'targets': 7}


def drawn_case(number, folder):
  """Data and settings of a case."""
  rng = np.random.default_rng(number)
  tasks = int(rng.integers(1, 13))
  most = int(rng.choice([3, 40, 3000]))
  sizes = rng.integers(1, most + 1, tasks)
  examples = [
    made.make(folder, f'{number}-{n}', size, rng, longest=13, task_id=n)
    for n, size in enumerate(sizes)
  ]
  rates = rng.choice([1.0, float(rng.random()) + 1e-3, 1e3], tasks) * rng.uniform(0.5, 2)
  if rng.random() < 0.5:
    rates = sizes.astype(float)
  settings = indexed.BatchSettings(
    LIMITS,
    batch_size=int(rng.choice([1, 2, 16, 48, 128])),
    seed=int(rng.integers(2**32)),
    pack=bool(rng.random() < 0.5),
    max_segments=int(rng.integers(1, 9)),
  )
  return examples, rates.tolist(), settings, rng


def hosts_of(rng, batch_size):
  """Draws the rows that each of 1 to 16 hosts fills; hosts may share a part of them."""
  groups = int(rng.choice([n for n in range(1, 17) if batch_size % n == 0]))
  rows = np.arange(batch_size) * groups // batch_size
  copies = int(rng.integers(1, 1 + 16 // groups))
  return [rows == group for group in range(groups) for _ in range(copies)], copies


def stream(case, own, saves=True):
  return indexed.IndexedBatches(indexed.Batches(*case[:3]), own, saves=saves)


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('number', range(8))
def test_readers_are_restored_anywhere_on_any_hosts(number, tmp_path):
  case = drawn_case(number, tmp_path)
  settings, rng = case[2], case[3]
  unbroken = stream(case, np.ones(settings.batch_size, bool))
  batches, folders = [], []
  for step in range(12):
    folders.append(epath.Path(tmp_path / str(step)))
    folders[-1].mkdir()
    unbroken.save(folders[-1])
    batches.append(next(unbroken))
  unbroken.close()
  for at in {0, 11, *rng.integers(0, 12, 2).tolist()}:
    hosts, copies = hosts_of(rng, settings.batch_size)
    readers = [stream(case, own, saves=False) for own in hosts]
    for reader in readers:
      reader.restore(folders[at])
    for step in range(at, min(12, at + 3)):
      parts = [next(reader) for reader in readers]
      joined = {name: sum(part[name] for part in parts) // copies for name in parts[0]}
      assert same(joined, batches[step]), (number, at, step)
    for reader in readers:
      assert reader.number == min(12, at + 3)
      reader.close()


@pytest.mark.parametrize('number', range(CASES))
def test_from_any_step_of_three_epochs_any_hosts_make_the_same_batches(number, tmp_path):
  examples, rates, settings, rng = drawn_case(number, tmp_path)
  draws = 3 * sum(map(len, examples))
  steps = min(60, 1 + draws // settings.batch_size)
  unbroken = indexed.Batches(examples, rates, settings)
  # The first steps, or some of those between any step of three epochs and their end.
  first = int(rng.integers(draws)) if number % 2 else 0
  if not settings.pack:
    first -= first % settings.batch_size
  starts, batches = [first], []
  for _ in range(steps):
    placed = unbroken.at(starts[-1])
    batches.append(unbroken.features(placed))
    starts.append(placed.end)
  for at in {0, steps - 1, *rng.integers(0, steps, 3).tolist()}:
    restored = indexed.Batches(examples, rates, settings)
    hosts, copies = hosts_of(rng, settings.batch_size)
    placed = restored.at(starts[at])
    assert placed.end == starts[at + 1]
    parts = [restored.features(placed, own) for own in hosts]
    joined = {name: sum(part[name] for part in parts) // copies for name in parts[0]}
    assert same(joined, batches[at]), (number, at)
  drawn = unbroken._draws.at(0, draws)
  for task, task_examples in enumerate(examples):
    seen, size = drawn.example[drawn.task == task], len(task_examples)
    for epoch in range(len(seen) // size):
      assert len(set(seen[epoch * size : (epoch + 1) * size].tolist())) == size


@pytest.mark.parametrize('number', range(8))
def test_each_example_of_an_epoch_is_in_the_batches_once(number, tmp_path):
  examples, rates, settings, _ = drawn_case(number, tmp_path)
  batches = indexed.Batches(examples, rates, settings)
  start, seen = 0, [[] for _ in examples]
  for _ in range(min(60, 1 + 2 * sum(map(len, examples)) // settings.batch_size)):
    placed = batches.at(start)
    batch = batches.features(placed)
    start = placed.end
    texts = {}
    for row, tokens in enumerate(batch['encoder_input_tokens']):
      segments = (
        batch['encoder_segment_ids'][row] if settings.pack else (tokens > 0).astype(int)
      )
      for segment in range(segments.max()):
        task = batch['task_ids'][row, segment]
        texts.setdefault((row, int(task)), []).append(
          tokens[segments == segment + 1][0] - 2
        )
    read = sorted(
      (row, task, int(example)) for (row, task), all_ in texts.items() for example in all_
    )
    drawn = placed.drawn
    assert read == sorted(
      zip(placed.row.tolist(), drawn.task.tolist(), drawn.example.tolist(), strict=True)
    )
    for task, example in zip(drawn.task.tolist(), drawn.example.tolist(), strict=True):
      seen[task].append(example)
  for task, task_examples in enumerate(examples):
    for epoch in range(0, len(seen[task]) - len(task_examples) + 1, len(task_examples)):
      assert sorted(seen[task][epoch : epoch + len(task_examples)]) == [
        *range(len(task_examples))
      ]


@pytest.mark.parametrize('pack', [False, True])
def test_a_batch_is_made_without_those_before(pack, tmp_path):
  rng = np.random.default_rng(1)
  examples = [made.make(tmp_path, 'a', 30, rng), made.make(tmp_path, 'b', 500, rng)]
  settings = indexed.BatchSettings(LIMITS, 16, 3, pack)
  batches = indexed.Batches(examples, [1.0, 2.0], settings)
  reader = indexed.IndexedBatches(batches, np.ones(16, bool), saves=True)
  for _ in range(25):
    wanted = next(reader)
  reader.close()
  fresh = indexed.Batches(examples, [1.0, 2.0], settings)
  assert same(fresh.features(fresh.at(fresh.start_of(24))), wanted)


def test_the_position_of_any_number_of_tasks_is_small(tmp_path):
  rng = np.random.default_rng(0)
  examples = [made.make(tmp_path, str(n), 3, rng) for n in range(200)]
  settings = indexed.BatchSettings(LIMITS, 64, 0, pack=True)
  reader = indexed.IndexedBatches(
    indexed.Batches(examples, [1.0] * 200, settings), np.ones(64, bool), saves=True
  )
  next(reader)
  reader.save(epath.Path(tmp_path))
  reader.close()
  assert (tmp_path / indexed.FILE).stat().st_size < 100


@pytest.mark.parametrize(
  'position',
  [{}, {'batches': 1}, {'batches': 3, 'draws': 6, 'digest': '0123456789abcdef'}, [], 'x'],
)
def test_a_position_that_is_none_is_refused(position, tmp_path):
  rng = np.random.default_rng(0)
  settings = indexed.BatchSettings(LIMITS, 2, 0)
  batches = indexed.Batches([made.make(tmp_path, 'a', 3, rng)], [1.0], settings)
  reader = indexed.IndexedBatches(batches, np.ones(2, bool), saves=True)
  (tmp_path / indexed.FILE).write_text(json.dumps(position))
  with pytest.raises((ValueError, KeyError, TypeError)):
    reader.restore(epath.Path(tmp_path))


def test_what_the_thread_raises_ends_the_run(tmp_path):
  rng = np.random.default_rng(0)
  settings = indexed.BatchSettings(LIMITS, 2, 0)
  batches = indexed.Batches([made.make(tmp_path, 'a', 3, rng)], [1.0], settings)
  batches.features = lambda *_: 1 / 0
  reader = indexed.IndexedBatches(batches, np.ones(2, bool), saves=True)
  with pytest.raises(ZeroDivisionError):
    next(reader)
  reader.close()


def test_no_segment_is_no_number_of_segments():
  with pytest.raises(UserError, match='max_segments must be a positive integer, not 0'):
    indexed.BatchSettings(LIMITS, 2, 0, pack=True, max_segments=0)


def naive_place(lengths, room, rows, max_segments):
  placed, free = [], [[*room, max_segments] for _ in range(rows)]
  for inputs, targets in lengths:
    for row, left in enumerate(free):
      if left[0] >= inputs and left[1] >= targets and left[2] > 0:
        free[row] = [left[0] - inputs, left[1] - targets, left[2] - 1]
        placed.append(row)
        break
    else:
      return placed
  return placed


@pytest.mark.parametrize('seed', range(20))
def test_each_example_goes_to_the_first_row_with_room(seed):
  rng = np.random.default_rng(seed)
  # Three fields of the last rooms need more than 64 bits.
  room = rng.integers(5, (31, 2**20, 2**40)[seed % 3], 2)
  lengths = np.stack([rng.integers(1, most + 1, 300) for most in room], 1)
  rows, segments = int(rng.integers(1, 9)), int(rng.integers(1, 5))
  rows_of_examples = packing.place(lengths, room, rows, segments)
  assert rows_of_examples.tolist() == naive_place(
    lengths.tolist(), room.tolist(), rows, segments
  )
  assert len(rows_of_examples) >= rows
