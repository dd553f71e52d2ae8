"""T5X's file `checkpoint`, beside valid arrays."""

import pathlib
import tempfile

import flax.serialization
import numpy as np

from hyperprompt_jax.checkpoints.formats import t5x
from hyperprompt_jax.checkpoints.lazy import in_memory
from hyperprompt_jax.checkpoints.source import open_source
from tools.fuzz.case import Target

_ARRAYS = {
  'encoder/encoder_norm/scale': np.ones(4, 'f4'),
  'token_embedder/embedding': np.ones((3, 4), 'f4'),
}


def make(folder: pathlib.Path) -> None:
  """Writes a checkpoint unless there is one."""
  if not (folder / t5x.MSGPACK_FILE).exists():
    arrays = {path: in_memory(array) for path, array in _ARRAYS.items()}
    assert len(list(t5x.write_native(folder, arrays, 5))) == len(arrays)


def _seeds() -> list[bytes]:
  with tempfile.TemporaryDirectory() as folder:
    make(pathlib.Path(folder))
    first = (pathlib.Path(folder) / t5x.MSGPACK_FILE).read_bytes()
  tree = flax.serialization.msgpack_restore(first)
  target = tree['optimizer']['target']
  target['token_embedder']['embedding'] = np.ones((3, 4), 'f4')
  inside = flax.serialization.msgpack_serialize(tree)
  name = 'PLACEHOLDER://target.token_embedder.embedding'
  state = {
    'target': {'token_embedder': {'embedding': name}},
    'state': {'step': np.array([7])},
  }
  chunked = {
    'target': {
      'a': {
        '__msgpack_chunked_array__': True,
        'shape': {'0': 2, '1': 2},
        'chunks': {'0': np.ones(3), '1': np.ones(1)},
      }
    }
  }
  return [first, inside, *map(flax.serialization.msgpack_serialize, (state, chunked))]


def _run(case: bytes, folder: pathlib.Path) -> None:
  make(folder)
  (folder / t5x.MSGPACK_FILE).write_bytes(case)
  source = open_source(str(folder))
  assert isinstance(source.step, int) and source.step >= 0
  for array in source.arrays.values():
    assert array.read().dtype == array.dtype


WORDS = (
  *(
    b'\xa6target',
    b'\xa5state',
    b'\xa4step',
    b'\xa9optimizer',
    b'\xa7kvstore',
    b'\xa4path',
  ),
  *(
    b'\xa6driver',
    b'\xa4zarr',
    b'\xa4json',
    b'\xa5array',
    b'\xa8metadata',
    b'\xa2..',
    b'\x80',
  ),
  *(b'\xc0', b'\xdf\xff\xff\xff\xff', b'\xdd\xff\xff\xff\xff', b'\xc6\xff\xff\xff\xff'),
  *(b'\xd9\x20', b'\x93', b'\xc7\x10\x01', b'\xcf' + b'\xff' * 8, b'object', b'float32'),
)
TARGET = Target(_seeds(), _run, WORDS)
