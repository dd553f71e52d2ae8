"""`hyperprompt plan`, with the TPU's own compiler."""

import contextlib
import dataclasses
import io
import json
import re

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.planning import hlo, planner, tables
from hyperprompt_jax.planning.plan import Plan
from hyperprompt_jax.planning.planner import Planner
from hyperprompt_jax.planning.steps import Batch
from tests import tiny_run

pytest.importorskip('libtpu', reason="the TPU's compiler comes with the test extra")

SMALL = ('--batch_size=8', '--inputs_length=16', '--targets_length=8')
FILES = ('models/tiny.gin', 'methods/hyperprompt_global.gin')


def arguments(*more, topology='v5e:2x2', files=FILES, sizes=SMALL, network=None):
  network = tiny_run.NETWORK if network is None else network
  return [
    'plan',
    *(f'--gin_file={file}' for file in files),
    *(f'--gin.{name}={value}' for name, value in network.items()),
    f'--topology={topology}',
    *sizes,
    *more,
  ]


def json_of(capsys, *args, **kwargs):
  capsys.readouterr()
  assert cli.main(arguments(*args, '--json', **kwargs)) == 0
  return json.loads(capsys.readouterr().out)


# Heads of 64 and whole lanes of keys, for which attention is one kernel.
LAYERS, VOCAB, EMB, MLP = 6, 384, 128, 256
FUSED = {
  'config.Config.emb_dim': EMB,
  'config.Config.num_heads': 2,
  'config.Config.head_dim': 64,
  'config.Config.mlp_dim': MLP,
  'config.Config.num_encoder_layers': LAYERS,
  'config.Config.num_decoder_layers': LAYERS,
}
BATCH = ('--batch_size=32', '--inputs_length=256', '--targets_length=32')


@pytest.mark.slow(held_by='test_parameters_and_optimizer_are_sharded')
def test_a_step_on_four_chips(capsys, monkeypatch):
  programs, parse = [], hlo.parse
  monkeypatch.setattr(hlo, 'parse', lambda text: programs.append(text) or parse(text))
  report = json_of(
    capsys, '--train_steps=7200', topology='v4:2x2x1', sizes=BATCH, network=FUSED
  )
  assert report['fits'] and report['mesh'] == {'data': 4, 'fsdp': 1, 'model': 1}
  # Parameters are float32, and sharded over the chips except for layer norms, position
  # biases and prompts.
  attention, mlp = 4 * EMB * EMB, 3 * EMB * MLP
  matrices = LAYERS * (3 * attention + 2 * mlp) + 2 * VOCAB * EMB
  whole = 4 * matrices
  assert 0.25 < report['params_bytes'] / whole < 0.4
  assert 0 < report['optimizer_bytes'] < 0.2 * whole
  # A token takes two operations for each element of a matrix forward, and four backward.
  encoder, decoder = (attention + mlp) * LAYERS * 256, (attention + mlp) * LAYERS * 32
  flops = 6 * 8 * (encoder + decoder)
  assert flops < report['cost']['flops'] < 2 * flops
  # Gradients are summed over the chips. Layers' parameters are gathered in bfloat16, those
  # of the encoder twice, and the two embeddings in float32 at most.
  kinds = report['cost']['collective_bytes']
  assert kinds.keys() == {'all-reduce', 'all-gather', 'reduce-scatter'}
  twice, once = attention + mlp, 2 * attention + mlp
  most = 2 * LAYERS * (2 * twice + once) + 4 * 2 * VOCAB * EMB
  assert 0.5 * most < kinds['all-gather'] < 1.05 * most
  assert report['cost']['unknown_loops'] == 0
  # The kernels are attention's, forward and backward, three in each pair of layers.
  assert report['cost']['unestimated'] == 6 * LAYERS
  assert report['compute_seconds'] < report['compiler_seconds'] < 1
  # An all-reduce sends its bytes around the ring twice.
  sent = 2 * kinds['all-reduce'] + kinds['all-gather'] + kinds['reduce-scatter']
  assert report['cost']['link_bytes'] == sent
  assert report['communication_seconds'] == pytest.approx(sent / 300e9)
  assert report['step_seconds'] == pytest.approx(
    report['compiler_seconds'] + report['kernels_seconds'] + report['communication_seconds']
  )
  # Four chips for 7200 steps.
  assert report['chip_hours'] == pytest.approx(8 * report['step_seconds'])
  # Heads of 64 fill half of a matrix unit, and the vector units add their time.
  assert 0 < report['kernels_bound_seconds'] < report['compute_seconds']
  assert report['kernels_seconds'] > 2 * report['kernels_bound_seconds']
  # Recomputed operations do not count.
  at_peak = report['utilisation'] * report['step_seconds']
  assert 0.85 < at_peak / report['compute_seconds'] < 1
  assert report['carried_whole'] == {}
  # The activations that the backward pass needs of 6 layers, 8 rows and 256 positions have
  # their memory, which is not filled before the layers write it.
  stack = rf' = bf16\[{LAYERS},8,256,\d+\]\S* '
  assert re.search(rf'{stack}custom-call\(.*AllocateBuffer', programs[0])
  assert not re.search(rf'{stack}broadcast\(', programs[0])


@pytest.mark.slow(held_by='test_a_mesh_of_devices_trains_as_one_device_does')
def test_chips_that_share_a_model_spread_the_positions(capsys):
  report = json_of(
    capsys, '--num_partitions=2', topology='v4:2x2x1', sizes=BATCH, network=FUSED
  )
  # The results of products are summed for each chip's own positions only.
  carried = report['cost']['collective_bytes']
  assert carried['all-reduce'] < 0.1 * carried['reduce-scatter']


@pytest.fixture(scope='module')
def decoding():
  """The report on a step of decoding, which holds the parameters on every chip."""
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert cli.main(arguments('--step=decode', '--json')) == 0
  return json.loads(printed.getvalue())


# This optimizer has more state than that of runs/plan.gin.
SHARDED = (
  '--fsdp=2',
  '--num_partitions=2',
  '--gin.OPTIMIZER=@optimizers.skip_step_on_spikes()',
)


def test_parameters_and_optimizer_are_sharded(capsys, monkeypatch, decoding):
  # The compiler would take half a minute for the training step that is traced here.
  monkeypatch.setattr(planner, '_compile', lambda lowered: 2**40)
  fsdp = json_of(capsys, *SHARDED)
  assert fsdp['mesh'] == {'data': 1, 'fsdp': 2, 'model': 2}
  # Layer norms, position biases and the parameters of prompts are not sharded.
  assert fsdp['params_bytes'] < 0.5 * decoding['params_bytes']
  assert fsdp['optimizer_bytes'] > 2 * 128 * 4  # the size of the history
  assert (fsdp['fits'], fsdp['peak_bytes']) == (False, 2**40)


def test_a_kernel_in_int8_takes_a_byte_for_each_number(capsys, monkeypatch, decoding):
  monkeypatch.setattr(planner, '_compile', lambda lowered: 2**40)
  report = json_of(capsys, '--step=decode', '--weights=int8')
  # Three attentions with heads of 2 x 4, two MLPs and the output layer, of width 16.
  numbers = 3 * 4 * 16 * 8 + 2 * 3 * 16 * 16 + 16 * 384
  scales = 3 * (3 * 8 + 16) + 2 * 3 * 16 + 384
  saved = decoding['params_bytes'] - report['params_bytes']
  assert saved == 3 * numbers - 4 * scales


@pytest.mark.slow(held_by='test_a_kernel_in_int8_takes_a_byte_for_each_number')
def test_kernels_are_read_in_int8(capsys, monkeypatch):
  programs, parse = [], hlo.parse
  monkeypatch.setattr(hlo, 'parse', lambda text: programs.append(text) or parse(text))
  network = {**FUSED, 'config.Config.vocab_size': VOCAB}
  json_of(capsys, '--step=decode', '--weights=int8', topology='v4:1x1x1', network=network)
  # The loop over positions holds the stacks of layers in int8, and not converted.
  own = ' while(', 'op_name="jit(predict)/while"'
  (loop,) = (x for x in programs[0].splitlines() if all(part in x for part in own))
  stack = f'[{LAYERS},{EMB},{MLP}]'
  assert f's8{stack}' in loop and f'f16{stack}' not in loop and f'f32{stack}' not in loop


@pytest.mark.slow(held_by='test_parameters_and_optimizer_are_sharded')
def test_a_training_step_gathers_sharded_parameters(capsys, decoding):
  fsdp = json_of(capsys, *SHARDED)
  assert fsdp['cost']['collectives']['all-gather'] > 0
  assert decoding['carried_whole'] == {} and fsdp['carried_whole']


def test_decoding(decoding):
  assert decoding['step'] == 'decode' and decoding['optimizer_bytes'] == 0
  assert decoding['cost']['flops'] > 0 and decoding['cost']['unknown_loops'] == 0
  tokens = 8 * 8  # rows and tokens of SMALL
  assert decoding['tokens_per_second'] == pytest.approx(tokens / decoding['step_seconds'])


def test_a_search_of_two_beams_and_what_the_method_adds_to_it(capsys, decoding):
  """In decoding, a method only adds keys and values to the loop."""
  report = json_of(capsys, '--step=decode', '--share', '--num_decodes=2')
  assert 0 < report['share']['flops'] < 1
  # The decoder has twice the rows, and the encoder as many as before.
  assert 1 < report['cost']['flops'] / decoding['cost']['flops'] < 2
  assert report['cost']['unknown_loops'] == 0


def test_the_table(capsys):
  assert cli.main(arguments('--step=decode')) == 0
  out = capsys.readouterr().out
  assert 'decode step on v5e:2x2 (data 4 x fsdp 1 x model 1)' in out
  for row in ('parameters', 'optimizer', 'peak', 'fits', 'arithmetic', 'all-reduce ('):
    assert row in out


@pytest.mark.slow(held_by='test_the_compiler_tells_what_a_step_needs')
def test_what_does_not_fit_is_said_with_its_size(capsys):
  sizes = ('--batch_size=4096', '--inputs_length=2048', '--targets_length=8')
  report = json_of(capsys, '--gin.REMAT_POLICY="none"', topology='v5e:1x1', sizes=sizes)
  assert not report['fits'] and report['cost'] is None
  # The attention logits of one layer alone take this memory.
  assert report['peak_bytes'] > 4096 * 2 * 2048 * 2048 * 2
  assert report['hbm_bytes'] == 16 * 2**30


def test_the_compiler_tells_what_a_step_needs():
  message = (
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.53G of 15.75G hbm. '
    'Exceeded hbm capacity by 4.78G.'
  )
  assert planner._needed_bytes(message) == int(20.53 * 2**30)
  assert planner._needed_bytes('INTERNAL: something else') is None


@pytest.mark.slow(held_by='test_a_sweep_goes_on_to_the_smallest_slice_that_fits')
def test_a_sweep_ranks_the_meshes_of_a_slice(capsys):
  report = json_of(capsys, '--sweep', '--step=decode')['plans']
  meshes = [tuple(plan['mesh'].values()) for plan in report]
  assert sorted(meshes) == [(1, 2, 2), (1, 4, 1), (2, 1, 2), (4, 1, 1)]
  seconds = [plan['step_seconds'] for plan in report]
  assert seconds == sorted(seconds) and seconds[0] < seconds[-1]
  assert all(plan['fits'] for plan in report)


def test_a_sweep_goes_on_to_the_smallest_slice_that_fits(monkeypatch):
  """A stand-in plans: four chips are too few, and on eight, two must share a model."""
  tried = []

  def plan(self, where, mesh, *_):
    tried.append((where.name, mesh))
    return Plan(
      topology=where.name,
      mesh=dataclasses.asdict(mesh),
      step='train',
      hbm_bytes=1,
      params_bytes=0,
      optimizer_bytes=0,
      fits=where.num_chips > 4 and mesh.num_partitions == 2,
      step_seconds=mesh.fsdp,
    )

  monkeypatch.setattr(Planner, 'plan', plan)
  files = [*FILES, 'runs/plan.gin']
  gin_files.parse(files, [f'{k}={v}' for k, v in tiny_run.NETWORK.items()])
  planner = gin_files.call(Planner)
  report = planner.sweep('v5e', Batch(8, 16, 8))
  assert [planned.topology for planned in report] == ['v5e:2x4'] * 2
  assert [planned.mesh for planned in report] == [
    {'num_partitions': 2, 'fsdp': 1},
    {'num_partitions': 2, 'fsdp': 4},
  ]
  # If the two plans with the least memory do not fit on a slice, no others are tried.
  assert [name for name, _ in tried] == ['v5e:1x1', *['v5e:2x2'] * 2, *['v5e:2x4'] * 4]
  lines = []
  with pytest.raises(UserError, match='nothing fits, of 2 meshes'):
    planner.sweep(
      'v5e:2x2', Batch(8, 16, 8), done=lambda planned: lines.append(tables.line(planned))
    )
  assert len(lines) == 2 and all('does not fit' in line for line in lines)


def test_a_sweep_in_a_table(capsys):
  assert cli.main(arguments('--sweep', '--step=decode', topology='v5e:1x1')) == 0
  out, err = capsys.readouterr()
  assert 'best: --topology=v5e:1x1 --num_partitions=1 --fsdp=1' in out
  assert 'v5e:1x1, model 1, fsdp 1: compiling' in err


@pytest.mark.parametrize(
  ('more', 'expected'),
  [
    (('--sweep', '--topology=v9'), '--topology=v9: --sweep takes a generation (v4, '),
    (('--sweep', '--fsdp=2'), '--sweep chooses the mesh: leave out --num_partitions'),
    (('--topology=v4',), 'expected a generation'),
    (('--batch_size=6',), 'BATCH_SIZE=6 is not divided by the 4 data-parallel device(s)'),
    (('--num_partitions=3',), 'v5e:2x2 has 4 chips, which num_partitions=3'),
    (('--fsdp=0',), '--fsdp must be a positive integer, not 0'),
    (('--num_partitions=4',), 'num_heads=2 is not divided by NUM_PARTITIONS=4'),
    (('--fsdp=4', '--gin.config.Config.emb_dim=18'), 'emb_dim=18 is not divided by'),
    (('--gin.NUM_MICROBATCHES=3',), 'is not divided by NUM_MICROBATCHES=3'),
    (('--gin.TUNED_PARAMETERS=\'some\'',), 'TUNED_PARAMETERS must be'),
    (('--topology=v7:2x2',), 'expected a generation'),
    (('--step=eval',), "invalid choice: 'eval'"),
    (('--num_decodes=4',), '--num_decodes=4: beams are for --step=decode'),
    (('--weights=int8',), '--weights=int8: int8 is for --step=decode'),
    (('--weights=int4', '--step=decode'), "invalid choice: 'int4'"),
    (('--num_decodes=0',), '--num_decodes must be a positive integer, not 0'),
  ],
)  # fmt: skip
def test_what_cannot_be(capsys, more, expected):
  capsys.readouterr()
  assert cli.main(arguments(*more)) == 2
  out, err = capsys.readouterr()
  assert out == '' and expected in err and len(err.splitlines()) == 1
