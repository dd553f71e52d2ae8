"""Loads a model for use from a run, a bundle, a T5X checkpoint or a Hugging Face folder."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from hyperprompt_jax.checkpoints import folders, rounded
from hyperprompt_jax.checkpoints.differences import by_path, check_same_parameters
from hyperprompt_jax.checkpoints.formats import bundle
from hyperprompt_jax.checkpoints.identity import description_of, method_of, network_of
from hyperprompt_jax.checkpoints.lazy import arranged
from hyperprompt_jax.checkpoints.lazy import load as load_arrays
from hyperprompt_jax.checkpoints.source import Source, open_source, open_step
from hyperprompt_jax.configuration import recorded, run_folder
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError, shown
from hyperprompt_jax.evaluation.scores import best_of_run, scores_by_step
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.programs import Programs
from hyperprompt_jax.inference.tokenizer import Tokenizer, open_tokenizer
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn import backend
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.int8 import FLOAT32, INT8, Int8Params, variables
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import compilation_cache
from hyperprompt_jax.runtime.metrics_file import METRICS_FILE, read_metrics

LATEST, BEST = 'latest', 'best'
# The task and the lengths of a checkpoint that says nothing of either.
_TASK = 'text'
_LENGTHS = {'inputs': 512, 'targets': 128}
# The recorded names of mixtures are not needed to use a checkpoint.
_NO_MIXTURE = 'none'


def load(
  path: str | os.PathLike[str],
  step: int | str = LATEST,
  *,
  vocabulary: str | None = None,
  task_list: Sequence[str] | None = None,
  lengths: Mapping[str, int] | None = None,
  partitioner: Partitioner | None = None,
  batch_size: int = 32,
  weights: str | None = None,
) -> Predictor:
  """Loads a trained model, ready to answer.

  Nothing in the folder is executed. A run or bundle describes itself; of a bare checkpoint
  the vocabulary must be known, and its one task is `text` unless `task_list` names others.
  Compiled programs are kept for later processes, as by the command line.

  Args:
    path: names a MODEL_DIR, MODEL_DIR/checkpoints/STEP, a bundle, an ONNX export, a T5X
      checkpoint (local or `gs://`), or a Hugging Face folder.
    step: is a step of a run, 'latest', or 'best' for the highest average score.
    vocabulary: is 'bytes', a SentencePiece file or a folder that holds one; None takes the
      run's, or that of the Hugging Face folder.
    task_list: names the tasks of a bare checkpoint.
    lengths: gives the most tokens of `inputs` and `targets`, in place of the run's.
    partitioner: spreads the model over a mesh of devices; None takes the first device. An
      ONNX export computes on the CPU, whatever it is.
    batch_size: is the most inputs that are computed at once.
    weights: is the dtype of the kernels: 'float32' (the default), or 'int8', a quarter of
      the memory. An ONNX export has the weights that it was exported with.

  Raises:
    UserError: if the folder is none of these, or a part of it is missing or damaged.
  """
  compilation_cache.enable()
  path = os.fspath(path)
  check_weights(weights)
  decided = folders.decide(path)
  if decided.kind == folders.ONNX:
    if weights is not None:
      raise UserError(
        f'{path} is an export to ONNX, whose weights were chosen by convert --dtype: leave '
        f'out weights={weights}'
      )
    return _of_onnx(decided, step, vocabulary, lengths, batch_size)
  if decided.run is None:
    source = open_source(path)
    record = describe_bare(source, task_list)
    given = vocabulary or source.vocabulary
  else:
    record = run_folder.record_of(decided.run)
    source = _open(decided, step)
    given = vocabulary or record.vocabulary_in(decided.run)
  record = _with_lengths(record, lengths)
  model = _model(path, source, record)
  tokenizer = _tokenizer(path, given, model.config)
  params = read_params(model, source, partitioner, weights or FLOAT32)
  programs = Programs(model, params, partitioner)
  return Predictor(programs, tokenizer, record, source.step, batch_size)


def check_weights(weights: str | None) -> None:
  """Checks the dtype of kernels.

  Raises:
    UserError: if there is no such option.
  """
  if weights not in (None, FLOAT32, INT8):
    raise UserError(f'weights must be {FLOAT32!r} or {INT8!r}, not {shown(weights)}')


def _of_onnx(
  decided: folders.Decided,
  step: int | str,
  vocabulary: str | None,
  lengths: Mapping[str, int] | None,
  batch_size: int,
) -> Predictor:
  """Loads an export of `hyperprompt_jax.onnx`; the arguments are those of `load`."""
  from hyperprompt_jax.onnx import engine, names

  path = decided.path
  chosen_step(decided, step)
  record = run_folder.record_of(path)
  bundle.checked_files(path, record, names.FILES)
  config = network_of(path, record.network)
  assert config is not None  # a record describes one
  return Predictor(
    engine.OnnxEngine(path, config.eos_id, config.num_decoder_layers),
    _tokenizer(path, vocabulary or record.vocabulary_in(path), config),
    _with_lengths(record, lengths),
    record.trained['step'],
    batch_size,
  )


def _with_lengths(record: RecordedRun, lengths: Mapping[str, int] | None) -> RecordedRun:
  """Returns a record with other lengths of inputs and targets."""
  if not lengths:
    return record
  merged = {**record.lengths, **lengths}
  settings = {**record.settings, 'TASK_FEATURE_LENGTHS': merged}
  return dataclasses.replace(record, settings=settings)


def _tokenizer(path: str, name: str | None, config: Config) -> Tokenizer:
  """Opens the vocabulary, which must be that of the network."""
  if name is None:
    raise UserError(
      f'{path} has no vocabulary: name it (vocabulary=…), {shown(recorded.BYTES)} or a '
      'SentencePiece file'
    )
  tokenizer = open_tokenizer(name)
  if tokenizer.vocab_size > config.vocab_size or tokenizer.eos_id != config.eos_id:
    raise UserError(
      f'vocabulary {name} has {tokenizer.vocab_size} ids, of which {tokenizer.eos_id} ends '
      f'a text; the network has {config.vocab_size} rows and ends texts with '
      f'{config.eos_id}: take the vocabulary that it was trained with'
    )
  return tokenizer


def _model(path: str, source: Source, record: RecordedRun) -> Model:
  """Returns the network that a record describes, which the checkpoint must be of."""
  if source.task_list and tuple(record.task_list) != source.task_list:
    raise UserError(
      f'{source.path} is of the task list {", ".join(source.task_list)}, and the record '
      f'beside it has {", ".join(record.task_list)}: get the folder again'
    )
  config = network_of(path, record.network)
  if config is None:
    raise UserError(f'{path} describes no network')
  source.check_depth(config)
  if backend.unrolls_decoding():
    # A loop copies each layer's parameters, and decoding would unroll all at each call.
    config = dataclasses.replace(config, scan_layers=False)
  return Model(config, method_of(path, record.network), tuple(record.task_list))


def _open(decided: folders.Decided, step: int | str) -> Source:
  """Opens the parameters that were asked for."""
  chosen = chosen_step(decided, step)
  return open_source(decided.path) if chosen is None else open_step(decided.path, chosen)


def chosen_step(decided: folders.Decided, step: int | str) -> int | None:
  """Returns the step of a run that is asked for; None for a folder with one step alone.

  Args:
    decided: is the folder of a run, of one of its checkpoints, or of a bundle.
    step: is a number, 'latest' or 'best'.

  Raises:
    UserError: if there is no such step.
  """
  if decided.kind in (folders.BUNDLE, folders.ONNX) or decided.step is not None:
    if step not in (LATEST, decided.step):
      raise UserError(f'{decided.path} holds one step alone: leave out step={step!r}')
    return None
  steps, chosen = folders.steps(decided.path), folders.latest(decided)
  if step == BEST:
    metrics = read_metrics(epath.Path(decided.path) / METRICS_FILE)
    chosen = best_of_run(decided.path, scores_by_step(metrics), steps)
  elif not isinstance(step, bool) and str(step) in map(str, steps):
    chosen = int(step)
  elif step != LATEST:
    raise UserError(
      f'--step={step}: there is no such checkpoint; there are '
      f'{", ".join(map(str, steps))}, latest and best'
    )
  return chosen


def describe_bare(source: Source, task_list: Sequence[str] | None = None) -> RecordedRun:
  """Returns a record of a T5X checkpoint or a Hugging Face folder, which has none itself.

  Args:
    source: is the checkpoint.
    task_list: names its tasks; None for one task, `text`.

  Raises:
    UserError: if it has parameters of a method.
  """
  if source.method_paths:
    raise UserError(
      f'{source.path} holds parameters of a method ({source.method_paths[0]}, …) and no '
      'record of it: load the run or the bundle that it was made from'
    )
  # One layer is compiled for a stack.
  config = dataclasses.replace(source.backbone_config(), scan_layers=True)
  tasks = tuple(task_list or (_TASK,))
  model = Model(config, MultiTaskLearning(), tasks)
  return RecordedRun(
    network=description_of(model),
    settings={'MIXTURE_OR_TASK_NAME': _NO_MIXTURE, 'TASK_FEATURE_LENGTHS': _LENGTHS},
    task_list=tasks,
    tasks={},
    vocabulary=recorded.VOCABULARY_FILE,
  )


def read_params(
  model: Model, source: Source, partitioner: Partitioner | None, weights: str = FLOAT32
) -> Any:
  """Reads a checkpoint's parameters onto the devices.

  Kernels are rounded one by one as they are read, so that a host never holds them all in
  float32.

  Args:
    model: is the network.
    source: is the checkpoint.
    partitioner: spreads them over a mesh; None puts them on the first device.
    weights: is the dtype of the kernels, 'float32' or 'int8'.

  Raises:
    UserError: if they are not those of the network, or cannot be read.
  """
  shapes = model.param_shapes()
  if partitioner:
    shardings = partitioner.shardings(model.param_axes())
  else:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: place, shapes)
  abstract = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )
  wanted, title = by_path(abstract), f'reading {source.path}'
  arrays = arranged(source.arrays, wanted)
  check_same_parameters(source.path, wanted, arrays)
  if weights == FLOAT32:
    return load_arrays(arrays, wanted, title)
  wanted = by_path(variables(rounded.shapes(abstract)))
  arrays = arranged(rounded.arrays(source.arrays), wanted)
  return Int8Params(**load_arrays(arrays, wanted, title))
