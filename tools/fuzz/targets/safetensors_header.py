"""Headers of safetensors, and whole files."""

import pathlib

from hyperprompt_jax.checkpoints.formats import huggingface
from tools.fuzz.case import Target

_BYTES = bytes(range(64))
# A header that gets its length, or `r` and a whole file.
_HEADER = (
  b'h{"shared.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}, '
  b'"lm_head.weight": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [32, 48]}, '
  b'"x": {"dtype": "F16", "shape": [8], "data_offsets": [48, 64]}}'
)
SEEDS = (
  _HEADER,
  b'h{"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, '
  b'"__metadata__": {"format": "pt"}}',
  b'r' + len(_HEADER[1:]).to_bytes(8, 'little') + _HEADER[1:] + _BYTES,
  b'r' + (2**60).to_bytes(8, 'little') + _HEADER[1:],
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  content = case[1:]
  if case[:1] == b'h':
    content = len(content).to_bytes(8, 'little') + content + _BYTES
  path = folder / huggingface.WEIGHTS_FILE
  path.write_bytes(content)
  for name, array in huggingface.open_file(path).items():
    assert array.nbytes <= len(_BYTES) or array.nbytes <= len(content), name
    array.read()


WORDS = (b'"F64"', b'"F8_E4M3"', b'"I64"', b'"shape"', b'"data_offsets"', b'[1, 16]')
TARGET = Target(SEEDS, _run, WORDS, is_json=True, prefix=1)
