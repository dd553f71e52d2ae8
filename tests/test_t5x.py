"""Our network, compared with T5X's own, and under T5X's loop; skipped without T5X."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

pytest.importorskip(
  't5x.train',
  reason='T5X cannot be imported: docs/how_to/t5x.md says how to install it',
  exc_type=ImportError,
)

from flax.core import unfreeze
from t5x import adafactor, checkpoints, decoding, models, optimizers, partitioning, utils
from t5x import train_state as train_states
from t5x.examples.t5 import network
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from hyperprompt_jax import t5x as adapter
from hyperprompt_jax.checkpoints import TrainState
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.lazy import in_memory
from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import SingleTask
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.training import optimizers as our_optimizers
from hyperprompt_jax.training import train_step
from tests import published, tiny

pytestmark = pytest.mark.t5x

GIN = gin_files.gin_directory()
VOCABULARY = seqio.ByteVocabulary()
# Adafactor factors second moments only of arrays with two axes of at least 128.
SIZES = {
  'vocab_size': 384,
  'emb_dim': 128,
  'num_heads': 4,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
  'head_dim': 32,
  'mlp_dim': 256,
  'dropout_rate': 0.0,
}
KINDS = {
  't5_1_1': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False},
  't5_1_0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
}


def theirs(kind) -> models.EncoderDecoderModel:
  """T5X's own model."""
  rules = adafactor.standard_logical_factor_rules()
  return models.EncoderDecoderModel(
    network.Transformer(network.T5Config(**SIZES, **KINDS[kind])),
    VOCABULARY,
    VOCABULARY,
    adafactor.Adafactor(decay_rate=0.8, logical_factor_rules=rules),
    z_loss=1e-4,
  )


def ours(config: Config, method=None, tasks=tiny.TASKS, **kwargs):
  """Our model under T5X."""
  rules = adapter.standard_logical_factor_rules()
  return adapter.EncoderDecoderModel(
    config,
    method or tiny.mtl(),
    tasks,
    VOCABULARY,
    VOCABULARY,
    adafactor.Adafactor(decay_rate=0.8, logical_factor_rules=rules),
    z_loss=1e-4,
    **kwargs,
  )


def config_of(kind) -> Config:
  return Config(**SIZES, **KINDS[kind], scan_layers=False)


@pytest.fixture(scope='module', params=KINDS)
def kind(request):
  return request.param


@pytest.fixture(scope='module')
def params(kind):
  return tiny.init(Model(config_of(kind), tiny.mtl(), tiny.TASKS))


@pytest.fixture(scope='module')
def batch():
  return tiny.batch(rows=4, inputs=12, targets=8)


def variables_of(model):
  shapes = dict.fromkeys(('encoder_input_tokens', 'decoder_input_tokens'), (4, 8))
  return jax.eval_shape(
    lambda: unfreeze(model.get_initial_variables(jax.random.PRNGKey(0), shapes))
  )


def test_the_tree_and_the_logical_axes_are_t5xs(kind):
  want, got = variables_of(theirs(kind)), variables_of(ours(config_of(kind)))
  assert jax.tree.structure(want['params']) == jax.tree.structure(got['params'])
  assert jax.tree.map(jnp.shape, want['params']) == jax.tree.map(jnp.shape, got['params'])
  assert by_path_of_axes(want['params_axes']) == by_path_of_axes(got['params_axes'])


def by_path_of_axes(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'names'))
  return {jax.tree_util.keystr(path): leaf.names for path, leaf in leaves}


def test_logits_are_t5xs(kind, params, batch):
  want = jax.jit(theirs(kind)._compute_logits)(params, batch)
  got = jax.jit(ours(config_of(kind))._compute_logits)(params, batch)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('num_decodes', [1, 4])
def test_generations_are_t5xs(kind, params, batch, num_decodes):
  predict = lambda model: jax.jit(
    functools.partial(
      model.predict_batch_with_aux, num_decodes=num_decodes, return_all_decodes=True
    )
  )(params, batch)
  want, got = predict(theirs(kind)), predict(ours(config_of(kind)))
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1]['scores'], want[1]['scores'], rtol=1e-4)


def test_sampling_and_forced_prefixes_are_t5xs(batch):
  """Covers T5 1.1 alone; the first three tokens are forced."""
  kind = 't5_1_1'
  params = tiny.init(Model(config_of(kind), tiny.mtl(), tiny.TASKS))
  prefix = batch['decoder_input_tokens'] * (jnp.arange(8) < 4)
  decode_fn = functools.partial(decoding.temperature_sample, topk=1)
  outcome = []
  for model in (theirs(kind), ours(config_of(kind))):
    model._decode_fn = decode_fn
    predict = functools.partial(model.predict_batch_with_aux, prompt_with_targets=True)
    given = {**batch, 'decoder_input_tokens': prefix}
    outcome.append(jax.jit(predict)(params, given, rng=jax.random.PRNGKey(0))[0])
  np.testing.assert_array_equal(outcome[0], outcome[1])
  np.testing.assert_array_equal(outcome[1][:, :3], prefix[:, 1:4])


def test_one_step_of_adafactor_is_t5xs(kind, params, batch):
  learning_rate = 1e-3
  model = theirs(kind)
  variables = {**variables_of(model), 'params': params}
  state = train_states.FlaxOptimTrainState.create(model.optimizer_def, variables)
  grads = jax.jit(jax.grad(lambda p: model.loss_fn(p, batch, None)[0]))(params)
  factored = state.param_states['encoder']['layers_0']['mlp']['wo']['kernel']
  assert factored.v_row.shape == (128,) and factored.v_col.shape == (256,)
  want = jax.jit(state.apply_gradient)(grads, learning_rate=learning_rate).params

  our_model = Model(config_of(kind), tiny.mtl(), tiny.TASKS)
  optimizer, partitioner = our_optimizers.adafactor(learning_rate), Partitioner()
  with partitioner.activate():
    like = train_step.abstract_state(our_model, optimizer, partitioner)
    step = train_step.make_train_step(our_model, optimizer, partitioner, like, seed=0)
    start = TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params))
    got = step(start, batch)[0].params
  largest_change = max(
    float(np.abs(x - y).max())
    for x, y in zip(jax.tree.leaves(want), jax.tree.leaves(params), strict=True)
  )
  assert largest_change > 1e-3
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5), got, unfreeze(want)
  )


def test_the_loss_and_the_score_of_packed_rows(batch):
  config = tiny.config(scan_layers=False, vocab_size=384)
  method = tiny.hyperprompt()
  model, our_model = ours(config, method), Model(config, method, tiny.TASKS)
  params = tiny.init(our_model)
  packed = tiny.pack(batch, [(0, 1), (2, 3)])
  got, metrics = jax.jit(lambda p: model.loss_fn(p, packed, None))(params)
  want, sums = jax.jit(lambda p: our_model.loss(p, packed, None))(params)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['accuracy'].compute(), sums['correct'] / sums['tokens'], rtol=1e-6
  )
  scores = jax.jit(model.score_batch)(params, batch)
  conditioning = our_model.condition(params)
  np.testing.assert_allclose(
    scores, jax.jit(our_model.score)(params, conditioning, batch), rtol=1e-4
  )


def test_single_task_fine_tuning_of_several_tasks_is_refused():
  with pytest.raises(UserError, match='one task at a time, and the mixture has 4'):
    ours(tiny.config(vocab_size=384), SingleTask())


# ---- Checkpoints ----


def partitioner():
  return partitioning.PjitPartitioner(
    num_partitions=1, logical_axis_rules=adapter.standard_logical_axis_rules()
  )


def initializer(model):
  shapes = dict.fromkeys(('encoder_input_tokens', 'decoder_input_tokens'), (4, 8))
  return utils.TrainStateInitializer(
    model.optimizer_def, model.get_initial_variables, shapes, partitioner()
  )


def restore(path, model, fresh='task'):
  """Restores INITIAL_CHECKPOINT_PATH as `t5x.train` does with `t5x/finetune.gin`."""
  config = utils.RestoreCheckpointConfig(
    path=str(path),
    mode='specific',
    dtype='float32',
    fallback_to_scratch=True,
    state_transformation_fns=[adapter.check_checkpoint(str(path), fresh)],
  )
  state, _ = utils.create_checkpoint_manager_and_restore(
    initializer(model),
    partitioner(),
    config,
    str(path),
    jax.random.PRNGKey(1),
    use_orbax=True,
  )
  return state


@pytest.fixture(scope='module')
def public(tmp_path_factory):
  """A native checkpoint of a backbone, optimizer state included, as T5X writes it."""
  folder = tmp_path_factory.mktemp('public')
  state = initializer(ours(published.CONFIG)).from_scratch(jax.random.PRNGKey(0))
  optimizer = state._optimizer
  stepped = optimizer.replace(
    state=optimizers.OptimizerState(jnp.int32(published.STEP), optimizer.state.param_states)
  )
  state = state.replace(_optimizer=stepped)
  writer = checkpoints.Checkpointer(state, partitioner(), str(folder))
  writer.save(state)
  params = {path: np.asarray(x) for path, x in by_path(unfreeze(state.params)).items()}
  return folder / f'checkpoint_{published.STEP}', params


def test_a_checkpoint_of_t5xs_is_read(public):
  path, params = public
  source = open_source(str(path))
  assert (source.kind, source.step) == ('T5X', published.STEP)
  published.assert_same(published.values(source.arrays), params)
  assert source.backbone_config() == published.CONFIG


def test_a_checkpoint_of_ours_is_read_by_t5x(tmp_path):
  path = published.t5x(tmp_path)
  state = checkpoints.load_t5x_checkpoint(str(path))
  assert int(state['state']['step']) == published.STEP
  published.assert_same(
    {name: np.asarray(x) for name, x in by_path(state['target']).items()},
    published.values(published.arrays()),
  )


@pytest.mark.parametrize('with_optimizer', [True, False])
def test_a_public_checkpoint_restores_with_the_method_fresh(
  public, tmp_path, with_optimizer
):
  path, params = public
  if not with_optimizer:
    path = published.t5x(tmp_path)
    params = published.values(published.arrays())
  state = restore(path, ours(published.CONFIG, tiny.hyperprompt()))
  assert int(state.step) == published.STEP
  outcome = {name: np.asarray(x) for name, x in by_path(unfreeze(state.params)).items()}
  method = {name: x for name, x in outcome.items() if name.startswith('method/')}
  assert method and all(np.any(x) for x in method.values())
  published.assert_same({n: x for n, x in outcome.items() if n not in method}, params)


@pytest.mark.parametrize(('edit', 'message'), published.DIFFERENCES)
def test_any_other_difference_is_a_table(tmp_path, edit, message):
  arrays = published.arrays()
  edit(arrays)
  path = published.t5x(tmp_path, arrays)
  with pytest.raises(UserError) as error:
    restore(path, ours(published.CONFIG, tiny.hyperprompt()))
  assert message in str(error.value).splitlines()[1]


def test_a_method_that_is_missing_or_dropped_where_none_may_be(tmp_path):
  backbone = published.t5x(tmp_path / 'backbone')
  with pytest.raises(UserError, match='method/encoder_prompts: wanted'):
    restore(backbone, ours(published.CONFIG, tiny.hyperprompt()), 'none')
  more = {**published.arrays(), 'method/prompts': in_memory(np.zeros((4, 2, 16)))}
  with pytest.raises(UserError, match='method/prompts: wanted absent'):
    restore(published.t5x(tmp_path / 'more', more), ours(published.CONFIG), 'none')


def test_scanned_layers_are_refused(tmp_path):
  path = published.t5x(tmp_path)
  config = Config(**{**vars(published.CONFIG), 'scan_layers': True})
  with pytest.raises(UserError, match='T5X restores unrolled layers alone'):
    restore(path, ours(config, tiny.hyperprompt()))


# ---- t5x.train, t5x.eval, t5x.infer ----


def run(module, gin_file, **bindings):
  """Runs one of T5X's mains with our gin files, from inside their folder."""
  method = 'methods/hyperprompt_global.gin'
  command = [
    *(sys.executable, '-m', f't5x.{module}'),
    *(f'--gin_file={file}' for file in (f't5x/{gin_file}', 'models/tiny.gin', method)),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]
  package = str(GIN.parent)
  paths = [package, f'{package}/tasks', os.environ.get('PYTHONPATH', '')]
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
  done = subprocess.run(
    command, cwd=GIN, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]


def scalars(folder, name):
  """The values of a metric, in the order of steps."""
  events = event_accumulator.EventAccumulator(str(folder)).Reload()
  return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(name)]


def test_train_eval_and_infer_on_the_built_in_mixture(tmp_path):
  model_dir = tmp_path / 'run'
  run(
    'train',
    'finetune.gin',
    MIXTURE_OR_TASK_NAME='hp_builtin',
    TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32},
    MODEL_DIR=str(model_dir),
    TRAIN_STEPS=50,
    BATCH_SIZE=16,
    DROPOUT_RATE=0.0,
    RANDOM_SEED=0,
    EVAL_PERIOD=50,
    EVAL_STEPS=1,
    EVALUATOR_NUM_EXAMPLES=4,
    **{
      'train.stats_period': 10,
      'utils.SaveCheckpointConfig.period': 50,
      'utils.create_learning_rate_scheduler.base_learning_rate': 0.01,
    },
  )
  losses = scalars(model_dir / 'train', 'loss_per_nonpadding_target_token')
  assert len(losses) == 5 and losses[-1] < 0.5 * losses[0]
  # Rows are packed, so that 16 of them hold many more examples.
  assert scalars(model_dir / 'train', 'effective_batch_size/decoder')[-1] > 32

  checkpoint = str(model_dir / 'checkpoint_50')
  run(
    'eval',
    'eval.gin',
    MIXTURE_OR_TASK_NAME='hp_builtin',
    CHECKPOINT_PATH=checkpoint,
    EVAL_OUTPUT_DIR=str(tmp_path / 'eval'),
    **{'seqio.Evaluator.num_examples': 4},
  )
  metrics = sorted((tmp_path / 'eval/inference_eval').glob('*-metrics.jsonl'))
  assert len(metrics) == 8
  trained = model_dir / 'inference_eval'
  for path in metrics:
    # The same parameters predict the same examples.
    got, want = (json.loads((d / path.name).read_text()) for d in (path.parent, trained))
    assert got == want

  run(
    'infer',
    'infer.gin',
    MIXTURE_OR_TASK_NAME='hp_builtin_first',
    TASK_FEATURE_LENGTHS={'inputs': 20, 'targets': 8},
    CHECKPOINT_PATH=checkpoint,
    INFER_OUTPUT_DIR=str(tmp_path / 'infer'),
    **{'utils.DatasetConfig.split': 'validation'},
  )
  (written,) = (tmp_path / 'infer').glob('*-predict.jsonl-00000-of-00001')
  lines = [json.loads(line) for line in written.read_text().splitlines()]
  assert lines and all('prediction' in line for line in lines)
