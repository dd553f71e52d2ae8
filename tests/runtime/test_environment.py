"""The machine and the packages that a run uses, and what has changed of them."""

import jax

from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import environment


def test_the_description_names_packages_devices_and_threads(monkeypatch):
  monkeypatch.setenv('NPROC', '7')
  described = environment.describe(Partitioner().mesh)
  assert described['jax'] == jax.__version__
  assert {'jaxlib', 'flax', 'optax', 'numpy', 'processor'} <= described.keys()
  assert described['platform'] == 'cpu' and described['threads of XLA'] == '7'
  assert described['devices'] == f'{jax.device_count()} cpu'
  assert all(isinstance(text, str) for text in described.values())


def test_what_has_changed_is_named_and_nothing_else():
  saved = {'jax': '1.0', 'numpy': '2.0', 'threads of XLA': '2', 'XLA_FLAGS': ''}
  assert not list(environment.changes(saved, dict(saved)))
  now = {**saved, 'jax': '1.1', 'XLA_FLAGS': '--x'}
  del now['threads of XLA']
  assert list(environment.changes(saved, now)) == [
    'XLA_FLAGS was nothing and is --x',
    'jax was 1.0 and is 1.1',
    'threads of XLA was 2 and is nothing',
  ]
