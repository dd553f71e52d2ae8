"""The published sizes of the T5 family, by their gin files: parameters and settings."""

import jax
import pytest

from hyperprompt_jax.configuration import initial_size, paths, static
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

MODELS = paths.gin_directory() / 'models'
# Exact counts are those of the published checkpoints; a text is the number that the authors
# or the pages of the checkpoints state, as they round it.
PUBLISHED: dict[str, int | str] = {
  'small_1_0': 60_506_624,
  'base_1_0': 222_903_552,
  'large_1_0': 737_668_096,
  '3b_1_0': 2_851_598_336,
  '11b_1_0': 11_307_321_344,
  'small': 76_961_152,
  'base': 247_577_856,
  'large': 783_150_080,
  'xl': 2_849_757_184,
  'xxl': 11_135_332_352,
  'mt5_small': 300_176_768,
  'mt5_base': 582_401_280,
  'mt5_large': 1_229_581_312,
  'mt5_xl': 3_742_619_648,
  'mt5_xxl': 12_921_057_280,
  'byt5_small': 299_637_760,
  'byt5_base': 581_653_248,
  'byt5_large': '1.23 G',
  'byt5_xl': '3.74 G',
  'byt5_xxl': '12.9 G',
  'umt5_small': '0.3 G',
  'umt5_base': '0.6 G',
  'umt5_xl': '3.8 G',
  'umt5_xxl': '13 G',
  'ul2': '19.5 G',
  'madlad400_3b': '2.9 G',
  'madlad400_7b': '8.3 G',
  'madlad400_10b': '10.7 G',
}


def settings(name):
  """The values of a gin file, without running gin."""
  composed = static.Configuration()
  composed.add_file(f'models/{name}.gin')
  return {key: composed.resolved(key) for key in composed.values}


def config(name):
  own = {
    key.rpartition('.')[2]: value
    for key, value in settings(name).items()
    if key.startswith('config.Config.')
  }
  return Config(**own)


def test_every_size_is_in_the_table():
  files = {path.stem for path in MODELS.glob('*.gin')} - {'tiny', 't5_1_1'}
  assert files == PUBLISHED.keys()


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_size_has_the_published_number_of_parameters(name):
  shapes = Model(config(name), MultiTaskLearning(), ('task',)).param_shapes()
  number = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  want = PUBLISHED[name]
  if isinstance(want, int):
    assert number == want
  else:
    decimals = len(want.partition('.')[2].split()[0]) if '.' in want else 0
    assert f'{number / 1e9:.{decimals}f} G' == want


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_folder_gives_the_methods_the_widths_of_the_gin_file(name):
  values = settings(name)
  for macro, width in initial_size.widths(values['config.Config.emb_dim']).items():
    assert values[macro] == width
