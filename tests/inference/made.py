"""Loaded models for tests, made without a checkpoint."""

import json

import numpy as np
import pytest

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.formats import bundle
from hyperprompt_jax.checkpoints.identity import description_of
from hyperprompt_jax.checkpoints.lazy import in_memory, unrolled
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


def write_bundle(folder, network, params, **changes):
  """Writes a bundle of a network at step 12; returns its arrays by path."""
  arrays = {path: in_memory(np.asarray(x)) for path, x in by_path(params).items()}
  arrays = unrolled(arrays)
  run = folder.with_name('run')
  run.mkdir()
  scores = {'step': 12, 'eval/score/a': 81.5, 'eval/average': 81.5}
  (run / 'metrics.jsonl').write_text(json.dumps(scores) + '\n')
  folder.mkdir()
  written = bundle.write(folder, str(run), record(network, **changes), arrays, 12)
  assert {*written} == {*arrays}
  return arrays


QUESTIONS = [('a', 'some words'), ('c', 'x'), ('d', 'many more words to read'), ('a', 'z')]


def check_same(ours: Predictor, theirs: Predictor) -> None:
  """Checks that two models answer, score, rank and encode alike."""
  assert theirs.tasks == ours.tasks and theirs.step == ours.step
  same_answers(ours.predict(QUESTIONS), theirs.predict(QUESTIONS))
  texts = [text for _, text in QUESTIONS]
  targets = ['yes', 'no', 'may', 'x y']
  for one, other in zip(
    ours.score('d', texts, targets), theirs.score('d', texts, targets), strict=True
  ):
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)
  same_answers(ours.rank('a', texts), theirs.rank('a', texts))
  for one, other in zip(ours.encode('c', texts), theirs.encode('c', texts), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def same_answers(ours, theirs) -> None:
  """Checks that answers have the same tokens and likelihoods."""
  for one, other in zip(ours, theirs, strict=True):
    assert (one.text, one.tokens, one.finished) == (
      other.text,
      other.tokens,
      other.finished,
    )
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)
    same_answers(one.alternatives, other.alternatives)
