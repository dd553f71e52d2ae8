"""What is particular to HyperPrompt: its cost, its scale, its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn.insertion import Prompts
from tests import tiny


def flops(model, params, rows):
  """FLOPs of the lowered gradient of a step."""
  batch = tiny.batch(rows=rows, inputs=16, targets=8)
  step = jax.jit(jax.grad(lambda p: model.loss(p, batch, None)[0]))
  return step.lower(params).cost_analysis()['flops']


@pytest.fixture
def on_cpu():
  """JAX counts the FLOPs of what is lowered for CPUs, and not for GPUs and TPUs."""
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    yield


def test_hypernetworks_run_once_a_step_whatever_the_batch_size(on_cpu):
  # Unrolled: cost analysis counts the body of a loop once, whatever its trip count.
  plain = tiny.model(tiny.mtl(), scan_layers=False)
  prompted = tiny.model(scan_layers=False)
  params = {m: tiny.init(m) for m in (plain, prompted)}
  extra = {
    rows: flops(prompted, params[prompted], rows) - flops(plain, params[plain], rows)
    for rows in (8, 64)
  }
  generate = jax.jit(
    jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(prompted.condition(p))))
  )
  once = generate.lower(params[prompted]).cost_analysis()['flops']
  # What prompts add grows with the batch by attention to them alone; what is left at a
  # batch of 0 is the hypernetworks, run once.
  growth = (extra[64] - extra[8]) / 56
  fixed = extra[8] - 8 * growth
  assert 0.8 * once < fixed < 1.3 * once
  assert extra[64] < 8 * extra[8]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'stacks': 'all'}, "'decoder' or 'both', not 'all'"),
    ({'prompt_length': -1}, 'prompt_length must be at least 0, not -1'),
    ({'first_layer': -1}, 'first_layer must be at least 0, not -1'),
    ({'first_layer': 2}, 'first_layer=2 is out of range: the encoder has layers 0 to 1'),
    ({'first_layer': 3, 'stacks': 'decoder'}, 'the decoder has layers 0 to 2'),
    ({'first_layer': 2, 'stacks': 'both'}, 'the encoder has layers 0 to 1'),
    ({'prompt_init': 'words'}, "'random' or 'vocabulary', not 'words'"),
  ],
)
def test_an_option_that_cannot_be_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    tiny.model(tiny.hyperprompt(**options)).param_shapes()


def test_the_upper_layers_alone_have_hypernetworks_of_prompts():
  of_all = tiny.model(tiny.METHODS['hyperprompt_share']).param_shapes()['method']
  upper = tiny.METHODS['hyperprompt_share'].clone(first_layer=1)
  of_upper = tiny.model(upper).param_shapes()['method']
  for shapes, layers in ((of_all, 2), (of_upper, 1)):
    assert shapes['key_hypernetworks']['down'].shape == (layers, 24, 5)


@pytest.mark.parametrize('method', [m for m in tiny.METHODS if m.startswith('hyperprompt')])
def test_prompts_start_at_the_scale_of_keys_and_values(method):
  model = tiny.model(tiny.METHODS[method], emb_dim=64, num_heads=4, head_dim=16)
  params = jax.jit(model.init)(jax.random.key(0))
  prompts = tiny.condition(model, params).encoder.prompts
  assert isinstance(prompts, Prompts)
  for array in (prompts.key, prompts.value):
    assert 0.2 < float(jnp.std(array)) < 3.0
    assert np.isfinite(array).all()
