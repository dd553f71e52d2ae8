"""A run as StableHLO programs: equal to the model, in a process that imports JAX alone."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.convert import to_stablehlo
from tests import tiny
from tests.inference import made

LENGTH = made.LENGTHS['targets']
INPUTS = np.array([[101, 32, 117, 1, 0], [9, 1, 0, 0, 0], [5, 6, 7, 8, 1]], np.int32)
TARGETS = np.array([[11, 1, 0], [12, 13, 1], [1, 0, 0]], np.int32)
TASKS = np.array([0, 3, 2], np.int32)


def exported(tmp_path, method, **options):
  """Exports a network with random parameters; returns it, its parameters and the folder."""
  network = tiny.model(method, **made.SIZES)
  params = tiny.init(network, 1)
  made.write_bundle(tmp_path / 'bundle', network, params)
  report = to_stablehlo(str(tmp_path / 'bundle'), str(tmp_path / 'out'), **options)
  assert (report['format'], report['step']) == ('stablehlo', 12)
  return network, params, tmp_path / 'out'


def outputs(network, params):
  """The encodings, the answers and the scores of the network itself."""
  conditioning = network.condition(params)
  batch = {'encoder_input_tokens': INPUTS, 'task_ids': TASKS[:, None]}
  scored = {
    'decoder_target_tokens': TARGETS,
    'decoder_input_tokens': np.pad(TARGETS, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': TARGETS > 0,
  }
  return (
    network.encode(params, conditioning, batch).activations,
    network.predict(params, conditioning, batch, LENGTH),
    network.score(params, conditioning, {**batch, **scored}),
  )


# The rest of the program is that of the model card.
_AFTER = """
import sys

assert not {'flax', 'tensorflow', 'hyperprompt_jax', 'safetensors'} & {*sys.modules}
scores = programs['score'](weights, inputs, tasks, np.array(TARGETS, np.int32))
results = encoded['activations'], answers, scores
print(json.dumps([np.asarray(x).tolist() for x in results]))
"""


def test_a_process_of_jax_alone_computes_the_same(tmp_path):
  method = tiny.VARIANTS['lengths_and_offsets']
  network, params, folder = exported(tmp_path, method)
  card = (folder / 'README.md').read_text()
  assert 'library_name: jax\n' in card
  (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
  code = code.replace('FOLDER', str(folder))
  for start, rows in ((r'inputs = ', INPUTS), (r'tasks = ', TASKS)):
    code = re.sub(
      rf'^{start}.*$', f'{start}np.array({rows.tolist()}, np.int32)', code, flags=re.M
    )
  code = code.replace('np.zeros(1', 'np.zeros(3') + _AFTER.replace(
    'TARGETS', str(TARGETS.tolist())
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, check=False
  )
  assert done.returncode == 0, done.stderr
  activations, answers, scores = map(np.array, json.loads(done.stdout))
  want = jax.jit(outputs, static_argnums=0)(network, params)
  np.testing.assert_allclose(
    activations, want[0], rtol=0, atol=1e-6 * np.abs(want[0]).max()
  )
  answers = answers.T
  ended = np.cumsum(answers == network.config.eos_id, axis=1) - (answers == 1)
  np.testing.assert_array_equal(np.where(ended, 0, answers), want[1])
  np.testing.assert_allclose(scores, want[2], rtol=1e-6)


@pytest.mark.slow(held_by='test_a_process_of_jax_alone_computes_the_same')
def test_the_manifest_describes_programs_and_weights(tmp_path):
  """HyperFormer++ makes adapters, and bfloat16 weights are half as large."""
  network, params, folder = exported(
    tmp_path, tiny.METHODS['hyperformer'], dtype='bfloat16'
  )
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert manifest['tasks'] == list(tiny.TASKS) and manifest['lengths'] == made.LENGTHS
  assert manifest['labels']['a'] == made.LABELS and manifest['vocabulary'] == 'bytes'
  assert [*manifest['programs']] == ['encode', 'start_decoding', 'decode_step', 'score']
  score = manifest['programs']['score']
  assert score['arguments'] == ['weights', 'inputs', 'task_ids', 'targets']
  assert score['inputs']['targets'] == {'shape': ['B', 'Q'], 'dtype': 'int32'}
  assert score['outputs'] == {'shape': ['B'], 'dtype': 'float32'}
  files = {path.name for path in (folder / 'weights').iterdir()}
  assert files == {entry['file'].split('/')[1] for entry in manifest['weights'].values()}
  weights = {
    name: np.load(folder / entry['file']).view(entry['dtype'])
    for name, entry in manifest['weights'].items()
  }
  assert {array.dtype.name for array in weights.values()} == {'bfloat16'}
  program = export.deserialize((folder / score['file']).read_bytes())
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  # No weight is a constant of the program.
  assert (folder / score['file']).stat().st_size < 200_000
  got = jax.jit(program.call)(weights, INPUTS, TASKS, TARGETS)
  *_, want = jax.jit(outputs, static_argnums=0)(network, params)
  np.testing.assert_allclose(got, want, rtol=0.05)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--drop_method'], '--to=stablehlo takes the whole model as it is'),
    ([], 'is no folder'),
  ],
)
def test_flags_and_folders_that_cannot_be(tmp_path, capsys, flags, message):
  words = [f'--input={tmp_path / "x"}', f'--output={tmp_path / "out"}', '--to=stablehlo']
  assert cli.main(['convert', *words, *flags]) == 2
  assert message in capsys.readouterr().err
