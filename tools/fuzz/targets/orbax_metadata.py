"""`_METADATA` of our checkpoints and of T5X's, which says which arrays there are."""

import pathlib
import shutil
import tempfile

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from hyperprompt_jax.checkpoints import source
from tools.fuzz.case import Target

_TREE = {
  'encoder': {'layers': {'scale': np.ones((2, 3), 'f4')}},
  'method': {'prompts': np.ones((2, 2), 'f4')},
}


_FOLDER = tempfile.TemporaryDirectory()
# An item of a checkpoint. Read only.
ITEM = pathlib.Path(_FOLDER.name) / 'params'
with ocp.StandardCheckpointer() as checkpointer:
  checkpointer.save(ITEM, _TREE)


def _run(case: bytes, folder: pathlib.Path) -> None:
  item = folder / 'params'
  if not item.exists():
    shutil.copytree(ITEM, item)
  (item / '_METADATA').write_bytes(case)
  for array in source._read_orbax_folder(epath.Path(item)).values():
    array.read()


WORDS = (b'"key"', b'"value_type"', b'"use_zarr3"', b'..', b'encoder', b'layers')
SEEDS = ((ITEM / '_METADATA').read_bytes(),)
TARGET = Target(SEEDS, _run, WORDS, is_json=True)
