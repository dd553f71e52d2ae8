"""The description of network and method that every checkpoint carries."""

import dataclasses
import json

import pytest

from hyperprompt_jax.checkpoints.identity import identity_of, network_of
from hyperprompt_jax.errors import UserError
from tests import tiny


def identity(**changes):
  model = tiny.model()
  config = dataclasses.replace(model.config, **changes)
  return identity_of(dataclasses.replace(model, config=config))


def test_a_network_comes_back_from_json():
  model = tiny.model()
  described = json.loads(json.dumps(identity_of(model)))
  assert described == identity_of(model)
  rebuilt = network_of('/run/checkpoints/4', described)
  assert rebuilt is not None and network_of('/run/checkpoints/4', {'SEED': 0}) is None
  assert dataclasses.replace(rebuilt, dropout_rate=0.0) == dataclasses.replace(
    model.config,
    **{
      field.name: getattr(rebuilt, field.name)
      for field in dataclasses.fields(rebuilt)
      if field.name in ('scan_layers', 'remat_policy')
    },
    dropout_rate=0.0,
  )


@pytest.mark.parametrize(
  'changes',
  [{'mlp_activations': ('relu', 'linear')}, {'dtype': 'bfloat16'}, {'mlp_dim': 8}],
)
def test_what_makes_another_network_makes_another_identity(changes):
  assert identity(**changes) != identity()


@pytest.mark.parametrize('changes', [{'dropout_rate': 0.3}, {'remat_policy': 'full'}])
def test_how_a_network_is_run_is_no_part_of_it(changes):
  assert identity(**changes) == identity()


def test_a_description_that_lacks_a_size_or_has_a_wrong_one():
  described = identity()
  del described['config.Config.mlp_dim']
  with pytest.raises(
    UserError, match=r'checkpoint /c does not say its config.Config.mlp_dim'
  ):
    network_of('/c', described)
  with pytest.raises(UserError, match=r'checkpoint /c describes no network: .*num_heads'):
    network_of('/c', identity() | {'config.Config.num_heads': 'two'})
