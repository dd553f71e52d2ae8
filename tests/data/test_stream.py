"""Streams of small tasks go on from any step as if they had not been left."""

import itertools

import numpy as np
import pytest
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.data import indexed, stream
from hyperprompt_jax.partitioning import Partitioner
from tests.data import small_tasks

LENGTHS = {'inputs': 12, 'targets': 6}


def read(name, num_shards, pack):
  return stream.StreamedBatches(
    name,
    indexed.BatchSettings(LENGTHS, batch_size=8, seed=3, pack=pack, max_segments=2),
    Partitioner(),
    num_shards=num_shards,
    use_cached=False,
    tasks={},
  )


@pytest.mark.parametrize(
  ('sizes', 'num_shards', 'pack'),
  [
    ((5,), 1, False),
    ((32,), 2, False),
    pytest.param((20, 7), 1, True, marks=pytest.mark.slow),
    pytest.param((60, 17), 1, True, marks=pytest.mark.slow),
    pytest.param((100,), 4, False, marks=pytest.mark.slow),
  ],
)
def test_a_stream_is_restored_at_any_step(sizes, num_shards, pack, tmp_path):
  hyperprompt_tasks.use_vocabulary('bytes')
  name = small_tasks.mixture(*sizes)
  unbroken, batches = read(name, num_shards, pack), []
  steps = min(24, 2 + 3 * max(sizes) // 8)
  saved = range(1, steps, max(1, steps // 2))
  for step in range(steps):
    if step in saved:
      (tmp_path / str(step)).mkdir()
      unbroken.save(epath.Path(tmp_path / str(step)))
    batches.append(next(unbroken))
  ahead = [next(unbroken) for _ in range(max(sizes) // 8 + 2)]
  for at in saved:
    resumed = read(name, num_shards, pack)
    resumed.restore(epath.Path(tmp_path / str(at)))
    for wanted in itertools.chain(batches[at:], ahead):
      batch = next(resumed)
      for feature, x in wanted.items():
        np.testing.assert_array_equal(batch[feature], x)
