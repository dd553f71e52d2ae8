"""T5X's checkpoints: both formats, and errors about faulty ones."""

import dataclasses
import json
import pathlib
import shutil

import flax.serialization
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import traverse_util

from hyperprompt_jax.checkpoints import lazy
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.stacking import layer_index
from tests import published


@pytest.fixture(scope='module')
def native(tmp_path_factory):
  """A native T5X checkpoint, which is read only."""
  return published.t5x(tmp_path_factory.mktemp('t5x'))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_native_checkpoint_comes_back_as_it_was(tmp_path, dtype):
  source = open_source(str(published.t5x(tmp_path, dtype=dtype)))
  assert (source.kind, source.step) == ('T5X', published.STEP)
  want = {
    p: x.astype(jnp.dtype(dtype)) for p, x in published.values(published.arrays()).items()
  }
  published.assert_same(published.values(source.arrays), want)
  assert source.backbone_config() == published.CONFIG


@pytest.mark.parametrize('stacked', [False, True])
@pytest.mark.parametrize(
  'options', [{}, {'use_ocdbt': False}, {'use_zarr3': True}], ids=str
)
def test_an_orbax_checkpoint_of_t5xs(tmp_path, options, stacked):
  source = open_source(str(published.t5x_orbax(tmp_path, stacked, **options)))
  assert (source.kind, source.step) == ('T5X Orbax', published.STEP)
  published.assert_same(
    published.values(source.arrays), published.values(published.arrays())
  )


def test_arrays_within_the_msgpack_file_and_other_spellings(native, tmp_path):
  """T5X keeps unpartitioned arrays in the file, and has had three ways to name a path."""
  folder = shutil.copytree(native, tmp_path / 'copy')
  contents = flax.serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  target = contents['optimizer']['target']
  kept = published.values(published.arrays())
  target['encoder']['encoder_norm']['scale'] = kept['encoder/encoder_norm/scale']
  spec = target['decoder']['decoder_norm']['scale']
  spec['path'] = spec['kvstore'].pop('path')
  spec['kvstore'] = {'driver': 'gfile'}
  spec = target['token_embedder']['embedding']
  spec['kvstore'] |= {'driver': 'gcs', 'bucket': 't5x-dummy-bucket'}
  contents['optimizer']['state']['step'] = np.array([1000])
  (folder / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(contents))
  source = open_source(str(folder))
  assert source.step == published.STEP
  published.assert_same(published.values(source.arrays), kept)


def test_t5xs_first_orbax_checkpoints(native, tmp_path):
  folder = shutil.copytree(native, tmp_path / 'copy')
  placeholders = traverse_util.unflatten_dict(
    {
      tuple(path.split('/')): f'PLACEHOLDER://target.{path.replace("/", ".")}'
      for path in published.arrays()
    }
  )
  state = {'target': placeholders, 'state': {'step': 5}}
  (folder / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(state))
  source = open_source(str(folder))
  assert source.step == 5
  published.assert_same(
    published.values(source.arrays), published.values(published.arrays())
  )


def test_a_part_of_an_array_is_read_by_itself(native):
  array = open_source(str(native)).arrays['token_embedder/embedding']
  np.testing.assert_array_equal(
    array.read((slice(5, 9), slice(3, None))), array.read()[5:9, 3:]
  )


@pytest.mark.parametrize('rows', [380, 384, 400])
@pytest.mark.parametrize('axis', [0, 1])
def test_rows_of_the_vocabulary(rows, axis):
  whole = np.random.default_rng(0).normal(size=(384, 3)).astype('float32')
  whole = whole if axis == 0 else whole.T
  resized = lazy.with_rows(lazy.in_memory(whole), axis, rows)
  got = resized.read()
  assert got.shape == resized.shape and got.dtype == np.float32
  kept = [slice(None)] * 2
  kept[axis] = slice(min(rows, 384))
  np.testing.assert_array_equal(got[tuple(kept)], whole[tuple(kept)])
  for row in range(384, rows):
    np.testing.assert_allclose(got.take(row, axis), whole.mean(axis), rtol=1e-6)
  part = [slice(1, 3)] * 2
  part[axis] = slice(382, rows)
  np.testing.assert_array_equal(resized.read(tuple(part)), got[tuple(part)])


# ---- Faulty checkpoints ----


@pytest.fixture
def copy(native, tmp_path):
  return shutil.copytree(native, tmp_path / native.name)


def refusal(folder, *, read=False) -> str:
  with pytest.raises(UserError) as error:
    source = open_source(str(folder))
    source.backbone_config()
    if read:
      published.values(source.arrays)
  return str(error.value)


EMBEDDING = 'target.token_embedder.embedding'


def test_an_array_that_is_gone(copy):
  shutil.rmtree(copy / EMBEDDING)
  line = refusal(copy)
  assert 'token_embedder/embedding is missing or damaged' in line and '\n' not in line


def test_a_chunk_that_is_gone_is_not_read_as_zeros(copy):
  (copy / EMBEDDING / '0.0').unlink()
  line = refusal(copy, read=True)
  assert 'token_embedder/embedding is incomplete or damaged' in line
  assert 'is missing' in line and '\n' not in line


@pytest.mark.parametrize('at', [0, 1, 100, 5_000, -100, -20, -1])
@pytest.mark.parametrize('how', ['truncated', 'flipped'])
def test_a_chunk_that_is_damaged_is_refused_or_read_right(copy, how, at):
  path = copy / EMBEDDING / '0.0'
  whole = bytearray(path.read_bytes())
  damaged = whole[:at]
  if how == 'flipped':
    damaged, whole[at] = whole, whole[at] ^ 1
  path.write_bytes(damaged)
  try:
    got = open_source(str(copy)).arrays['token_embedder/embedding'].read()
  except UserError as error:
    assert 'token_embedder/embedding is incomplete or damaged' in str(error)
  else:
    # What is behind the data, gzip's time stamp and checksum, may be gone.
    assert at in (1, -1, -20) or how == 'flipped'
    published.assert_same(
      {'': got}, {'': published.arrays()['token_embedder/embedding'].read()}
    )


@pytest.mark.parametrize(
  'content', [b'', b'\xc1', b'\x80', b'\x93\x01\x02\x03', b'abc' * 9]
)
def test_a_msgpack_file_that_is_none(copy, content):
  (copy / 'checkpoint').write_bytes(content)
  line = refusal(copy)
  assert '\n' not in line and str(copy) in line


def test_a_truncated_msgpack_file(copy):
  path = copy / 'checkpoint'
  path.write_bytes(path.read_bytes()[:200])
  assert f'{path} is damaged' in refusal(copy)


@pytest.mark.parametrize('name', ['../elsewhere', 'a/../../b'])
def test_an_array_elsewhere(copy, name):
  contents = flax.serialization.msgpack_restore((copy / 'checkpoint').read_bytes())
  contents['optimizer']['target']['token_embedder']['embedding']['kvstore']['path'] = name
  (copy / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(contents))
  assert 'outside of it: not read' in refusal(copy)


@pytest.mark.parametrize(('edit', 'message'), published.DIFFERENCES)
def test_missing_extra_and_misshapen_arrays_are_listed(tmp_path, edit, message):
  arrays = published.arrays()
  edit(arrays)
  lines = refusal(published.t5x(tmp_path, arrays)).splitlines()
  assert '1 parameter(s) differ' in lines[0]
  assert lines[1:] == [f'  {message}']


def in_scalable_t5(arrays, config):
  """The arrays as T5X's scalable_t5 has them: layers on axis 1, heads on their own."""
  stacked = {}
  for path, array in arrays.items():
    stacked_path, number = layer_index(path)
    x = array.read()
    if 'attention/' in path:
      heads = (config.num_heads, config.head_dim)
      x = x.reshape(*heads, -1) if '/out/' in path else x.reshape(-1, *heads)
    if number is None:
      stacked[path] = x
    else:
      side = path.split('/')[0]
      stacked.setdefault(stacked_path.replace('/layers/', f'/{side}/'), []).append(x)
  return {
    path: lazy.in_memory(np.stack(x, axis=1) if isinstance(x, list) else x)
    for path, x in stacked.items()
  }


def test_scanned_layers_as_scalable_t5_has_them(tmp_path):
  config = dataclasses.replace(published.CONFIG, position_bias_per_layer=True)
  arrays = published.arrays(config)
  source = open_source(str(published.t5x(tmp_path, in_scalable_t5(arrays, config))))
  assert source.backbone_config() == config
  published.assert_same(published.values(source.arrays), published.values(arrays))
  # A part is read by itself, as devices read their own.
  path = 'decoder/layers_1/self_attention/out/kernel'
  part = (slice(3, 7), slice(2, 9))
  np.testing.assert_array_equal(source.arrays[path].read(part), arrays[path].read()[part])


@pytest.mark.parametrize(
  ('vocabulary', 'name'),
  [
    ('@seqio.ByteVocabulary()', 'bytes'),
    ('@seqio.SentencePieceVocabulary()', 'gs://b/pieces.model:300'),
  ],
)
def test_the_gin_file_that_t5x_writes_beside_its_checkpoints(tmp_path, vocabulary, name):
  checkpoint = published.t5x(tmp_path)
  assert open_source(str(checkpoint)).vocabulary is None
  (tmp_path / 'config.gin').write_text(
    'from t5x.examples.t5 import network\nimport seqio\n'
    f'VOCABULARY = {vocabulary}\n'
    "seqio.SentencePieceVocabulary.sentencepiece_model_file = 'gs://b/pieces.model'\n"
    'seqio.SentencePieceVocabulary.extra_ids = 300\n'
    "network.T5Config.mlp_activations = ('silu', 'linear')\n"
    'network.T5Config.dropout_rate = %DROPOUT_RATE\n'
  )
  source = open_source(str(checkpoint))
  assert source.vocabulary == name
  activations = ('silu', 'linear')
  want = dataclasses.replace(published.CONFIG, mlp_activations=activations)
  assert source.backbone_config() == want


def test_a_folder_of_something_else(tmp_path, native):
  assert 'is no folder' in refusal(tmp_path / 'nothing')
  assert 'is no checkpoint: name a T5X checkpoint' in refusal(tmp_path)
  assert f'it has {native.name}: name one of them' in refusal(native.parent)
  (tmp_path / 'model.safetensors').touch()
  assert 'it has model.safetensors and no config.json' in refusal(tmp_path)


def test_orbax_metadata_that_is_none(tmp_path):
  folder = published.t5x_orbax(tmp_path)
  for content in ('', '{}', '{"tree_metadata": {"a": 1}}', json.dumps([1])):
    pathlib.Path(folder / 'state' / '_METADATA').write_text(content)
    line = refusal(folder)
    assert '_METADATA is damaged' in line or 'is no checkpoint' in line


# ---- Checkpoints of a stranger ----


def edit_tree(folder, change):
  path = folder / 'checkpoint'
  tree = flax.serialization.msgpack_restore(path.read_bytes())
  change(tree['optimizer'], tree['optimizer']['target']['token_embedder'])
  path.write_bytes(flax.serialization.msgpack_serialize(tree))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda top, embedder: top['state'].update(step='x'), "'x' where an array should be"),
    (
      lambda top, embedder: top['state'].update(step=np.ones(2)),
      'its step is array([1., 1.])',
    ),
    (lambda top, embedder: top['state'].update(step=-1), 'its step is -1'),
    (
      lambda top, embedder: embedder.update(embedding=None),
      'None where an array should be',
    ),
    (
      lambda top, embedder: embedder.update(embedding=['a'] * 3),
      'where an array should be',
    ),
    (
      lambda top, embedder: embedder.update(embedding=np.ones(3, int)),
      'dtype int64; expected floats',
    ),
    (
      lambda top, embedder: embedder['embedding'].update(driver='json'),
      "driver 'json' of an array",
    ),
    (
      lambda top, embedder: embedder['embedding'].update(kvstore={'path': 3}),
      'has the name 3 in it',
    ),
    (
      lambda top, embedder: top['target'].update(token_embedder={b'3': np.ones(3)}),
      "has the name b'3' in it",
    ),
    (
      lambda top, embedder: embedder.update({'\x1b[2J': np.ones(3)}),
      r"the name '\x1b[2J' in it",
    ),
    (
      lambda top, embedder: embedder.update({'x' * 300: np.ones(3)}),
      'in it, which is none: not read',
    ),
    (
      lambda top, embedder: top['target'].update({'token_embedder/embedding': np.ones(3)}),
      'it has token_embedder/embedding twice',
    ),
    (
      lambda top, embedder: embedder.update({'layers': {'a': np.ones((1_001, 0), 'f4')}}),
      'a stack of layers of shape [1001, 0]; expected 1000 layers at most',
    ),
    (
      lambda top, embedder: embedder.update({'layers': {'a': np.float32(1)}}),
      'is a stack of layers of shape []',
    ),
    (
      lambda top, embedder: top['target']['encoder'].update(
        layers_99999999=top['target']['encoder'].pop('layers_1')
      ),
      'should have 100000000 layers in the encoder, and holds arrays of 2',
    ),
  ],
)
def test_a_tree_that_is_none(copy, change, message):
  edit_tree(copy, change)
  line = refusal(copy)
  assert message in line and '\n' not in line and len(line) < 1_500


@pytest.mark.parametrize('dtype', ['object', '|O', 'V8', 'x'])
def test_bytes_are_never_taken_for_objects(copy, dtype):
  array = msgpack.packb(((1,), dtype, bytes(8)))
  tree = {'target': {'a': msgpack.ExtType(1, array)}}
  (copy / 'checkpoint').write_bytes(msgpack.packb(tree))
  line = refusal(copy)
  assert ('is damaged' in line or 'expected floats' in line) and '\n' not in line


@pytest.mark.parametrize(
  ('claim', 'message'),
  [
    ({'shape': [2**40, 2**20]}, 'token_embedder/embedding is of 4,611,686,018 GB'),
    ({'shape': [2**62] * 20, 'chunks': [1] * 20}, 'GB by what its file says'),
    # Here TensorStore would abort the process.
    ({'chunks': [2**40, 2**20]}, 'a chunk of'),
  ],
)
def test_a_size_is_not_believed(copy, claim, message):
  path = copy / EMBEDDING / '.zarray'
  path.write_text(json.dumps({**json.loads(path.read_text()), **claim}))
  with pytest.raises(UserError) as error:
    open_source(str(copy)).arrays['token_embedder/embedding'].read()
  line = str(error.value)
  assert message in line and 'and this machine has' in line and '\n' not in line


def test_layers_with_a_gap_make_no_stack():
  layers = {f'encoder/layers_{n}/x': lazy.in_memory(np.ones(2)) for n in (0, 2)}
  assert lazy.arranged(layers, ['encoder/layers/x']).keys() == layers.keys()
