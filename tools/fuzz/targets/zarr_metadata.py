"""`.zarray` of a T5X checkpoint: shape, chunks and dtype of an array."""

import pathlib
import tempfile

from hyperprompt_jax.checkpoints.source import open_source
from tools.fuzz.case import Target
from tools.fuzz.targets import t5x_msgpack

_FILE = 'target.token_embedder.embedding/.zarray'


def _seeds() -> tuple[bytes, ...]:
  with tempfile.TemporaryDirectory() as folder:
    t5x_msgpack.make(pathlib.Path(folder))
    return ((pathlib.Path(folder) / _FILE).read_bytes(),)


def _run(case: bytes, folder: pathlib.Path) -> None:
  t5x_msgpack.make(folder)
  (folder / _FILE).write_bytes(case)
  for array in open_source(str(folder)).arrays.values():
    array.read()


WORDS = (b'"shape"', b'"chunks"', b'"<f4"', b'"|O"', b'"<i8"', b'"zstd"', b'null', b'"F"')
TARGET = Target(_seeds(), _run, WORDS, is_json=True)
