"""Task ids on their way from SeqIO's examples to the model."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax import datasets, features

LENGTHS = {'inputs': 12, 'targets': 5}


def _examples():
  return tf.data.Dataset.from_generator(
    lambda: iter(
      [
        {'inputs': [5, 6, 1], 'targets': [7, 1], 'task_ids': [2]},
        {'inputs': [8, 1], 'targets': [9, 9, 1], 'task_ids': [0]},
      ]
    ),
    output_signature={
      name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets', 'task_ids')
    },
  )


def test_rows_carry_the_id_of_their_task():
  converter = features.ConditionedEncDecFeatureConverter()
  first, second = converter(_examples(), LENGTHS).as_numpy_iterator()
  assert first['task_ids'].tolist() == [2] and second['task_ids'].tolist() == [0]
  assert second['encoder_input_tokens'].tolist() == [8, 1] + [0] * 10
  assert second['decoder_input_tokens'].tolist() == [0, 9, 9, 1, 0]
  assert second['decoder_target_tokens'].tolist() == [9, 9, 1, 0, 0]
  assert second['decoder_loss_weights'].tolist() == [1, 1, 1, 0, 0]


def test_packing_is_refused_with_the_reason():
  with pytest.raises(ValueError, match='packing rows of several tasks'):
    features.ConditionedEncDecFeatureConverter(pack=True)


def test_batches_of_the_mixture_are_the_same_for_a_seed_and_hold_all_tasks():
  vocabulary = hyperprompt_tasks.use_vocabulary('bytes')

  def batches(seed, number=3):
    dataset = datasets.training_dataset(
      'hp_builtin', {'inputs': 18, 'targets': 8}, batch_size=32, seed=seed, use_cached=False
    )
    return list(dataset.take(number).as_numpy_iterator())

  first, again, other = batches(0), batches(0), batches(1)
  for a, b in zip(first, again, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
  assert not np.array_equal(
    first[0]['encoder_input_tokens'], other[0]['encoder_input_tokens']
  )
  task_list = hyperprompt_tasks.task_list('hp_builtin')
  assert {int(i) for b in first for i in b['task_ids'][:, 0]} == set(range(len(task_list)))
  for row, task_id in zip(
    first[0]['encoder_input_tokens'], first[0]['task_ids'], strict=True
  ):
    assert vocabulary.decode(row.tolist()).startswith(task_list[task_id[0]] + ':')


def test_a_mixture_without_the_split_is_named():
  with pytest.raises(ValueError, match='no split test; it has train, validation'):
    datasets.check_mixture('hp_builtin', 'test')


def test_validation_batches_come_in_order_and_no_more_than_asked_for():
  hyperprompt_tasks.use_vocabulary('bytes')
  batches = datasets.validation_datasets(
    'hp_builtin',
    {'inputs': 18, 'targets': 8},
    batch_size=50,
    num_batches=2,
    use_cached=False,
  )
  assert set(batches) == {t.name for t in seqio.get_mixture_or_task('hp_builtin').tasks}
  rows = [len(b['task_ids']) for b in batches['hp_builtin_sort'].as_numpy_iterator()]
  assert rows == [50, 50]
