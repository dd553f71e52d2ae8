"""Task ids on their way from SeqIO's examples to the model."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax import datasets, features
from hyperprompt_jax.errors import UserError
from hyperprompt_tasks import builtin

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


def test_packed_rows_hold_segments_and_the_task_of_each():
  converter = features.ConditionedEncDecFeatureConverter(pack=True, max_segments=3)
  (row,) = converter(_examples(), LENGTHS).as_numpy_iterator()
  # Task 0 is a task, though 0 is padding to SeqIO's packing.
  assert row['task_ids'].tolist() == [2, 0, 0]
  assert row['encoder_input_tokens'].tolist() == [5, 6, 1, 8, 1] + [0] * 7
  assert row['encoder_segment_ids'].tolist() == [1, 1, 1, 2, 2] + [0] * 7
  assert row['decoder_target_tokens'].tolist() == [7, 1, 9, 9, 1]
  assert row['decoder_input_tokens'].tolist() == [0, 7, 0, 9, 9]
  assert row['decoder_segment_ids'].tolist() == [1, 1, 2, 2, 2]


def test_a_packed_row_holds_no_more_segments_than_it_may():
  converter = features.ConditionedEncDecFeatureConverter(pack=True, max_segments=1)
  first, second = converter(_examples(), LENGTHS).as_numpy_iterator()
  assert first['task_ids'].tolist() == [2] and second['task_ids'].tolist() == [0]
  with pytest.raises(ValueError, match='max_segments must be a positive integer, not 0'):
    features.ConditionedEncDecFeatureConverter(pack=True, max_segments=0)


def test_packed_batches_of_the_mixture_mix_tasks_and_lose_nothing():
  vocabulary = hyperprompt_tasks.use_vocabulary('bytes')
  dataset = datasets.training_dataset(
    'hp_builtin',
    {'inputs': 64, 'targets': 24},
    batch_size=16,
    seed=0,
    use_cached=False,
    pack=True,
    max_segments=4,
  )
  (batch,) = dataset.take(1).as_numpy_iterator()
  task_list = hyperprompt_tasks.task_list('hp_builtin')
  tasks_of_rows = []
  for row in range(16):
    segments = batch['encoder_segment_ids'][row]
    tasks = [task_list[i] for i in batch['task_ids'][row][: segments.max()]]
    for n, task in enumerate(tasks, 1):
      text = vocabulary.decode(batch['encoder_input_tokens'][row][segments == n].tolist())
      target = vocabulary.decode(
        batch['decoder_target_tokens'][row][batch['decoder_segment_ids'][row] == n].tolist()
      )
      name, _, string = text.partition(': ')
      assert name == task and target == builtin.FUNCTIONS[task](string)
    tasks_of_rows.append(tasks)
  assert max(map(len, tasks_of_rows)) == 4
  assert sum(len(set(tasks)) > 1 for tasks in tasks_of_rows) > 12


@pytest.mark.parametrize('wrong', [-1, 8])
def test_a_task_id_outside_the_task_list_is_named(wrong):
  task_list = hyperprompt_tasks.task_list('hp_builtin')
  batch = {'task_ids': np.array([[0], [7]])}
  features.check_task_ids(batch, task_list)
  batch['task_ids'][1] = wrong
  with pytest.raises(UserError, match=rf'task id {wrong}, but the task list has 8 tasks'):
    features.check_task_ids(batch, task_list)


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
