"""`hyperprompt convert`: a T5 from T5X, Hugging Face or a run to another format."""

import dataclasses
import json
import os
import pathlib
import shutil
import types
from typing import Any

from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.checkpoints import folded, folders, model_card, stablehlo
from hyperprompt_jax.checkpoints.formats import bundle, huggingface, t5x, t5x_gin
from hyperprompt_jax.checkpoints.formats.huggingface_config import check_writable
from hyperprompt_jax.checkpoints.formats.huggingface_names import FOLDED
from hyperprompt_jax.checkpoints.lazy import cast, checked_finite
from hyperprompt_jax.checkpoints.source import OF_RUNS, Source, open_source
from hyperprompt_jax.configuration import recorded, run_folder
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.runtime import files, terminal

T5X, HUGGING_FACE, BUNDLE = 't5x', 'huggingface', 'bundle'
STABLEHLO, ONNX = 'stablehlo', 'onnx'
INT8 = 'int8'
GIN_FILE = t5x_gin.OWN_FILE


def convert(
  path: str,
  output: str,
  to: str,
  *,
  vocab_size: int | None = None,
  dtype: str | None = None,
  drop_method: bool = False,
  keep_nonfinite: bool = False,
  license_name: str = 'unknown',
) -> dict[str, Any]:
  """Converts a checkpoint, one array after another; the output appears whole, at the end.

  T5X's checkpoints hold the method's parameters; Hugging Face's hold the prompts that it
  makes of all tasks, a modelling file that selects among them, and a model card.

  Args:
    path: names the checkpoint, as for `checkpoints.source.open_source`.
    output: names a folder that does not exist yet. T5X's checkpoint is `checkpoint_STEP` in
      it, beside `model.gin`, which describes the network as the files of `gin/models` do.
    to: is the format to write, 't5x' or 'huggingface'; `to_bundle` writes bundles.
    vocab_size: is the number of vocabulary rows to pad or cut to; None leaves them.
    dtype: is the dtype to cast to; None leaves the arrays unchanged, bit for bit.
    drop_method: tells whether to leave out the parameters of the method.
    keep_nonfinite: tells whether to convert NaN and infinite values, with a warning.
    license_name: is the licence that the model card names.

  Returns:
    A description of the output: `checkpoint`, `format`, `step`, `parameters`, `bytes`, and
    the network's `config` by name.

  Raises:
    UserError: if it cannot be read, written or held by the format, is no T5, or has values
      that are not finite.
  """
  source = open_source(path)
  vocabulary = _vocabulary(source)
  run = folders.decide(path).run
  record = recorded.read(run) if run else None
  source, prompts = _with_method(source, record, to, drop_method)
  config = source.backbone_config()
  if vocab_size is not None:
    config = dataclasses.replace(config, vocab_size=vocab_size)
    source = source.with_vocabulary(vocab_size)
  source = _cast(source, dtype)
  if to == HUGGING_FACE:
    (folded.check_foldable if prompts else check_writable)(config)
  nonfinite: set[str] = set()
  source = _checked_finite(source, nonfinite, keep_nonfinite)
  with files.writing_output(f'--output {output}'), files.whole_folder(output) as folder:
    name = _write_arrays(source, config, folder, to, prompts)
    vocabulary.copy(folder, to)
    if to == T5X:
      (folder / GIN_FILE).write_text(_gin(path, config, vocabulary.name_in(output)))
    elif record:
      _describe(pathlib.Path(folder), source, (str(run), record), license_name)
  if nonfinite:
    names = ', '.join(sorted(nonfinite))
    terminal.say(f'WARNING: {path} has values that are not finite in {names}')
  return _report(source, config, to, str(pathlib.Path(output) / name))


def _with_method(
  source: Source, record: RecordedRun | None, to: str, drop_method: bool
) -> tuple[Source, folded.Folded | None]:
  """Returns a source as a format takes it, and its prompts where it takes these.

  Args:
    source: is the checkpoint.
    record: is its record; None where it has none.
    to: is the format.
    drop_method: tells whether to leave out the method.

  Raises:
    UserError: if the format has no place for the method.
  """
  if drop_method:
    return source.without_method(), None
  if not source.method_paths:
    return source, None
  if source.method_paths[0].startswith(FOLDED):
    raise UserError(
      f'{source.path} holds prompts that were exported, from which no method can be made '
      'again: --drop_method converts the network without them'
    )
  if to == T5X:
    return source, None
  if record is None:
    raise UserError(
      f'{source.path} holds parameters of a method ({source.method_paths[0]}, …) and no '
      'record of it: convert the run that it was made from, or leave them out by '
      '--drop_method'
    )
  prompts = folded.fold(source, record)
  arrays = {**source.without_method().arrays, **prompts.arrays}
  return dataclasses.replace(source, arrays=arrays), prompts


def _cast(source: Source, dtype: str | None) -> Source:
  """Returns a source whose arrays have another dtype; None leaves them unchanged."""
  if dtype is None:
    return source
  arrays = {path: cast(array, dtype) for path, array in source.arrays.items()}
  return dataclasses.replace(source, arrays=arrays)


def _describe(
  folder: pathlib.Path, source: Source, run: tuple[str, RecordedRun], license_name: str
) -> None:
  """Writes the model card, and the length of answers, of a Hugging Face folder."""
  trained = bundle.trained(*run, source.step)
  record = dataclasses.replace(run[1], trained=trained)
  library = model_card.TRANSFORMERS
  model_card.write(folder, record, source.arrays, license_name, library)
  huggingface.write_generation(folder, record.lengths['targets'])


def _report(source: Source, config: Config, to: str, checkpoint: str) -> dict[str, Any]:
  """Describes the output."""
  return {
    'checkpoint': checkpoint,
    'format': to,
    'step': source.step,
    'parameters': sum(a.nbytes // a.dtype.itemsize for a in source.arrays.values()),
    'bytes': sum(array.nbytes for array in source.arrays.values()),
    'config': {f.name: getattr(config, f.name) for f in _sizes(config)},
  }


def _checked_finite(source: Source, nonfinite: set[str], keep: bool) -> Source:
  """Returns a source that refuses values that are not finite, or collects their paths."""

  def report(path: str) -> None:
    if not keep:
      raise UserError(
        f'{source.path}: {path} has values that are not finite, as after a fault in '
        'training: take another checkpoint, or --keep_nonfinite to convert it all the same'
      )
    nonfinite.add(path)

  arrays = {p: checked_finite(array, p, report) for p, array in source.arrays.items()}
  return dataclasses.replace(source, arrays=arrays)


def to_bundle(
  path: str, output: str, *, dtype: str | None = None, license_name: str = 'unknown'
) -> dict[str, Any]:
  """Converts a run to a bundle: parameters, record, vocabulary and a model card.

  Args:
    path: names a MODEL_DIR, one of its checkpoints, or a bundle.
    output: names a folder that does not exist yet.
    dtype: is the dtype to cast to; None leaves the arrays unchanged.
    license_name: is the licence that the model card names.

  Returns:
    The description that `convert` returns.

  Raises:
    UserError: if it is no run, cannot be read or written, or has values that are not
      finite.
  """
  run, record = _run_of(path)
  source = open_source(path)
  source = _checked_finite(_cast(source, dtype), set(), keep=False)
  total = sum(array.nbytes for array in source.arrays.values())
  with files.writing_output(f'--output {output}'), files.whole_folder(output) as folder:
    place = pathlib.Path(folder)
    written = bundle.write(place, run, record, source.arrays, source.step)
    with terminal.track_bytes(f'{source.kind} to a bundle', total) as advance:
      for name in written:
        advance(source.arrays[name].nbytes)
    made = run_folder.record_of(str(place))
    model_card.write(place, made, source.arrays, license_name)
  return _report(source, source.config or source.backbone_config(), BUNDLE, output)


def to_stablehlo(
  path: str, output: str, *, dtype: str | None = None, license_name: str = 'unknown'
) -> dict[str, Any]:
  """Converts a run to programs that JAX alone runs (`checkpoints.stablehlo`).

  The arguments, the result and the errors are those of `to_bundle`.
  """
  run, record = _run_of(path)
  source = open_source(path)
  exported = stablehlo.prepare(source, record)
  # The report and the checks concern the weights that are written.
  source = dataclasses.replace(source, arrays=exported.arrays)
  source = _checked_finite(_cast(source, dtype), set(), keep=False)
  exported = dataclasses.replace(exported, arrays=source.arrays)
  total = sum(array.nbytes for array in source.arrays.values())
  with files.writing_output(f'--output {output}'), files.whole_folder(output) as folder:
    place = pathlib.Path(folder)
    with terminal.track_bytes(f'{source.kind} to {STABLEHLO}', total) as advance:
      for name in exported.write(place):
        advance(source.arrays[name].nbytes)
    _vocabulary(source).copy(folder, STABLEHLO)
    trained = bundle.trained(run, record, source.step)
    record = dataclasses.replace(record, trained=trained)
    model_card.write(place, record, source.arrays, license_name, model_card.JAX)
  return _report(source, exported.programs.model.config, STABLEHLO, output)


def to_onnx(
  path: str, output: str, *, dtype: str | None = None, license_name: str = 'unknown'
) -> dict[str, Any]:
  """Converts a run to graphs that ONNX Runtime computes (`hyperprompt_jax.onnx`).

  Args:
    path: names a MODEL_DIR, one of its checkpoints, or a bundle.
    output: names a folder that does not exist yet.
    dtype: is the precision of products of matrices, 'float32' or 'int8'; None is float32.
    license_name: is the licence that the model card names.

  Returns:
    The description that `convert` returns.

  Raises:
    UserError: if the package `onnx` is missing, or as `to_bundle` does.
  """
  folder_of_onnx = _onnx()
  run, record = _run_of(path)
  source = _checked_finite(open_source(path), set(), keep=False)
  network = folder_of_onnx.prepare(source, record)
  with files.writing_output(f'--output {output}'), files.whole_folder(output) as folder:
    place = pathlib.Path(folder)
    with terminal.phase(f'{source.kind} to {ONNX}'):
      written = folder_of_onnx.write(place, network, int8=dtype == INT8)
    bundle.describe(place, run, record, source.step, written)
    made = run_folder.record_of(str(place))
    model_card.write(place, made, source.arrays, license_name)
    size = sum((place / name).stat().st_size for name in written)
  return {**_report(source, network.config, ONNX, output), 'bytes': size}


def _onnx() -> types.ModuleType:
  """Imports the writer of graphs, whose package is an extra.

  Raises:
    UserError: if it is missing.
  """
  try:
    from hyperprompt_jax.onnx import folder
  except ModuleNotFoundError as error:
    raise UserError(
      f"--to={ONNX} needs the package {error.name}: pip install 'hyperprompt-jax[onnx]'"
    ) from error
  return folder


def _run_of(path: str) -> tuple[str, RecordedRun]:
  """Returns the folder and the record of a run.

  Raises:
    UserError: if it is none.
  """
  run = folders.decide(path).run
  if run is None:
    raise UserError(
      f'{path} is no run of this project, and has no record of tasks and method: '
      f'--to={T5X} or --to={HUGGING_FACE}'
    )
  return run, run_folder.record_of(run)


def _write_arrays(
  source: Source,
  config: Config,
  folder: epath.Path,
  to: str,
  prompts: folded.Folded | None,
) -> str:
  """Writes the arrays with a progress bar; returns the checkpoint's name in the folder."""
  name = f'checkpoint_{source.step}' if to == T5X else ''
  checkpoint = pathlib.Path(folder / name)
  if to == T5X:
    checkpoint.mkdir()
    paths = t5x.write_native(checkpoint, source.arrays, source.step)
  else:
    settings = prompts.settings if prompts else {}
    paths = huggingface.write(checkpoint, source.arrays, config, settings)
  total = sum(array.nbytes for array in source.arrays.values())
  with terminal.track_bytes(f'{source.kind} to {to}', total) as advance:
    for path in paths:
      advance(source.arrays[path].nbytes)
  if prompts:
    prompts.write_code(checkpoint)
  return name


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
  """The vocabulary of a checkpoint.

  Attributes:
    name: names it as the macro VOCABULARY does; None if it is not known.
    file: is its SentencePiece file on this machine; None without one.
    extra_ids: is the number of sentinels that follow the pieces of the file.
  """

  name: str | None = None
  file: str | None = None
  extra_ids: int = hyperprompt_tasks.EXTRA_IDS

  def copy(self, folder: epath.Path, to: str) -> None:
    """Copies the file, with the settings that Hugging Face's readers need beside it."""
    if self.file:
      shutil.copyfile(self.file, folder / hyperprompt_tasks.HUGGING_FACE_FILE)
    tokenizer: dict[str, Any] = {}
    if self.name == hyperprompt_tasks.BYTES:
      tokenizer = {'tokenizer_class': 'ByT5Tokenizer'}
    elif self.file:
      tokenizer = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': self.extra_ids}
    if tokenizer and to == HUGGING_FACE:
      (folder / 'tokenizer_config.json').write_text(json.dumps(tokenizer) + '\n')

  def name_in(self, output: str) -> str | None:
    """Returns the name that the vocabulary has after it was copied to a folder."""
    if not self.file:
      return self.name
    file = os.path.join(os.path.abspath(output), hyperprompt_tasks.HUGGING_FACE_FILE)
    is_usual = self.extra_ids == hyperprompt_tasks.EXTRA_IDS
    return file if is_usual else f'{file}:{self.extra_ids}'


def _vocabulary(source: Source) -> _Vocabulary:
  """Returns the vocabulary of a run, or the one in the checkpoint's folder, if any."""
  name = source.vocabulary or source.path
  if name == hyperprompt_tasks.BYTES or hyperprompt_tasks.is_bytes(name):
    return _Vocabulary(hyperprompt_tasks.BYTES)
  if os.path.isdir(name) and not hyperprompt_tasks.has_vocabulary(name):
    return _Vocabulary()
  try:
    path, extra_ids = hyperprompt_tasks.vocabulary_file(name)
  except hyperprompt_tasks.VocabularyError:
    return _Vocabulary()  # the weights are converted all the same
  if not os.path.isfile(path):
    return _Vocabulary(source.vocabulary)
  return _Vocabulary(source.vocabulary, path, extra_ids)


def _sizes(config: Config) -> list[dataclasses.Field]:
  """Returns the fields of a configuration that a checkpoint fixes."""
  return [f for f in dataclasses.fields(config) if f.name not in OF_RUNS]


def _gin(path: str, config: Config, vocabulary: str | None) -> str:
  """A gin file like those of `gin/models`."""
  lines = [
    # A path may contain a newline, after which gin would parse the rest of it.
    f'# The network of {path!r}, written by hyperprompt convert; to use in place of a file',
    '# of models/.',
    'from __gin__ import dynamic_registration',
    'from hyperprompt_jax.nn import config',
    '',
  ]
  if vocabulary:
    lines.append(f'VOCABULARY = {vocabulary!r}')
  lines.append('config.Config:')
  lines += [f'  {f.name} = {getattr(config, f.name)!r}' for f in _sizes(config)]
  return '\n'.join(lines) + '\n'
