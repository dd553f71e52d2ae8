"""A bundle: parameters, record, vocabulary and model card, loaded with one call."""

import re

import pytest

import hyperprompt_jax
from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import convert, model_card
from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.errors import UserError
from tests import tiny
from tests.inference import made


def write(folder, **changes):
  """Writes a bundle of a network with random parameters, and its card."""
  network = made.model()
  arrays = made.write_bundle(folder, network, tiny.init(network, 1), **changes)
  card = model_card.text(recorded.read(str(folder)), arrays, 'apache-2.0')
  (folder / 'README.md').write_text(card)


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / 'bundle'
  write(
    folder,
    declarations=[{'function': 'from_files', 'name': 'x', 'files': {'a': '/secret/path'}}],
    folders={'glue_dir': '/secret/glue'},
  )
  return folder


def test_a_bundle_answers_as_the_model_that_it_was_made_of(folder):
  model = hyperprompt_jax.load(folder)
  assert (model.step, model.tasks) == (12, tiny.TASKS)
  questions = [('a', 'abc'), ('c', 'abc')]
  for one, other in zip(
    model.predict(questions), made.predictor().predict(questions), strict=True
  ):
    assert one.tokens == other.tokens
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)
  with pytest.raises(UserError, match='holds one step alone'):
    hyperprompt_jax.load(folder, 3)


def test_a_bundle_holds_no_path_of_the_machine_that_trained(folder):
  assert sorted(p.name for p in folder.iterdir()) == [
    'README.md',
    'parameters-00001.safetensors',
    'run.json',
  ]
  assert '/secret' not in (folder / 'run.json').read_text()
  record = recorded.read(str(folder))
  assert record.trained['scores'] == {'a': 81.5, 'average': 81.5}


def test_the_card_says_what_was_trained_and_how_to_load_it(folder):
  text = (folder / 'README.md').read_text()
  assert text.startswith('---\nlicense: apache-2.0\nlibrary_name: hyperprompt_jax\n')
  assert 'Trained for 12 steps on the mixture `mixture`' in text
  assert '| a | no, yes, maybe | 81.50 |' in text and '| b | any text | - |' in text
  assert '| `config.Config.emb_dim` | `16` |' in text
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  names = {}
  exec(code.replace('FOLDER', str(folder)), names)
  assert len(names['answers']) == 1


def test_a_bundle_that_was_changed_is_refused(folder):
  file = folder / 'parameters-00001.safetensors'
  contents = bytearray(file.read_bytes())
  contents[-1] ^= 1
  file.write_bytes(contents)
  with pytest.raises(UserError, match='is damaged: it is not what was written'):
    hyperprompt_jax.load(folder)


def test_a_bundle_is_made_again_of_a_bundle(folder, tmp_path):
  again = tmp_path / 'again'
  report = convert.to_bundle(str(folder), str(again), license_name='mit')
  assert (report['format'], report['step']) == ('bundle', 12)
  assert (again / 'README.md').read_text().startswith('---\nlicense: mit\n')
  first, second = (recorded.read(str(path)) for path in (folder, again))
  assert first == second and first is not None


def test_a_bundle_is_made_of_runs_alone(tmp_path, capsys):
  with pytest.raises(UserError, match='is no folder'):
    convert.to_bundle(str(tmp_path / 'nothing'), str(tmp_path / 'out'))
  flags = ['--input=x', f'--output={tmp_path / "out"}', '--to=bundle']
  assert cli.main(['convert', *flags, '--drop_method']) == 2
  assert '--to=bundle takes the whole model as it is' in capsys.readouterr().err
