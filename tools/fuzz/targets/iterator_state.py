"""The position in the training data: by index, and of TensorFlow's iterators."""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from etils import epath

from hyperprompt_jax.checkpoints import damage
from hyperprompt_jax.data import indexed, stream
from hyperprompt_jax.data.located import Located
from tools.fuzz.case import Target

_FILES = (indexed.FILE, 'shard_0.index', 'shard_0.data-00000-of-00001')


def _iterator() -> Iterator:
  return iter(tf.data.Dataset.range(100).shuffle(8, seed=0).repeat().batch(2))


class _Numbers:
  """Batches that are the numbers of their draws."""

  def at(self, start: int) -> indexed.Placed:
    """Returns the batch of the two draws from a number on."""
    pair = np.array([start, start + 1])
    return indexed.Placed(start, Located(pair, pair, pair, pair, {}), pair)

  def features(self, placed: indexed.Placed, own: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns the draws."""
    del own
    return {'draws': placed.row}


def _indexed() -> indexed.IndexedBatches:
  batches = _Numbers()
  return indexed.IndexedBatches(batches, np.ones(2, bool), saves=True)  # type: ignore[arg-type]


def _seeds() -> Iterator[bytes]:
  with tempfile.TemporaryDirectory() as folder:
    by_index, iterator = _indexed(), _iterator()
    for reader in (by_index, iterator):
      next(itertools.islice(reader, 3, None))
    by_index.save(epath.Path(folder))
    by_index.close()
    stream.save_states({0: iterator}, epath.Path(folder))
    for number, name in enumerate(_FILES):
      yield bytes([number]) + (pathlib.Path(folder) / name).read_bytes()


SEEDS = tuple(_seeds())


def _run(case: bytes, folder: pathlib.Path) -> None:
  for number, name in enumerate(_FILES):
    (folder / name).write_bytes(SEEDS[number][1:])
  (folder / _FILES[case[0] % len(_FILES) if case else 0]).write_bytes(case[1:])
  by_index, iterator = _indexed(), _iterator()
  with damage.reading('/checkpoints/4'):
    by_index.restore(epath.Path(folder))
    stream.restore_states({0: iterator}, epath.Path(folder))
  # A position that is accepted is the one that was saved.
  wanted = next(itertools.islice(_iterator(), 4, None)).numpy().tolist()
  assert next(iterator).numpy().tolist() == wanted
  assert next(by_index)['draws'].tolist() == [8, 9]
  by_index.close()


TARGET = Target(SEEDS, _run, prefix=1)
