"""Plans that count: GPUs of one machine, and the network between slices."""

import dataclasses
import functools

import jax
import optax
import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.planning import gpus, steps
from hyperprompt_jax.planning.plan import Plan
from hyperprompt_jax.planning.planner import Planner
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.planning.sweep import Mesh
from hyperprompt_jax.planning.topology import Box, Slice
from hyperprompt_jax.training.settings import OptimisationSettings
from tests import tiny

ROWS, INPUTS, TARGETS = 7, 16, 8


@functools.cache
def planner():
  config = tiny.config(dtype='bfloat16')
  return Planner(config, tiny.METHODS['mtl'], optax.adam(1e-3), OptimisationSettings())


@functools.cache
def estimate(name, fsdp=1, rows=ROWS):
  box = Box.parse(name)
  batch = Batch(rows * box.number, INPUTS, TARGETS)
  return gpus.estimate(planner(), box, fsdp, batch, num_tasks=4)


def num_params():
  return sum(leaf.size for leaf in jax.tree.leaves(planner().model(4).param_shapes()))


def test_one_gpu_holds_everything():
  one, more = estimate('h100:1'), estimate('h100:1', rows=3 * ROWS)
  assert one.params_bytes == 4 * num_params() and one.optimizer_bytes > 2 * one.params_bytes
  assert one.copy_bytes == one.params_bytes  # parameters and gradients, half as wide
  # A position takes two operations for each element of a matrix forward, and four backward.
  config = planner().config
  attention = 4 * config.emb_dim * config.num_heads * config.head_dim
  mlp = (1 + len(config.mlp_activations)) * config.emb_dim * config.mlp_dim
  encoder = config.num_encoder_layers * (attention + mlp) * INPUTS
  crossed = attention // 2 * (INPUTS + TARGETS)
  decoder = config.num_decoder_layers * ((attention + mlp) * TARGETS + crossed)
  output = config.vocab_size * config.emb_dim * TARGETS
  flops = 6 * ROWS * (encoder + decoder + output)
  assert flops < one.flops < 1.3 * flops  # with attention's logits and weights
  # Position biases and their gradient do not depend on the number of rows.
  assert more.flops == pytest.approx(3 * one.flops, rel=0.01)
  # The activations are those of the rows, and parameters are not among them.
  assert more.saved_bytes == pytest.approx(3 * one.saved_bytes, rel=0.03)
  logits = 4 * ROWS * config.num_heads * INPUTS * INPUTS
  assert one.largest_bytes == 2 * logits
  assert one.link_bytes == 0 and one.fits
  assert one.step_seconds == max(one.flops / 989e12, one.product_bytes / 3.35e12)
  assert not estimate('l4:1', rows=2**24).fits


def test_gpus_divide_rows_and_state_and_send_gradients():
  one, four, spread = estimate('h100:1'), estimate('h100:4'), estimate('h100:4', 4)
  assert (four.flops, four.saved_bytes) == (one.flops, one.saved_bytes)
  # Layer norms and position biases are not divided.
  assert 0.25 < four.params_bytes / one.params_bytes < 0.35
  assert four.optimizer_bytes < 0.35 * one.optimizer_bytes
  # A copy in bfloat16 is gathered, and its gradients are summed to the parts.
  assert four.link_bytes == int(2 * 2 * num_params() * 3 / 4)
  assert four.communication_seconds == four.link_bytes / 450e9
  # A copy that is spread is gathered once more.
  assert spread.link_bytes == int(3 * 2 * num_params() * 3 / 4)
  assert spread.mesh == {'data': 1, 'fsdp': 4, 'model': 1}
  assert four.copy_bytes == one.copy_bytes and spread.copy_bytes < 0.35 * one.copy_bytes
  report = four.report()
  held = ('params', 'optimizer', 'copy', 'saved', 'largest')
  assert report['peak_bytes'] == sum(report[f'{name}_bytes'] for name in held)


def test_slices_divide_a_batch_and_sum_gradients_over_the_network(monkeypatch):
  """A stand-in compiles the step of one slice."""
  given = []

  def plan_slice(self, where, mesh, batch, step, *more):
    given.append(batch)
    return Plan(
      topology=where.name,
      mesh={},
      step=step,
      hbm_bytes=1,
      params_bytes=0,
      optimizer_bytes=0,
      fits=True,
      step_seconds=1e-6,
      utilisation=0.5,
      chip_hours=10,
    )

  on_four = gpus._Counted(1, 1, devices=range(4))
  monkeypatch.setattr(Planner, '_plan_slice', plan_slice)
  monkeypatch.setattr(Planner, 'partitioner', lambda *_: on_four)
  where, batch = Slice.parse('v5e:2x2', 4), Batch(28, INPUTS, TARGETS)
  plan = planner().plan(where, Mesh(1, 1), batch, num_tasks=4)
  assert given == [dataclasses.replace(batch, size=7)] and plan.slices == 4
  # Each chip sends its float32 part of the gradients twice around a ring of four.
  assert plan.network_bytes == int(2 * estimate('h100:4').params_bytes * 3 / 4)
  assert plan.network_seconds == plan.network_bytes / 3.125e9
  slower = plan.step_seconds / 1e-6
  assert plan.step_seconds == 1e-6 + plan.network_seconds
  assert plan.utilisation == pytest.approx(0.5 / slower)
  assert plan.chip_hours == pytest.approx(4 * 10 * slower)
  decoding = planner().plan(where, Mesh(1, 1), batch, steps.DECODE, 4)
  assert decoding.network_bytes == 0 and decoding.step_seconds == 1e-6
  one = planner().plan(Slice.parse('v4:2x2x1'), Mesh(1, 1), batch, num_tasks=4)
  assert given[-1] == batch and one.slices == 1


@pytest.mark.parametrize(
  ('words', 'expected'),
  [
    ('--topology=h100:9', 'expected 1 to 8 GPUs of one machine, as in h100:8'),
    ('--topology=h100', 'expected 1 to 8 GPUs of one machine, as in h100:8'),
    ('--topology=p100:8', 'or a GPU (a100-40gb, a100-80gb, h100, h200, b200, l4, l40s)'),
    ('--topology=h100:8 --num_partitions=2', 'GPUs are counted without --sweep, --share'),
    ('--topology=h100:8 --sweep', 'GPUs are counted without --sweep, --share'),
    ('--topology=h100:8 --step=decode', 'of GPUs the training step alone is counted'),
    ('--topology=v4:2x2x1 --slices=2', 'publishes the bandwidth between slices of v5e'),
    ('--topology=v5e --sweep --slices=2', '--sweep plans one slice: leave out --slices'),
    ('--topology=v5e:2x2 --slices=0', '--slices must be a positive integer, not 0'),
  ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_is_imported(capsys, words, expected):
  capsys.readouterr()
  assert cli.main(['plan', '--gin_file=models/tiny.gin', *words.split()]) == 2
  out, err = capsys.readouterr()
  assert out == '' and expected in err and len(err.splitlines()) == 1
