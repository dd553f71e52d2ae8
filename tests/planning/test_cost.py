"""The cost of programs: of hand-written text, and of what a TPU's compiler has made."""

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
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning import cost, hlo
from hyperprompt_jax.planning.topology import Slice

# A loop of seven steps, each of which reads one of seven matrices and writes one of seven
# rows in place, and behind it a collective.
TEXT = (pathlib.Path(__file__).parent / 'example.hlo.txt').read_text()


def test_a_loop_counts_as_often_as_it_runs():
  found = cost.analyse(hlo.parse(TEXT))
  assert found.unknown_loops == 0
  assert found.flops == 7 * 2 * 4 * 16 * 32
  assert found.cycles == 7 * 110
  # A slice is read, not the stack; a row is written, not all; the rest is on the chip.
  reads, writes = 16 * 32 * 2, 8 * 4
  # And the index, of which each of the two fusions and the condition reads four bytes.
  indices = 7 * 2 * 4
  compare = 7 * (4 + 4 + 1)
  # Read through a view within the fusion, and written; the collective does as much.
  around = 2 * (64 + 64) * 4
  assert found.hbm_bytes == 7 * (reads + writes) + indices + compare + around
  assert found.collective_bytes == {'all-reduce': 64 * 4}
  assert found.collectives == {'all-reduce': 1}


def test_a_loop_of_unknown_length_is_counted_once_and_said():
  text = TEXT.replace('constant(7)', 'get-tuple-element(%state.1), index=0')
  found = cost.analyse(hlo.parse(text))
  assert found.unknown_loops == 1
  assert found.flops == 2 * 4 * 16 * 32


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


def test_a_scan_costs_what_the_same_steps_cost_one_after_another(devices):
  def scanned(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  def unrolled(x, weights):
    for layer in range(weights.shape[0]):
      x = jnp.tanh(x @ weights[layer])
    return x

  rows, width, layers = 262_144, 1024, 8
  looped, straight = (
    cost.analyse(
      hlo.parse(compile_for(devices, f, (rows, width), (layers, width, width)).as_text())
    )
    for f in (scanned, unrolled)
  )
  assert looped.flops == straight.flops == layers * 2 * rows * width * width
  # Each layer reads and writes the rows, which the chip's own memory cannot hold, and
  # reads its matrix, one way or the other. A loop may copy what it hands on besides.
  least = 2 * layers * (2 * rows * width) + 2 * layers * width * width
  assert least <= straight.hbm_bytes < 1.01 * least
  assert least <= looped.hbm_bytes < 2.2 * least


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('v9:2x2', 'expected a generation (v4, v5e, v5p, v6e)'),
    ('v4', 'expected a generation'),
    ('v4:2x2', 'a slice of v4 has 3 axes, as in v4:2x2x2'),
    ('v5e:2x2x2', 'a slice of v5e has 2 axes, as in v5e:2x2'),
    ('v5e:0x2', 'a slice of v5e has 2 axes'),
  ],
)
def test_names_of_no_slice(name, said):
  with pytest.raises(UserError) as error:
    Slice.parse(name)
  assert said in str(error.value)


def test_without_the_compiler_one_line_says_how_to_get_it():
  code = (
    'import sys; sys.modules["libtpu"] = None\n'
    'from hyperprompt_jax.planning.topology import Slice\n'
    'Slice.parse("v4:2x2x1").devices()'
  )
  # JAX has left the library's place in this process's environment.
  environment = {k: v for k, v in os.environ.items() if k != 'TPU_LIBRARY_PATH'}
  ended = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert "UserError: the TPU's compiler is not here" in ended.stderr
  assert "pip install 'hyperprompt-jax[tpu]'" in ended.stderr


@pytest.mark.parametrize(
  ('name', 'chips'),
  [('v4:2x2x1', 4), ('v5e:1x1', 1), ('v5e:4x4', 16), ('v5p:2x2x2', 8), ('v6e:2x4', 8)],
)
def test_a_device_is_a_chip(devices, name, chips):
  where = Slice.parse(name)
  assert where.num_chips == len(where.devices()) == chips
