"""A SeqIO task of the tests, and its materialised examples."""

import functools

import seqio
import tensorflow as tf

from hyperprompt_jax.data import build, digests
from hyperprompt_jax.data.cache import Cache
from hyperprompt_jax.data.examples import Examples
from hyperprompt_tasks import preprocessors, registration

LENGTHS = {'inputs': 20, 'targets': 6}
TEXTS = [f'text {n} ' * (n % 5 + 1) for n in range(40)]


def rows_of(texts, split, shuffle_files=False, seed=None):
  del split, shuffle_files, seed
  return tf.data.Dataset.from_tensor_slices({'inputs': texts, 'targets': texts[::-1]})


@seqio.map_over_dataset
def loud(row):
  return {**row, 'inputs': tf.strings.upper(row['inputs'])}


_TEXT_ROWS = functools.partial(rows_of, TEXTS)


def task(*steps, data=_TEXT_ROWS, after=(), name='hp_test_built'):
  """A SeqIO task of the tests that is registered nowhere."""
  return seqio.Task(
    name,
    source=seqio.FunctionDataSource(data, splits=['train']),
    preprocessors=[
      *steps,
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
      *after,
      functools.partial(preprocessors.add_task_ids, task_id=3),
    ],
    output_features=registration.OUTPUT_FEATURES,
    metric_fns=[],
    shuffle_buffer_size=100,
  )


def made(of_task, folder, split='train', **options):
  options.setdefault('lengths', LENGTHS)
  max_bytes = options.pop('max_bytes', 10**9)
  cache = Cache(str(folder), max_bytes)
  entries = build.materialise([of_task], build.Request(split, **options), cache)
  return Examples.open(entries[of_task.name])


def identity(of_task, folder, **options):
  known = digests.FileDigests(str(folder / 'files.json'))
  return digests.identity(of_task, 'train', known, use_cached=False, **options)
