"""Reading by index and SeqIO's pipeline give the same examples and the same features."""

import collections

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax.data import access, features, indexed
from hyperprompt_jax.data.cache import Cache
from hyperprompt_jax.partitioning import Partitioner
from tests.tasks.conftest import OFFICIAL, write_lines

# So short that some inputs and targets are cut, before their EOS.
LENGTHS = {'inputs': 60, 'targets': 9}
TASKS = ('hp_super_glue_cb_v102', 'hp_super_glue_multirc_v102', 'hp_super_glue_record_v102')


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
  hyperprompt_tasks.use_vocabulary('bytes')
  for folder, rows in OFFICIAL.items():
    numbered = [{**row, 'idx': n} for n, row in enumerate(rows * 9)]
    write_lines(tmp_path / folder / 'train.jsonl', numbered)
  monkeypatch.setenv('SUPER_GLUE_DIR', str(tmp_path))


def reader(name, folder, lengths=LENGTHS, **options):
  settings = indexed.BatchSettings(lengths, seed=5, **options)
  source = access.Access(lengths, cache=Cache(str(folder / 'cache')))
  batches = access.training_batches(name, settings, source, Partitioner(), 1)
  assert isinstance(batches, indexed.IndexedBatches)
  return batches


def rows_of(batch):
  names = sorted(batch)
  return list(zip(*(map(bytes, np.asarray(batch[name])) for name in names), strict=True))


@pytest.mark.parametrize('name', TASKS)
def test_an_epoch_has_the_rows_that_seqio_gives(name, tmp_path):
  dataset = seqio.TaskRegistry.get(name).get_dataset(LENGTHS, 'train', shuffle=True, seed=1)
  converter = features.ConditionedEncDecFeatureConverter()
  (wanted,) = converter(dataset, LENGTHS).batch(10_000).as_numpy_iterator()
  size = len(wanted['task_ids'])
  batch = next(reader(name, tmp_path, batch_size=size))
  assert batch.keys() == wanted.keys()
  assert all(x.dtype == np.int32 for x in batch.values())
  assert collections.Counter(rows_of(batch)) == collections.Counter(rows_of(wanted))


def test_a_packed_row_is_what_seqio_makes_of_its_examples(tmp_path):
  name = 'hp_super_glue_v102_proportional'
  lengths = {'inputs': 500, 'targets': 60}
  options = {'lengths': lengths, 'batch_size': 3, 'pack': True, 'max_segments': 3}
  packed = reader(name, tmp_path, **options)
  placed = packed.batches.at(0)
  batch = packed.batches.features(placed)
  converter = features.ConditionedEncDecFeatureConverter(pack=True, max_segments=3)
  segments = []
  for row in range(3):
    draws = np.flatnonzero(placed.row == row)
    segments.append(len(draws))
    examples = []
    for draw in draws:
      task = packed.batches.examples[placed.drawn.task[draw]]
      index = placed.drawn.example[draw : draw + 1]
      examples.append(
        {
          'inputs': task.tokens('inputs', index, lengths['inputs'])[0],
          'targets': task.tokens('targets', index, lengths['targets'])[0],
          'task_ids': task.task_ids(index),
        }
      )
    dataset = tf.data.Dataset.from_generator(
      lambda examples=examples: iter(examples),
      output_signature={
        feature: tf.TensorSpec([None], tf.int32) for feature in examples[0]
      },
    )
    (wanted,) = converter(dataset, lengths).as_numpy_iterator()
    assert wanted.keys() == batch.keys()
    for feature, x in wanted.items():
      np.testing.assert_array_equal(batch[feature][row], x, err_msg=feature)
  assert max(segments) > 1


def test_rates_are_those_of_the_mixture(tmp_path):
  name = 'hp_super_glue_v102_proportional'
  batches = reader(name, tmp_path, batch_size=2000)
  ids = next(batches)['task_ids'][:, 0]
  provider = seqio.MixtureRegistry.get(name)
  rates = {task.name: provider.get_rate(task) for task in access.members(name, 'train')}
  share = np.bincount(ids, minlength=8) / len(ids)
  record = rates['hp_super_glue_record_v102'] / sum(rates.values())
  assert abs(share[4] - record) < 0.001
