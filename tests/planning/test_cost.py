"""The cost of programs: of hand-written text, and of programs that a TPU compiler made."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning import arithmetic, cost, hlo, steps, sweep, topology
from hyperprompt_jax.planning.plan import Plan
from hyperprompt_jax.planning.topology import Slice

# A loop of seven steps, followed by a collective. Each step reads one of seven matrices and
# writes one of seven rows in place.
TEXT = (pathlib.Path(__file__).parent / 'example.hlo.txt').read_text()


def test_a_loop_counts_as_often_as_it_runs():
  analysis = cost.analyse(hlo.parse(TEXT))
  assert analysis.unknown_loops == 0
  assert analysis.flops == 7 * 2 * 4 * 16 * 32
  assert analysis.cycles == 7 * 110
  # A step reads a slice of the stack and writes one row; the rest is in the chip's memory.
  reads, writes = 16 * 32 * 2, 8 * 4
  # Each of the two fusions and the condition reads the index, which has four bytes.
  indices = 7 * 2 * 4
  compare = 7 * (4 + 4 + 1)
  # The fusion reads through a view and writes; the collective moves as many bytes.
  around = 2 * (64 + 64) * 4
  assert analysis.hbm_bytes == 7 * (reads + writes) + indices + compare + around
  assert analysis.collective_bytes == {'all-reduce': 64 * 4}
  assert analysis.collectives == {'all-reduce': 1}
  assert analysis.link_bytes == 2 * 64 * 4


def test_a_fusion_that_sums_and_keeps_a_part_is_a_reduce_scatter():
  all_reduce = 'all-reduce(%q), replica_groups={}, to_apply=%sum'
  text = TEXT.replace(all_reduce, 'fusion(%q), kind=kCustom, calls=%all-reduce-scatter.1')
  text += (
    '\n%all-reduce-scatter.1 (r: f32[64]) -> f32[16] {\n'
    '  %r = f32[64]{0} parameter(0)\n'
    '  %whole = f32[64]{0} all-reduce(%r), replica_groups={}, to_apply=%sum\n'
    '  %start = s32[] constant(16)\n'
    '  ROOT %own = f32[16]{0} dynamic-slice(%whole, %start), dynamic_slice_sizes={16}\n'
    '}\n'
  )
  analysis = cost.analyse(hlo.parse(text))
  assert analysis.collectives == {'reduce-scatter': 1}
  assert analysis.collective_bytes == {'reduce-scatter': 64 * 4}
  assert analysis.carried == {(64,): 1}
  assert analysis.link_bytes == 64 * 4


def test_a_slice_of_an_array_in_another_layout_is_charged_alone():
  stack = '%stack = bf16[7,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)\n'
  again = (
    '  %again = bf16[7,16,32]{2,1,0:T(16,128)(2,1)} fusion(%stack), kind=kLoop, '
    'calls=%copied\n'
  )
  text = TEXT.replace(stack, stack + again).replace('slice(%stack,', 'slice(%again,')
  text += (
    '\n%copied (from: bf16[7,16,32]) -> bf16[7,16,32] {\n'
    '  %from = bf16[7,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)\n'
    '  ROOT %copy = bf16[7,16,32]{2,1,0:T(16,128)(2,1)} copy(%from)\n'
    '}\n'
  )
  assert text.count('%again') == 2
  want = cost.analyse(hlo.parse(TEXT)).hbm_bytes
  assert cost.analyse(hlo.parse(text)).hbm_bytes == want


def test_a_loop_that_counts_by_two_runs_half_as_often():
  two = '%two = s32[] constant(2)\n  %later = s32[] add(%i, %two)\n  ROOT %next ='
  text = TEXT.replace('ROOT %next =', two).replace('tuple(%i,', 'tuple(%later,')
  assert cost.analyse(hlo.parse(text)).flops == 4 * 2 * 4 * 16 * 32


def test_what_has_begun_carries_its_result_and_not_its_handles():
  all_reduce = 'f32[64]{0} all-reduce(%q), replica_groups={}, to_apply=%sum'
  returned = '(f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)})'
  begun = f'{returned} collective-permute-start(%q)'
  analysis = cost.analyse(hlo.parse(TEXT.replace(all_reduce, begun)))
  assert analysis.collective_bytes == {'collective-permute': 64 * 4}


def test_a_collective_beside_other_work_is_counted_where_it_begins():
  text = (pathlib.Path(__file__).parent / 'beside.hlo.txt').read_text()
  analysis = cost.analyse(hlo.parse(text))
  assert analysis.collectives == {'all-gather': 1}
  assert analysis.carried == {(8, 64): 1}
  assert analysis.link_bytes == 64 * 8 * 2
  # The gathered array is read and written once, and the work beside it counts separately.
  assert analysis.hbm_bytes == (16 + 64) * 8 * 2 + 2 * 128 * 4


def test_a_loop_of_unknown_length_is_counted_once_and_said():
  text = TEXT.replace('constant(7)', 'get-tuple-element(%state.1), index=0')
  analysis = cost.analyse(hlo.parse(text))
  assert analysis.unknown_loops == 1
  assert analysis.flops == 2 * 4 * 16 * 32


def test_a_kernel_takes_the_time_of_both_units():
  estimate = '{"flops":"550000000","transcendentals":"1000000","bytes_accessed":"7"}'
  text = TEXT.replace(
    'all-reduce(%q), replica_groups={}, to_apply=%sum',
    'custom-call(%q), custom_call_target="tpu_custom_call", '
    f'backend_config={{"custom_call_config":{{"cost_estimate":{estimate}}}}}',
  )
  analysis = cost.analyse(hlo.parse(text))
  assert analysis.unestimated_flops == 550_000_000
  assert analysis.unestimated_exponentials == 1_000_000
  chip = topology.CHIPS['v4']
  half, whole, wide = (
    Plan.seconds(chip, analysis, head_dim) for head_dim in (64, 128, 192)
  )
  assert half['kernels_bound_seconds'] == pytest.approx(2e-6)
  # The vector units of a v4 have 4,096 arithmetic units at 1.05 GHz. A head of 64 takes a
  # matrix unit as long as one of 128.
  vector = 12 * 1_000_000 / 4096 / 1.05e9
  matrix = 4 * 2 * 128 * 1_000_000 / 275e12
  assert half['kernels_seconds'] == pytest.approx(matrix + vector)
  assert whole['kernels_seconds'] == pytest.approx(matrix + vector)
  assert wide['kernels_seconds'] == pytest.approx(2 * matrix + vector)
  others = half['compiler_seconds'] + half['communication_seconds']
  assert half['step_seconds'] == pytest.approx(others + half['kernels_seconds'])


@pytest.fixture(scope='module')
def devices():
  pytest.importorskip('libtpu', reason="the TPU's compiler comes with the test extra")
  return Slice.parse('v4:2x2x1').devices()


def compile_for(devices, function, *shapes):
  place = NamedSharding(Partitioner(devices=devices).mesh, PartitionSpec())
  arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place) for s in shapes]
  return jax.jit(function).lower(*arguments).compile()


@pytest.mark.parametrize(
  ('equation', 'shapes'),
  [
    ('ij,jk->ik', ((256, 384), (384, 128))),
    ('bqhd,bkhd->bhqk', ((2, 128, 4, 64), (2, 256, 4, 64))),
    ('bhqk,bkhd->bqhd', ((2, 4, 128, 256), (2, 256, 4, 64))),
    ('mtz,zrhd->mtrhd', ((6, 8, 32), (32, 16, 4, 64))),
  ],
)
def test_products_of_matrices_cost_what_they_do(devices, equation, shapes):
  compiled = compile_for(devices, lambda x, y: jnp.einsum(equation, x, y), *shapes)
  inputs, _ = equation.split('->')
  sizes = {
    letter: size
    for letters, shape in zip(inputs.split(','), shapes, strict=True)
    for letter, size in zip(letters, shape, strict=True)
  }
  want = 2 * int(np.prod(list(sizes.values())))
  assert cost.analyse(hlo.parse(compiled.as_text())).flops == want


@pytest.mark.slow(held_by='test_arithmetic_of_loops_is_that_of_all_their_steps')
def test_a_scan_costs_what_the_same_steps_cost_one_after_another(devices):
  def scanned(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  def unrolled(x, weights):
    for layer in range(weights.shape[0]):
      x = jnp.tanh(x @ weights[layer])
    return x

  rows, width, layers = 262_144, 1024, 6
  looped, straight = (
    cost.analyse(
      hlo.parse(compile_for(devices, f, (rows, width), (layers, width, width)).as_text())
    )
    for f in (scanned, unrolled)
  )
  assert looped.flops == straight.flops == layers * 2 * rows * width * width
  # Each layer reads its matrix, and reads and writes the rows, which the chip's own memory
  # cannot hold. A loop may also copy its carry.
  least = 2 * layers * (2 * rows * width) + 2 * layers * width * width
  assert least <= straight.hbm_bytes < 1.01 * least
  assert least <= looped.hbm_bytes < 2.2 * least


@pytest.mark.parametrize('fsdp', [1, 4])
def test_collectives_that_carry_a_whole_matrix_are_counted(devices, fsdp):
  """Matrices that chips share are gathered, once for each layer that uses one."""
  layers, width = 6, 512
  mesh = Partitioner(1, fsdp, devices=devices).mesh
  place = lambda shape, *axes: jax.ShapeDtypeStruct(
    shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*axes))
  )

  def forward(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  rows = place((8192, width), ('data', 'fsdp'))
  weights = place((layers, width, width), None, 'fsdp')
  compiled = jax.jit(forward).lower(rows, weights).compile()
  analysis = cost.analyse(hlo.parse(compiled.as_text()))
  assert analysis.carried.get((width, width), 0) == (layers if fsdp > 1 else 0)
  assert analysis.unknown_loops == 0


def test_arithmetic_of_loops_is_that_of_all_their_steps():
  def forward(x, weights):
    return jax.lax.scan(lambda x, w: (jax.jit(jnp.matmul)(x, w), None), x, weights)[0]

  x, weights = jnp.zeros((4, 8)), jnp.zeros((5, 8, 8))
  counted = arithmetic.count(forward, x, weights)
  assert counted.flops == 5 * 2 * 4 * 8 * 8
  assert counted.nbytes == 5 * 4 * (4 * 8 + 8 * 8 + 4 * 8) and counted.largest == 4 * 4 * 8
  # The backward pass has two products for each, although the first input needs no gradient.
  loss = lambda weights, x: forward(x, weights).sum()
  assert arithmetic.count(jax.grad(loss), weights, x).flops == 3 * 5 * 2 * 4 * 8 * 8


def test_arithmetic_of_a_step_of_base_is_what_its_sizes_say():
  config = Config(
    vocab_size=32128,
    emb_dim=768,
    num_heads=12,
    num_encoder_layers=12,
    num_decoder_layers=12,
    head_dim=64,
    mlp_dim=2048,
    remat_policy='minimal',
  )
  model = Model(config, MultiTaskLearning(), tuple('abcdefgh'))
  batch = steps.Batch(128, 512, 64)
  square, mlp = 768 * 768, 3 * 768 * 2048
  encoder, decoder = 12 * (4 * square + mlp), 12 * (8 * square + mlp)
  # Cross-attention makes keys and values of the inputs.
  products = 512 * encoder + 64 * decoder + (512 - 64) * 12 * 2 * square
  logits = 64 * 768 * 32128
  attention = 2 * 768 * 12 * (512 * 512 + 64 * 64 + 64 * 512)
  want = 3 * 2 * 128 * (products + logits + attention)
  assert steps.train_flops(model, batch) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
  ('generation', 'chips'), [('v4', (4, 8, 16)), ('v5e', (1, 4, 8)), (None, (1, 1, 4))]
)
def test_a_sweep_begins_with_the_smallest_slices(generation, chips):
  slices = sweep.slices(generation)
  assert tuple(where.num_chips for where in slices[:3]) == chips
  assert len({where.name.split(':')[0] for where in slices}) == (1 if generation else 5)


def test_a_sweep_tries_the_meshes_that_divide():
  meshes = set(sweep.meshes(Slice.parse('v5e:2x4'), 16, 24, (6, 32)))
  # Six heads are not divided by 4, nor a width of 24 by 16.
  assert meshes == {
    *(sweep.Mesh(1, 1), sweep.Mesh(1, 8)),
    *(sweep.Mesh(2, 1), sweep.Mesh(2, 4)),
  }
  assert set(sweep.meshes(Slice.parse('v5e:2x4'), 4, 24, (6, 32))) == {
    *(sweep.Mesh(2, 1), sweep.Mesh(2, 4)),
  }


def test_a_sweep_tries_what_holds_least_first_and_nothing_that_cannot_fit():
  held = {sweep.Mesh(1, 1): 90, sweep.Mesh(1, 4): 30, sweep.Mesh(2, 1): 50}
  assert sweep.order(held, 80) == [sweep.Mesh(1, 4), sweep.Mesh(2, 1)]


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v9:2x2', 'expected a generation (v4, v5e, v5p, v6e, tpu7x)'),
    ('v5litepod-8', 'and a shape, as v5e:2x4'),
    ('v4-16', 'and a shape, as v4:2x2x2'),
    ('tpu7x-8', 'and a shape, as tpu7x:2x2x1'),
    ('v4-7', 'as v4:2x2x2 or v5e:4x4'),
    ('v4', 'expected a generation'),
    ('v4:2x2', 'a slice of v4 has 3 axes, as in v4:2x2x2'),
    ('v5e:2x2x2', 'a slice of v5e has 2 axes, as in v5e:2x2'),
    ('v5e:0x2', 'a slice of v5e has 2 axes'),
  ],
)
def test_names_of_no_slice(name, message):
  with pytest.raises(UserError) as error:
    Slice.parse(name)
  assert message in str(error.value)


def test_without_the_compiler_one_line_says_how_to_get_it():
  code = (
    'import sys; sys.modules["libtpu"] = None\n'
    'from hyperprompt_jax.planning.topology import Slice\n'
    'Slice.parse("v4:2x2x1").devices()'
  )
  # JAX has set the library's path in the environment of this process.
  environment = {k: v for k, v in os.environ.items() if k != 'TPU_LIBRARY_PATH'}
  ended = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert "UserError: the TPU's compiler is not here" in ended.stderr
  assert "pip install 'hyperprompt-jax[plan]'" in ended.stderr


@pytest.mark.parametrize(
  ('name', 'chips'),
  [('v4:2x2x1', 4), ('v5e:1x1', 1), ('v5e:4x4', 16), ('v5p:2x2x2', 8), ('v6e:2x4', 8)],
)
def test_a_device_is_a_chip(devices, name, chips):
  where = Slice.parse(name)
  assert where.num_chips == len(where.devices()) == chips


def test_a_half_of_a_chip_of_tpu7x_is_a_device(devices):
  where = Slice.parse('tpu7x:2x2x1')
  assert where.num_chips == 4
  assert where.num_devices == len(where.devices()) == 8
