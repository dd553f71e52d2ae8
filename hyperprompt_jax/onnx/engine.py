"""Answers by ONNX Runtime, on the CPU."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperprompt_jax import decoding
from hyperprompt_jax.checkpoints.folders import ONNX_ENCODER
from hyperprompt_jax.errors import UserError, reason_of
from hyperprompt_jax.inference import batches, programs
from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.inference.engine import Features
from hyperprompt_jax.onnx.names import ATTENTION, DECODER
from hyperprompt_jax.runtime import environment

# Arrays of ONNX Runtime by the names that the graphs have for them.
Values = dict[str, Any]


class OnnxEngine:
  """The graphs of an exported model, an `inference.engine.Engine`.

  Sizes of batches are free: rows and columns of padding alone are cut off.

  Args:
    folder: is the folder of the export, whose files have been checked.
    eos_id: is the token that ends a text.
    num_layers: is the number of the decoder's layers.

  Raises:
    UserError: if the package onnxruntime is missing, or cannot read the graphs.
  """

  least_rows = 1
  compiled = None

  def __init__(self, folder: str, eos_id: int, num_layers: int):
    self._folder = pathlib.Path(folder)
    self._eos_id = eos_id
    self._encoder = _session(self._folder / ONNX_ENCODER)
    self._decoder = _session(self._folder / DECODER)
    layers = range(num_layers)
    self._cache = [f'{name}_{i}' for i in layers for name in ('key', 'value')]
    self._shared = ['mask', *(f'cross_{name}' for name in self._cache)]

  def adopt(self, other: Any) -> bool:
    """Returns True: there is nothing to compile."""
    del other
    return True

  def generate(
    self, features: Features, generation: Generation, limit: int, places: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Generates answers; see `Engine.generate`."""
    shape = programs.Shape.from_generation(generation, limit)
    inputs, tasks = _trimmed(features)
    start = self._started(inputs, tasks)
    if shape.num_decodes == 1 and not shape.samples:
      tokens, likelihoods = self._greedy(start, limit, shape.length)
      return tokens[:, None], likelihoods[:, None]
    settings = decoding.DecodeSettings(
      len(tasks), shape.length, self._eos_id, limit=jnp.int32(limit)
    )
    numbers = programs.numbers_of(generation, limit, places[: len(tasks)])
    # The loop calls ONNX Runtime, so it runs in Python.
    with jax.disable_jit():
      made = programs.search(
        self._step(start), jnp.arange(len(tasks)), settings, shape, numbers
      )
    return np.asarray(made[0]), np.asarray(made[1])

  def score(self, features: Features) -> np.ndarray:
    """Returns the log likelihoods of targets, `[B]` float32."""
    inputs, tasks = _trimmed(features)
    rows = len(tasks)
    return self._scores(
      self._started(inputs, tasks),
      features['decoder_input_tokens'][:rows],
      features['decoder_target_tokens'][:rows],
    )

  def rank(self, features: Features, labels: np.ndarray) -> np.ndarray:
    """Returns the log likelihoods of each row's labels `[B, N, Q]`, as `[B, N]` float32."""
    inputs, tasks = _trimmed(features)
    rows, number = len(tasks), labels.shape[1]
    start = _gathered(self._started(inputs, tasks), np.repeat(np.arange(rows), number))
    targets = labels[:rows].reshape(rows * number, -1)
    logs = self._scores(start, batches.shifted(targets), targets)
    return logs.reshape(rows, number)

  def encode(self, features: Features) -> np.ndarray:
    """Returns the encoder's outputs for the inputs' tokens, `[B, K, d]` float32."""
    inputs, tasks = _trimmed(features)
    encoded = self._encode(inputs, tasks, ['activations'])['activations'].numpy()
    # Input prompts, where a method has them, stand before the tokens.
    return encoded[:, -inputs.shape[1] :]

  def attention(self, features: Features) -> np.ndarray:
    """Returns the attention mass on prompts in the encoder, `[B, m]` float32."""
    inputs, tasks = _trimmed(features)
    given = {'inputs': _value(inputs), 'task_ids': _value(tasks)}
    return _run(self._attention, ['prompt_mass'], given)['prompt_mass'].numpy()

  @functools.cached_property
  def _attention(self) -> Any:
    """The graph of attention, which few ask for."""
    return _session(self._folder / ATTENTION)

  def _encode(self, inputs: np.ndarray, tasks: np.ndarray, outputs: list[str]) -> Values:
    given = {'inputs': _value(inputs), 'task_ids': _value(tasks)}
    return _run(self._encoder, outputs, given)

  def _started(self, inputs: np.ndarray, tasks: np.ndarray) -> Values:
    """Encodes a batch; returns the arrays from which the decoder starts."""
    started = self._encode(inputs, tasks, [*self._shared, *self._cache])
    return {**started, 'task_ids': _value(tasks)}

  def _decode(
    self, start: Values, tokens: np.ndarray, targets: np.ndarray, outputs: Sequence[str]
  ) -> Values:
    """Runs the decoder on tokens `[B, Q]` that follow those of the cache."""
    given = {f'past_{name}': start[name] for name in self._cache}
    given |= {name: start[name] for name in ('task_ids', *self._shared)}
    given |= {'tokens': _value(tokens), 'targets': _value(targets)}
    return _run(self._decoder, outputs, given)

  def _scores(self, start: Values, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
    name = 'target_log_probability'
    logs = self._decode(start, tokens, targets, [name])[name].numpy()
    return (logs * (targets > 0)).sum(axis=1)

  def _greedy(
    self, start: Values, limit: int, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Takes the likeliest token at every position, as `decoding.greedy` does."""
    rows = start['task_ids'].shape()[0]
    tokens, scores = np.zeros((rows, length), np.int32), np.zeros(rows, np.float32)
    last, ended = np.zeros((rows, 1), np.int32), np.zeros(rows, bool)
    names = ('best', 'best_log_probability')
    for position in range(limit):
      made = self._decode(start, last, last, [*names, *self._cache])
      best, logs = (made.pop(name).numpy()[:, 0] for name in names)
      tokens[:, position] = np.where(ended, 0, best)
      scores += np.where(ended, 0, logs)
      ended |= best == self._eos_id
      if ended.all():
        break
      start, last = {**start, **made}, tokens[:, position, None]
    return tokens, scores

  def _step(self, start: Values) -> decoding.StepFn:
    """Returns a step function whose state is the row that each candidate comes from.

    The arrays themselves stay here, and are gathered by these rows.
    """
    held = start

    def step(tokens: Any, state: Any, index: Any) -> tuple[jax.Array, jax.Array]:
      nonlocal held
      del index
      held = _gathered(held, np.asarray(state))
      last = np.asarray(tokens, np.int32)[:, None]
      name = 'log_probabilities'
      made = self._decode(held, last, last, [name, *self._cache])
      logs = jnp.asarray(made.pop(name).numpy()[:, 0])
      held = {**held, **made}
      return logs, jnp.arange(len(last))

    return step


def _trimmed(features: Features) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs `[B, K]` and tasks `[B]` without rows and columns of padding alone."""
  inputs = np.asarray(features['encoder_input_tokens'])
  rows, columns = (int(places.max()) + 1 for places in inputs.nonzero())
  tasks = np.asarray(features['task_ids'])[:rows, 0]
  return np.ascontiguousarray(inputs[:rows, :columns]), tasks


def _session(path: pathlib.Path) -> Any:
  """Opens a graph.

  Raises:
    UserError: if the package onnxruntime is missing, or cannot read the graph.
  """
  try:
    import onnxruntime
  except ModuleNotFoundError as error:
    raise UserError(
      f"{path} needs the package onnxruntime: pip install 'hyperprompt-jax[onnx]'"
    ) from error
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = environment.num_threads()
  # Threads that wait by counting take the time of whatever else runs on their cores.
  options.add_session_config_entry('session.intra_op.allow_spinning', '0')
  options.log_severity_level = 3  # errors
  try:
    return onnxruntime.InferenceSession(
      str(path), options, providers=['CPUExecutionProvider']
    )
  except Exception as error:  # its own classes have no common base
    raise UserError(f'{path} cannot be opened: {reason_of(error)}') from error


def _run(session: Any, outputs: Sequence[str], given: Values) -> Values:
  """Computes the outputs that are asked for."""
  made = session.run_with_ort_values(list(outputs), given)
  return dict(zip(outputs, made, strict=True))


def _value(array: np.ndarray) -> Any:
  import onnxruntime

  return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, np.int32))


def _gathered(values: Values, rows: np.ndarray) -> Values:
  """Returns the rows of arrays, `[B, ...]`."""
  import onnxruntime

  present = next(iter(values.values())).shape()[0]
  if len(rows) == present and (rows == np.arange(present)).all():
    return values
  make = onnxruntime.OrtValue.ortvalue_from_numpy
  return {name: make(value.numpy()[rows]) for name, value in values.items()}
