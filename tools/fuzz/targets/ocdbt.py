"""The binary files of a checkpoint's database, which TensorStore reads."""

import pathlib
import shutil

from etils import epath

from hyperprompt_jax.checkpoints import source
from tools.fuzz.case import Target
from tools.fuzz.targets import orbax_metadata


def _binaries(item: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in item.rglob('*') if 'manifest' in p.name or p.parent.name == 'd')


SEEDS = tuple(
  bytes([number]) + path.read_bytes()
  for number, path in enumerate(_binaries(orbax_metadata.ITEM))
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  damaged = folder / 'damaged'
  shutil.rmtree(damaged, ignore_errors=True)
  shutil.copytree(orbax_metadata.ITEM, damaged)
  files = _binaries(damaged)
  files[case[0] % len(files) if case else 0].write_bytes(case[1:])
  for array in source._read_orbax_folder(epath.Path(damaged)).values():
    array.read()


TARGET = Target(SEEDS, _run, prefix=1)
