"""The position in the training data, which TensorFlow reads."""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from etils import epath

from hyperprompt_jax.checkpoints import damage, iterator
from tools.fuzz.case import Target

_FILES = ('shard_0.index', 'shard_0.data-00000-of-00001')


def _reader() -> Iterator:
  return iter(tf.data.Dataset.range(100).shuffle(8, seed=0).repeat().batch(2))


def _seeds() -> Iterator[bytes]:
  with tempfile.TemporaryDirectory() as folder:
    reader = _reader()
    next(itertools.islice(reader, 3, None))
    iterator.IteratorHandler().save(epath.Path(folder), iterator.IteratorSave({0: reader}))
    for number, name in enumerate(_FILES):
      yield bytes([number]) + (pathlib.Path(folder) / name).read_bytes()


SEEDS = tuple(_seeds())


def _run(case: bytes, folder: pathlib.Path) -> None:
  for number, name in enumerate(_FILES):
    (folder / name).write_bytes(SEEDS[number][1:])
  (folder / _FILES[case[0] % 2 if case else 0]).write_bytes(case[1:])
  reader = _reader()
  with damage.reading('/checkpoints/4'):
    iterator.IteratorHandler().restore(
      epath.Path(folder), iterator.IteratorRestore({0: reader})
    )
  # What was accepted is the position that was saved.
  expected = _reader()
  next(itertools.islice(expected, 3, None))
  assert next(reader).numpy().tolist() == next(expected).numpy().tolist()


TARGET = Target(SEEDS, _run, prefix=1)
