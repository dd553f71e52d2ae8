"""T5X's checkpoints, of both its formats, and Orbax's in general.

Native: a folder with a msgpack file `checkpoint`, which holds the tree of the training
state, and beside it one zarr array for each parameter (T5X, `t5x/checkpoints.py`). Orbax:
a folder `state` with one database for all arrays.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.serialization
import numpy as np
import tensorstore as ts
from flax import traverse_util

from hyperprompt_jax.checkpoints.lazy import LazyArray, in_memory
from hyperprompt_jax.checkpoints.storage import Folder, check_name, opened
from hyperprompt_jax.errors import UserError, reason_of, shown
from hyperprompt_jax.runtime import plain_json

MSGPACK_FILE = 'checkpoint'
ORBAX_FILE = '_METADATA'
ORBAX_ITEM = 'state'
VERSION = 3
# T5X's: parameters are read in chunks of at most so many bytes.
_CHUNK_BYTES = 64 * 2**20
# How the msgpack file of T5X's first Orbax checkpoints names an array's folder.
_PLACEHOLDER = 'PLACEHOLDER://'


def read_native(folder: Folder, contents: bytes) -> tuple[dict[str, LazyArray], int]:
  """Opens the parameters of a native T5X checkpoint, and reads its step.

  Args:
    folder: is the checkpoint's folder.
    contents: are the bytes of its msgpack file.

  Raises:
    UserError: if the file is no such checkpoint, or an array is missing or damaged.
  """
  where = f'{folder}/{MSGPACK_FILE}'
  try:
    tree = flax.serialization.msgpack_restore(contents)
  except Exception as error:  # msgpack raises many types for damaged input
    raise UserError(
      f'{where} is damaged, or no T5X checkpoint: {reason_of(error)}'
    ) from error
  if isinstance(tree, dict) and isinstance(tree.get('optimizer'), dict):
    tree = tree['optimizer']
  if not isinstance(tree, dict) or not isinstance(tree.get('target'), dict):
    raise UserError(f'{where} is no T5X checkpoint: it has no parameters (`target`)')
  target = traverse_util.flatten_dict(tree['target'], is_leaf=_is_spec)
  leaves = _by_name(where, target.items())
  arrays = _open_all(
    folder, {name: _read_leaf(folder, leaf) for name, leaf in leaves.items()}
  )
  state = tree.get('state')
  step = state.get('step', 0) if isinstance(state, dict) else 0
  if isinstance(step, dict | str):
    step = opened(f'{folder}: step', _read_leaf(folder, step)).read()
  return arrays, _step(where, step)


def _is_spec(_: Any, node: Any) -> bool:
  """Tells whether a node is TensorStore's specification of an array, not a subtree."""
  return {'driver', 'kvstore', 'metadata'} <= set(node)


def _read_leaf(folder: Folder, leaf: Any) -> Any:
  """An array that the msgpack file itself holds, or a future of one beside it."""
  if isinstance(leaf, dict):
    # Older versions of TensorStore have the path at the top.
    kvstore = leaf.get('kvstore')
    path = leaf.get('path', '')
    if isinstance(kvstore, dict):
      path = kvstore.get('path', path)
    check_name(str(folder), path)
    return folder.open_zarr(path.strip('/'), driver=str(leaf.get('driver')))
  if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
    return folder.open_zarr(leaf.removeprefix(_PLACEHOLDER))
  if not isinstance(leaf, np.ndarray | np.generic | int | float):
    raise UserError(f'{folder}/{MSGPACK_FILE} has {shown(leaf)} where an array should be')
  return np.asarray(leaf)


def _by_name(where: str, leaves: Iterable[tuple[tuple, Any]]) -> dict[str, Any]:
  """Keys the leaves of a tree by their paths, `a/b/c`."""
  named = {}
  for path, leaf in leaves:
    for key in path:
      check_name(where, key)
    name = '/'.join(path)
    if name in named:
      raise UserError(f'{where} is damaged: it has {name} twice')
    named[name] = leaf
  return named


def _step(where: str, value: Any) -> int:
  """Checks the step that a file gives."""
  step = np.asarray(value)
  if step.size != 1 or step.dtype.kind not in 'iu' or step.item() < 0:
    raise UserError(f'{where} is damaged: its step is {shown(value)}')
  return int(step.item())


def _open_all(folder: Folder, leaves: Mapping[str, Any]) -> dict[str, LazyArray]:
  return {
    path: in_memory(leaf)
    if isinstance(leaf, np.ndarray)
    else opened(f'{folder}: {path}', leaf)
    for path, leaf in leaves.items()
  }


def read_orbax(folder: Folder, metadata: bytes) -> dict[str, LazyArray]:
  """All arrays of one item of an Orbax checkpoint, by path.

  Args:
    folder: is the item's folder.
    metadata: are the bytes of its file `_METADATA`.

  Raises:
    UserError: if the file does not describe a tree, or an array is missing or damaged.
  """
  try:
    described = plain_json.parse(metadata)
    paths = [
      tuple(str(key['key']) for key in leaf['key_metadata'])
      for leaf in described['tree_metadata'].values()
      if leaf['value_metadata']['value_type'] not in ('None', 'Dict', 'List')
    ]
    driver = 'zarr3' if described.get('use_zarr3') else 'zarr'
    ocdbt = bool(described.get('use_ocdbt'))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{folder}/{ORBAX_FILE} is damaged: {reason_of(error)}') from error
  named = _by_name(f'{folder}/{ORBAX_FILE}', [(path, path) for path in paths])
  futures = {
    name: folder.open_zarr('.'.join(path), driver=driver, ocdbt=ocdbt)
    for name, path in named.items()
  }
  return _open_all(folder, futures)


def of_train_state(
  folder: Folder, arrays: Mapping[str, LazyArray]
) -> tuple[dict[str, LazyArray], int]:
  """The parameters and the step of the arrays of T5X's training state in a folder."""
  prefix = 'target/'
  params = {
    path.removeprefix(prefix): array
    for path, array in arrays.items()
    if path.startswith(prefix)
  }
  step = arrays.get('state/step')
  return params, _step(str(folder), step.read()) if step else 0


def write_native(
  folder: pathlib.Path, arrays: Mapping[str, LazyArray], step: int
) -> Iterator[str]:
  """Writes parameters as a native T5X checkpoint, one array after another.

  There is no optimizer state: T5X takes it from scratch with `fallback_to_scratch`.

  Args:
    folder: is empty.
    arrays: are keyed by their paths in the unrolled network.
    step: is the step that the checkpoint will have.

  Yields:
    The path of each array that is done.

  Raises:
    OSError: if the folder cannot be written, say because the disk is full.
  """
  specs = {}
  for path, array in arrays.items():
    name = f'target.{path.replace("/", ".")}'
    spec: dict[str, Any] = {
      'driver': 'zarr',
      'dtype': array.dtype.name,
      'kvstore': {'driver': 'file', 'path': name},
      'metadata': {
        'shape': list(array.shape),
        'chunks': _chunks(array),
        # gzip has a checksum, so that damage is found; its level costs time alone.
        'compressor': {'id': 'gzip', 'level': 1},
      },
    }
    at = {**spec['kvstore'], 'path': f'{folder / name}/'}
    # Written even if it is all zeros: readers take an absent chunk for a lost one.
    options = {'kvstore': at, 'store_data_equal_to_fill_value': True}
    whole = array.read()
    try:
      ts.open({**spec, **options}, create=True).result().write(whole).result()
    except ValueError as error:  # TensorStore has this type for all errors of the system
      raise OSError(reason_of(error)) from error
    specs[('target', *path.split('/'))] = spec
    yield path
  tree = traverse_util.unflatten_dict(specs)
  tree['state'] = {'step': np.int32(step)}
  contents = flax.serialization.msgpack_serialize({'version': VERSION, 'optimizer': tree})
  (folder / MSGPACK_FILE).write_bytes(contents)


def _chunks(array: LazyArray) -> list[int]:
  """Chunks of whole rows that divide the array, as large as may be."""
  if not array.shape:
    return []
  rows = array.shape[0]
  row_bytes = max(1, array.nbytes // max(rows, 1))
  parts = next(
    parts
    for parts in range(1, rows + 1)
    if rows % parts == 0 and (rows // parts * row_bytes <= _CHUNK_BYTES or parts == rows)
  )
  return [rows // parts, *array.shape[1:]]
