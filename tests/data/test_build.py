"""Materialised examples are SeqIO's own, and change with whatever they depend on."""

import functools
import json
import pathlib

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf

import hyperprompt_tasks
from hyperprompt_jax.data import build, digests
from hyperprompt_jax.data.cache import Cache
from tests.data.built import LENGTHS, TEXTS, identity, loud, made, rows_of, task
from tests.tasks.conftest import OFFICIAL, write_lines

SENTENCEPIECE = pathlib.Path(seqio.__file__).parent.joinpath(
  'test_data/sentencepiece/sentencepiece.model'
)


@pytest.fixture(autouse=True)
def _bytes():
  hyperprompt_tasks.use_vocabulary('bytes')


def endless(split, shuffle_files=False, seed=None):
  return rows_of(TEXTS, split).repeat()


@seqio.map_over_dataset(num_seeds=1)
def noisy(row, seed):
  noise = tf.random.stateless_uniform([], seed, 0, 10**6, tf.int32)
  return {**row, 'inputs': tf.strings.join([row['inputs'], tf.strings.as_string(noise)])}


@seqio.map_over_dataset
def nested(row):
  return {**row, 'more': {'a': row['inputs']}}


def at_most(dataset, sequence_length):
  return dataset.map(
    lambda row: {**row, 'inputs': row['inputs'][: sequence_length['inputs'] // 2]}
  )


def check_against_seqio(of_task, folder, split, **options):
  """Compares every feature of every example with what SeqIO's pipeline gives."""
  examples = made(of_task, folder, split, all_features=True, **options)
  dataset = of_task.get_dataset(
    LENGTHS, split=split, shuffle=False, use_cached=options.get('use_cached', False)
  )
  number = -1
  for number, row in enumerate(dataset.as_numpy_iterator()):
    index = np.array([number])
    for feature, limit in LENGTHS.items():
      assert examples.tokens(feature, index, limit)[0].tolist() == row[feature].tolist()
      assert examples.lengths(feature, index, limit) == len(row[feature])
    assert examples.task_ids(index).tolist() == row['task_ids'].tolist()
    for feature in row.keys() - LENGTHS.keys():
      value = examples.columns.values(feature, index).rows()[0]
      np.testing.assert_array_equal(np.asarray(value), np.asarray(row[feature]))
  assert number + 1 == len(examples) > 0


SUPER_GLUE = [
  name
  for name in seqio.TaskRegistry.names()
  if name.startswith('hp_super_glue') and '_ax' not in name
]


@pytest.fixture(scope='module')
def sentencepiece_model(tmp_path_factory):
  """A SentencePiece model that can write the labels, trained on the tests' own rows."""
  prefix = tmp_path_factory.mktemp('vocabulary') / 'pieces'
  labels = ['True False choice1 choice2 entailment not_entailment contradiction neutral']
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([*map(json.dumps, OFFICIAL.values()), *labels] * 5),
    model_prefix=str(prefix),
    vocab_size=150,
    hard_vocab_limit=False,
    minloglevel=2,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
  )
  return f'{prefix}.model'


@pytest.mark.parametrize('name', SUPER_GLUE)
def test_super_glue_is_what_seqio_makes_of_it(
  name, sentencepiece_model, tmp_path, monkeypatch
):
  hyperprompt_tasks.use_vocabulary(sentencepiece_model)
  for folder, rows in OFFICIAL.items():
    for file in ('train.jsonl', 'val.jsonl'):
      (tmp_path / 'files').mkdir(exist_ok=True)
      write_lines(tmp_path / 'files' / folder / file, rows)
  monkeypatch.setenv('SUPER_GLUE_DIR', str(tmp_path / 'files'))
  of_task = seqio.TaskRegistry.get(name)
  for split in of_task.splits:
    if split != 'test':
      check_against_seqio(of_task, tmp_path / 'cache', split)


def test_rows_in_memory_are_what_seqio_makes_of_them(tmp_path):
  check_against_seqio(seqio.TaskRegistry.get('hp_builtin_sort'), tmp_path, 'validation')


@pytest.mark.parametrize(
  'of_task',
  [
    task(),
    task(loud),
    task(after=[at_most]),
    task(after=[seqio.preprocessors.truncate_inputs_left]),
  ],
  ids=['plain', 'a step before', 'lengths', 'the left'],
)
def test_any_task_is_what_seqio_makes_of_it(of_task, tmp_path):
  check_against_seqio(of_task, tmp_path, 'train')


@pytest.mark.parametrize(
  ('of_task', 'reason'),
  [
    (task(data=endless), 'hp_test_built is endless'),
    (task(noisy), 'hp_test_built makes other examples each time that it is read'),
    (task(nested), 'hp_test_built has a feature more that is no scalar or vector'),
  ],
)
def test_what_cannot_be_materialised_says_why(of_task, reason, tmp_path):
  with pytest.raises(build.NotMaterialised, match=reason):
    made(of_task, tmp_path, all_features=True)
  assert Cache(str(tmp_path)).entries() == []


def test_tasks_over_the_bound_are_not_kept(tmp_path):
  with pytest.raises(build.NotMaterialised, match='more than the 500 bytes of the cache'):
    made(task(), tmp_path, max_bytes=500)
  assert not [path for path in tmp_path.rglob('*') if path.name == 'examples.bin']


# ---- What an entry depends on ----


def changed(first, second):
  return {
    name
    for name in ('rows', 'definition', 'vocabulary', 'packages')
    if getattr(first, name) != getattr(second, name)
  }


def test_another_row_step_or_vocabulary_is_another_identity(tmp_path):
  first = identity(task(), tmp_path)
  other_rows = task(data=functools.partial(rows_of, [*TEXTS[:-1], 'another']))
  assert changed(first, identity(other_rows, tmp_path)) == {'rows'}
  assert changed(first, identity(task(loud), tmp_path)) == {'definition'}
  hyperprompt_tasks.use_vocabulary(str(SENTENCEPIECE))
  assert changed(first, identity(task(), tmp_path)) == {'vocabulary'}


def constants(tmp_path, factor):
  """A step that calls a function that has a constant, as an edit of a file leaves it."""
  path = tmp_path / f'steps_{factor}.py'
  path.write_text(
    f'FACTOR = {factor}\ndef twice(x):\n  return x * FACTOR\n'
    'def step(dataset):\n  return dataset.map(lambda row: twice(row))\n'
  )
  scope = {'__name__': 'steps'}
  exec(compile(path.read_text(), str(path), 'exec'), scope)
  return scope['step']


def test_an_edit_of_what_a_step_calls_is_another_definition(tmp_path):
  first, again, edited = (
    identity(task(constants(tmp_path, factor)), tmp_path) for factor in (2, 2, 3)
  )
  assert changed(first, again) == set()
  assert changed(first, edited) == {'definition'}


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
  path = tmp_path / 'rows.txt'
  path.write_text('one\n')
  known = digests.FileDigests(str(tmp_path / 'files.json'))
  first = known.digest(str(path))
  known.write()
  again = digests.FileDigests(str(tmp_path / 'files.json'))
  assert again.digest(str(path)) == first
  path.write_text('two\n')
  assert again.digest(str(path)) != first


def write_seqio_cache(of_task, split, folder, count):
  """Writes the first examples as `seqio_cache_tasks` does, which needs Apache Beam."""
  rows = of_task.preprocess_precache(of_task.source.get_dataset(split, shuffle=False))
  prefix = seqio.utils.get_cached_tfrecord_prefix(str(folder), split)
  with tf.io.TFRecordWriter(f'{prefix}-00000-of-00001') as writer:
    for row in rows.take(count):
      writer.write(seqio.utils.dict_to_tfexample(row).SerializeToString())
  features = {
    feature: {'shape': spec.shape.as_list(), 'dtype': spec.dtype.name}
    for feature, spec in rows.element_spec.items()
  }
  info = {'num_shards': 1, 'seqio_version': seqio.__version__, 'features': features}
  for path, contents in (
    (seqio.utils.get_cached_info_path, info),
    (seqio.utils.get_cached_stats_path, {'examples': count}),
  ):
    pathlib.Path(path(str(folder), split)).write_text(json.dumps(contents))
  (folder / 'COMPLETED').touch()


def test_seqios_own_cache_is_read(tmp_path, monkeypatch):
  of_task = seqio.TaskRegistry.get('hp_builtin_first')
  folder = tmp_path / 'seqio' / seqio.utils.get_task_dir_from_name(of_task.name)
  folder.mkdir(parents=True)
  write_seqio_cache(of_task, 'validation', folder, 50)
  monkeypatch.setattr(of_task, '_cache_dir', str(folder))
  check_against_seqio(of_task, tmp_path / 'ours', 'validation', use_cached=True)
  assert len(made(of_task, tmp_path / 'ours', 'validation', use_cached=True)) == 50
