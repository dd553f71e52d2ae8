"""Loaded models for tests, made without a checkpoint."""

from hyperprompt_jax.checkpoints.identity import description_of
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.programs import Programs
from hyperprompt_jax.inference.tokenizer import ByteTokenizer
from tests import tiny

LENGTHS = {'inputs': 24, 'targets': 6}
LABELS = ['no', 'yes', 'maybe']
SIZES = {'emb_dim': 16, 'num_heads': 2, 'mlp_dim': 16, 'vocab_size': 264}


def record(model, **changes) -> RecordedRun:
  """The record of a run of a network, whose first task has labels."""
  values = {
    'network': description_of(model),
    'settings': {'MIXTURE_OR_TASK_NAME': 'mixture', 'TASK_FEATURE_LENGTHS': LENGTHS},
    'task_list': tuple(model.task_list),
    'tasks': {'mixture.a': {'conditioned_task': model.task_list[0], 'labels': LABELS}},
  }
  return RecordedRun(**{**values, **changes})


def model(method=None):
  """A network of one and one layer whose vocabulary is bytes."""
  return tiny.model(method, **SIZES, num_encoder_layers=1, num_decoder_layers=1)


def predictor(method=None, batch_size=8) -> Predictor:
  """A model with random parameters."""
  network = model(method)
  programs = Programs(network, tiny.init(network, 1), None)
  return Predictor(programs, ByteTokenizer(), record(network), 7, batch_size)
