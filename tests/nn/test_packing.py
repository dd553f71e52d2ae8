"""Packed rows: with every method, each segment gives the same result as a row alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn.insertion import insert_input_prompts
from hyperprompt_jax.nn.segments import Segments
from tests import slow, tiny

# Every kind of insertion in every place; packing does not depend on how prompts are made.
VARIANTS = (
  'mtl',
  'prompt_tuning',
  'adapter',
  'hyperformer',
  'hyperprompt_global',
  'upper_layers_of_both',
  'lengths_and_offsets',
)
every_variant = pytest.mark.parametrize(
  'variant', slow.all_but(('adapter', 'lengths_and_offsets'), VARIANTS)
)

# One row has four tasks, and the other has room left.
PACKING = [(0, 1, 2, 3), (5, 4)]
# Their first layer has no prompts.
OF_UPPER_LAYERS = ('upper_layers_of_both', 'lengths_and_offsets')


def packed_and_alone(variant):
  """Returns a model, its parameters, six rows, and the same rows packed into two.

  Stacks have one layer, which compiles fastest, or two if the first layer has no prompts.
  """
  layers = 2 if variant in OF_UPPER_LAYERS else 1
  model = tiny.model(
    tiny.VARIANTS[variant],
    num_encoder_layers=layers,
    num_decoder_layers=layers,
    scan_layers=False,
  )
  rows = tiny.batch(rows=6)
  assert len(set(np.asarray(rows['task_ids'])[:4, 0].tolist())) == 4
  return model, tiny.init(model), rows, tiny.pack(rows, PACKING)


@every_variant
def test_a_packed_row_of_four_tasks_equals_the_four_rows_alone(variant):
  model, params, rows, packed = packed_and_alone(variant)
  alone, alone_sums, alone_gradient = tiny.outputs(model, params, rows)
  together, sums, gradient = tiny.outputs(model, params, packed)
  valid = np.asarray(rows['decoder_target_tokens']) > 0
  segments = np.asarray(packed['decoder_segment_ids'])
  for r, examples_of_row in enumerate(PACKING):
    for n, row in enumerate(examples_of_row, 1):
      np.testing.assert_allclose(
        together[r][segments[r] == n], alone[row][valid[row]], atol=1e-5, rtol=1e-5
      )
  tiny.assert_trees_close(sums, alone_sums, 1e-5)
  tiny.assert_trees_close(gradient, alone_gradient, 1e-4)


@every_variant
def test_what_a_segment_holds_is_nothing_to_the_others_of_its_row(variant):
  model, params, rows, packed = packed_and_alone(variant)
  # The second segment gets another text and another task.
  changed = {**packed, 'task_ids': packed['task_ids'].at[0, 1].set(rows['task_ids'][0, 0])}
  for name, side in (
    ('encoder_input_tokens', 'encoder'),
    ('decoder_input_tokens', 'decoder'),
  ):
    second = packed[f'{side}_segment_ids'] == 2
    changed[name] = jnp.where(second, 2 + packed[name] % 40, packed[name])
  before, after = (
    np.asarray(tiny.outputs(model, params, batch)[0])[0] for batch in (packed, changed)
  )
  segments = np.asarray(packed['decoder_segment_ids'])[0]
  others = (segments > 0) & (segments != 2)
  np.testing.assert_array_equal(after[others], before[others])
  assert not np.allclose(after[segments == 2], before[segments == 2], atol=1e-3)


def test_input_prompts_stand_before_the_tokens_of_their_segment():
  prompts = jnp.arange(1, 7.0).reshape(3, 2, 1)  # of three tasks: 1 2, 3 4, 5 6
  tokens = -jnp.arange(1, 11.0).reshape(2, 5, 1)
  segments = Segments(
    jnp.array([[2, 0], [1, 0]]), jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]])
  )
  x, inserted = insert_input_prompts(prompts, segments, tokens)
  assert x[0, :, 0].tolist() == [5, 6, -1, -2, 1, 2, -3, -4, -5]
  assert inserted.ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 0]
  # The second segment is empty, so that its prompts are padding.
  assert x[1, :5, 0].tolist() == [3, 4, -6, -7, -8]
  assert inserted.ids[1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
