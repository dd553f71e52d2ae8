"""Task ids on their way from SeqIO's examples to the model."""

import collections
import itertools

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax.data import access, cache, datasets, features, indexed, stream
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_tasks import builtin
from tests import slow, tiny_run
from tests.data import small_tasks

LENGTHS = {'inputs': 12, 'targets': 5}


def batches(name, lengths=None, batch_size=32, seed=0, num_shards=1, **options):
  """Training batches on all devices."""
  lengths = lengths or {'inputs': 18, 'targets': 8}
  return stream.StreamedBatches(
    name,
    indexed.BatchSettings(lengths, batch_size, seed, **options),
    Partitioner(),
    num_shards=num_shards,
    use_cached=False,
    tasks={},
  )


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


@pytest.mark.parametrize('pack', [False, True])
@pytest.mark.parametrize('drop_remainder', slow.all_but([False], [False, True]))
@pytest.mark.parametrize(
  'lengths',
  [LENGTHS, {'inputs': 2, 'targets': 2}],  # room to spare; none, so that tokens are cut
)
def test_batches_are_what_examples_one_by_one_are(pack, drop_remainder, lengths):
  converter = features.ConditionedEncDecFeatureConverter(pack, 2, apply_length_check=False)
  examples = _examples().repeat(4).take(7)
  converted = converter.batches(examples, lengths, 3, drop_remainder=drop_remainder)
  wanted = converter(examples, lengths).batch(3, drop_remainder)
  pairs = list(zip(converted.as_numpy_iterator(), wanted.as_numpy_iterator(), strict=True))
  assert pairs
  for batch, of_one in pairs:
    assert batch.keys() == of_one.keys()
    for name, x in batch.items():
      assert x.dtype == np.int32
      np.testing.assert_array_equal(x, of_one[name], err_msg=name)


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
  lengths = {'inputs': 64, 'targets': 24}
  batch = next(batches('hp_builtin', lengths, 16, pack=True, max_segments=4))
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


def test_hosts_read_parts_that_together_are_what_one_host_reads(monkeypatch):
  hyperprompt_tasks.use_vocabulary('bytes')
  rows = {0: frozenset({range(16)}), 1: frozenset({range(16, 32)})}
  monkeypatch.setattr(Partitioner, 'rows_of_hosts', lambda self, batch_size: rows)
  hosts = []
  for host in rows:
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    hosts.append(batches('hp_builtin_first', num_shards=4))
  assert [sorted(streams.readers) for streams in hosts] == [[0, 1], [2, 3]]
  assert [sorted(streams.own) for streams in hosts] == [[0, 1], [2, 3]]
  monkeypatch.undo()
  alone = batches('hp_builtin_first', num_shards=4)
  for _ in range(3):
    whole, *parts = next(alone), *map(next, hosts)
    for name, x in whole.items():
      np.testing.assert_array_equal(x, parts[0][name] + parts[1][name])
    assert not parts[0]['encoder_input_tokens'][16:].any()
    assert parts[0]['encoder_input_tokens'][:16].any(1).all()


def test_hosts_that_share_rows_read_the_same_and_one_saves_its_position(monkeypatch):
  hyperprompt_tasks.use_vocabulary('bytes')
  rows = {host: frozenset({range(32)}) for host in (0, 1)}
  monkeypatch.setattr(Partitioner, 'rows_of_hosts', lambda self, batch_size: rows)
  assert stream.default_num_shards(Partitioner(), 32) == 1
  first = batches('hp_builtin_first')
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  second = batches('hp_builtin_first')
  assert [*first.own] == [0] and [*second.own] == []
  np.testing.assert_array_equal(
    next(first)['encoder_input_tokens'], next(second)['encoder_input_tokens']
  )


def test_an_epoch_in_shards_has_every_example_once():
  hyperprompt_tasks.use_vocabulary('bytes')
  name, size = small_tasks.mixture(64, shuffles=True), 64
  split = seqio.MixtureRegistry.get(name).get_dataset(
    None, 'train', shuffle=False, num_epochs=1
  )
  texts = [bytes(e['inputs'].astype(np.uint8)) for e in split.as_numpy_iterator()]
  stream = batches(name, num_shards=4)
  read = [
    bytes(row[row > 0].astype(np.uint8))
    for batch in itertools.islice(stream, size // 32)
    for row in batch['encoder_input_tokens']
  ]
  assert len(set(texts)) == size
  assert collections.Counter(read) == collections.Counter(texts)


@pytest.mark.parametrize(
  ('num_shards', 'message'),
  [
    (5, 'NUM_DATA_SHARDS=5 does not divide BATCH_SIZE=32'),
    (0, 'NUM_DATA_SHARDS=0 does not divide BATCH_SIZE=32'),
  ],
)
def test_shards_that_cannot_be(num_shards, message):
  with pytest.raises(UserError, match=message):
    batches('hp_builtin', num_shards=num_shards)


def test_a_task_with_fewer_examples_than_shards_is_named():
  size = seqio.TaskRegistry.get('hp_builtin_first').num_input_examples('train')
  with pytest.raises(UserError, match=rf'hp_builtin_first has {size} training examples'):
    batches('hp_builtin_first', batch_size=2 * size, num_shards=2 * size)


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
  first, again, other = (
    list(itertools.islice(batches(tiny_run.TWO_TASKS, seed=seed), 3)) for seed in (0, 0, 1)
  )
  for a, b in zip(first, again, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
  assert not np.array_equal(
    first[0]['encoder_input_tokens'], other[0]['encoder_input_tokens']
  )
  task_list = hyperprompt_tasks.task_list('hp_builtin')
  tasks = {task_list[i] for b in first for i in b['task_ids'][:, 0]}
  assert tasks == {'copy', 'first'}
  for row, task_id in zip(
    first[0]['encoder_input_tokens'], first[0]['task_ids'], strict=True
  ):
    assert vocabulary.decode(row.tolist()).startswith(task_list[task_id[0]] + ':')


def test_a_mixture_without_the_split_is_named():
  with pytest.raises(ValueError, match='no split test; it has train, validation'):
    datasets.check_mixture('hp_builtin', 'test')


@pytest.mark.parametrize('is_cached', [False, True])
def test_split_rows_come_in_order_as_the_converter_makes_them(is_cached, tmp_path):
  hyperprompt_tasks.use_vocabulary('bytes')
  lengths = {'inputs': 12, 'targets': 4}  # some examples are longer
  rows = datasets.split_rows(
    tiny_run.TWO_TASKS,
    access.Access(lengths, cache=cache.Cache(str(tmp_path)) if is_cached else None),
    limit=50,
  )
  assert bool(cache.Cache(str(tmp_path)).entries()) == is_cached
  assert set(rows) == {'hp_builtin_copy', 'hp_builtin_first'}
  assert [len(of_task) for of_task in rows.values()] == [50, 50]
  task = seqio.TaskRegistry.get('hp_builtin_copy')
  examples = task.get_dataset(lengths, 'validation', shuffle=False).take(50)
  converter = features.ConditionedEncDecFeatureConverter(apply_length_check=False)
  wanted = next(converter(examples, lengths).batch(50).as_numpy_iterator())
  assert (wanted['encoder_input_tokens'] > 0).all(1).any()
  chosen = np.array([7, 49, 0])
  batch = rows['hp_builtin_copy'].batch(chosen)
  assert batch.keys() == wanted.keys()
  for name, values in batch.items():
    assert values.dtype == wanted[name].dtype
    np.testing.assert_array_equal(values, wanted[name][chosen], err_msg=name)


@pytest.mark.parametrize(
  ('longest', 'wanted'), [(0, 64), (1, 64), (64, 64), (65, 128), (129, 200), (200, 200)]
)
def test_padding_is_cut_to_a_power_of_two(longest, wanted):
  inputs = np.zeros((3, 200), np.int32)
  inputs[1, :longest] = 7
  targets = np.ones((3, 9), np.int32)
  batch = {'encoder_input_tokens': inputs, 'decoder_target_tokens': targets}
  cut = features.cut_padding(batch)
  assert cut['encoder_input_tokens'].shape == (3, wanted)
  assert cut['encoder_input_tokens'].sum() == inputs.sum()
  assert cut['decoder_target_tokens'] is targets
