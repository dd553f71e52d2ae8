"""HyperPrompt-Global against its equations, written out in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import layers
from tests import tiny


def naive_prompts(method_params, kind, num_layers, num_tasks):
  """P[m,t] = U[m,t] relu(D[m,t] P[t]) for every layer and task, as the design has it."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), method_params)
  down, up = (p[f'{kind}_hypernetwork'][name] for name in ('down', 'up'))
  prompts = []
  for m in range(num_layers):
    for t in range(num_tasks):
      pair = np.concatenate([p['task_embedding'][t], p['layer_embedding'][m]])
      hidden = np.maximum(pair @ p['mlp_wi']['kernel'], 0)
      embedding = hidden @ p['mlp_wo']['kernel']
      local_down = sum(embedding[z] * down[z] for z in range(len(embedding)))  # [e, r]
      local_up = sum(embedding[z] * up[z] for z in range(len(embedding)))  # [r, h, d]
      for position in p['prompts'][t]:
        bottleneck = np.maximum(position @ local_down, 0)
        prompts.append(np.tensordot(bottleneck, local_up, axes=1))
  return np.array(prompts).reshape(num_layers, num_tasks, -1, *prompts[0].shape)


@pytest.mark.parametrize(
  ('stacks', 'encoder_layers', 'decoder_layers'),
  [('encoder', 2, 0), ('decoder', 0, 3), ('both', 2, 3)],
)
def test_generated_prompts_equal_a_naive_loop_over_layers_and_tasks(
  stacks, encoder_layers, decoder_layers
):
  model = tiny.model(tiny.hyperprompt(stacks=stacks))
  params = tiny.init(model)
  conditioning = tiny.condition(model, params)
  for kind in ('key', 'value'):
    want = naive_prompts(params['method'], kind, encoder_layers + decoder_layers, 3)
    for prompts, expected in (
      (conditioning.encoder_prompts, want[:encoder_layers]),
      (conditioning.decoder_prompts, want[encoder_layers:]),
    ):
      if len(expected):
        np.testing.assert_allclose(getattr(prompts, kind), expected, atol=1e-5)
      else:
        assert prompts is None


def test_the_losses_gradient_stays_with_the_tasks_own_parameters():
  model = tiny.model()
  params = tiny.init(model)
  for task in range(3):
    batch = tiny.batch(task=task)
    grads = tiny.gradient(model, params, batch)['method']
    for name in ('prompts', 'task_embedding'):
      of_task = np.abs(np.asarray(grads[name])).reshape(3, -1).max(axis=1)
      assert of_task[task] > 0
      assert (np.delete(of_task, task) == 0).all()  # exactly
    for kind in ('key_hypernetwork', 'value_hypernetwork'):
      for matrix in ('down', 'up'):
        assert np.abs(grads[kind][matrix]).max() > 0


def flops(model, params, rows):
  """FLOPs of the lowered gradient of a step."""
  batch = tiny.batch(rows=rows, inputs=16, targets=8)
  step = jax.jit(jax.grad(lambda p: model.loss(p, batch, None)[0]))
  return step.lower(params).cost_analysis()['flops']


def test_hypernetworks_run_once_a_step_whatever_the_batch_size():
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
  ],
)
def test_an_option_that_cannot_be_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    tiny.model(tiny.hyperprompt(**options)).param_shapes()


def test_prompts_start_at_the_scale_of_keys_and_values():
  model = tiny.model(emb_dim=64, num_heads=4, head_dim=16)
  method = {'method': jax.jit(model.init)(jax.random.key(0))['method']}
  prompts = tiny.condition(model, method).encoder_prompts
  assert isinstance(prompts, layers.Prompts)
  for array in (prompts.key, prompts.value):
    assert 0.2 < float(jnp.std(array)) < 3.0
