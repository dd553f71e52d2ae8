"""A checkpoint that training starts from or `convert` reads, whatever its format."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from hyperprompt_jax.checkpoints import damage, folders, record
from hyperprompt_jax.checkpoints.damage import DamagedError
from hyperprompt_jax.checkpoints.differences import check_same_parameters
from hyperprompt_jax.checkpoints.formats import (
  bundle,
  huggingface,
  scalable_t5,
  t5x,
  t5x_gin,
)
from hyperprompt_jax.checkpoints.formats.huggingface_names import EMBEDDING, OUTPUT_LAYER
from hyperprompt_jax.checkpoints.frozen import FOLDER, Base, check_fingerprint, where
from hyperprompt_jax.checkpoints.identity import network_of
from hyperprompt_jax.checkpoints.lazy import LazyArray, cast, unrolled, with_rows
from hyperprompt_jax.checkpoints.storage import Folder, check_folder
from hyperprompt_jax.checkpoints.sums import weighted_sum
from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.stacking import STACK

METHOD = 'method/'
# Fields of a configuration that come from the run, not from the checkpoint.
OF_RUNS = ('dropout_rate', 'dtype', 'scan_layers', 'remat_policy')
# The axis of the vocabulary.
VOCABULARY_AXES = {EMBEDDING: 0, OUTPUT_LAYER: 1}


@dataclasses.dataclass(frozen=True)
class Source:
  """An opened checkpoint; its arrays are read when they are needed.

  Attributes:
    path: names its folder.
    kind: describes its format in messages.
    step: counts the steps that it was trained; 0 where the format does not say.
    arrays: are its parameters, by their paths in the unrolled network.
    config: configures the network, where the format says it.
    task_list: names the conditioned tasks of a run of this project.
    vocabulary: names the vocabulary that it was trained with, where its files tell it.
  """

  path: str
  kind: str
  step: int
  arrays: Mapping[str, LazyArray]
  config: Config | None = None
  task_list: tuple[str, ...] = ()
  vocabulary: str | None = None

  def __post_init__(self):
    for name, array in self.arrays.items():
      if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f'{self.path}: {name} is of dtype {array.dtype}; expected floats')

  @property
  def method_paths(self) -> list[str]:
    """The paths of the parameters that a method of task-conditioning has added."""
    return sorted(path for path in self.arrays if path.startswith(METHOD))

  def without_method(self) -> 'Source':
    """Returns the backbone alone."""
    backbone = {p: a for p, a in self.arrays.items() if not p.startswith(METHOD)}
    return dataclasses.replace(self, arrays=backbone)

  def with_vocabulary(self, rows: int) -> 'Source':
    """Returns the checkpoint with a number of vocabulary rows; see `lazy.with_rows`."""
    resized = {
      path: with_rows(self.arrays[path], axis, rows)
      for path, axis in VOCABULARY_AXES.items()
      if len(self._shape(path)) == 2 and self._shape(path)[axis] != rows
    }
    if not resized:
      return self
    return dataclasses.replace(self, arrays={**self.arrays, **resized})

  def network(self) -> Config:
    """Returns the network's configuration, as far as shapes and files tell it.

    Where no file says it, it is inferred from the shapes. The activations are those of T5
    1.1 where the MLP has a gate, and of T5 1.0 where it has none.

    Raises:
      UserError: if it is no T5, or has fewer layers than it claims.
    """
    config = self.config or self._inferred_config()
    self.check_depth(config)
    return dataclasses.replace(config, scan_layers=False)

  def backbone_config(self) -> Config:
    """Returns the network's configuration, checked against all arrays of the backbone.

    Raises:
      UserError: with a table, if the arrays are not those of such a network.
    """
    config = self.network()
    shapes = Model(config, MultiTaskLearning(), ('task',)).param_shapes()
    check_same_parameters(self.path, wanted=shapes, saved=self.without_method().arrays)
    return config

  def differences(self, config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that make another network: their values there and here.

    Args:
      config: configures a network that is to start from this checkpoint.
    """
    own = self.network()
    pairs = {
      field.name: (getattr(own, field.name), getattr(config, field.name))
      for field in dataclasses.fields(config)
      if field.name not in OF_RUNS
    }
    pairs['scale_logits'] = own.scales_logits, config.scales_logits
    if self.config is None:  # shapes tell neither
      del pairs['scale_logits'], pairs['eos_id']
      if len(own.mlp_activations) == len(config.mlp_activations):
        del pairs['mlp_activations']
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

  def check_depth(self, config: Config) -> None:
    """Checks that a network has no more layers than the checkpoint has arrays for.

    A file can claim any number of layers, and tracing them could take days.

    Raises:
      UserError: if it has more layers.
    """
    sides = {'encoder': config.num_encoder_layers, 'decoder': config.num_decoder_layers}
    for side, depth in sides.items():
      saved_depth = len(self._layers(side))
      if depth > saved_depth:
        raise UserError(
          f'{self.path} should have {depth} layers in the {side}, and holds arrays of '
          f'{saved_depth}: get the whole checkpoint'
        )

  def _shape(self, path: str) -> tuple[int, ...]:
    return self.arrays[path].shape if path in self.arrays else ()

  def _layers(self, side: str) -> set[int]:
    """Returns the numbers of the layers that the checkpoint has arrays for."""
    numbers = [re.match(rf'{side}/{STACK}_(\d{{1,9}})/', path) for path in self.arrays]
    return {int(number[1]) for number in numbers if number}

  def _inferred_config(self) -> Config:
    def shape(path: str) -> tuple[int, ...]:
      if len(self._shape(path)) != 2 or 0 in self._shape(path):
        raise UserError(
          f'{self.path} holds no T5 that this network is: it has no matrix {path}; it has '
          f'{", ".join(sorted(self.arrays)[:3]) or "nothing"}, …'
        )
      return self._shape(path)

    vocab_size, emb_dim = shape(EMBEDDING)
    bias_per_layer = 'encoder/layers_0/relpos_bias/rel_embedding' in self.arrays
    own = 'layers_0/' if bias_per_layer else ''
    num_heads, _ = shape(f'encoder/{own}relpos_bias/rel_embedding')
    gated = 'encoder/layers_0/mlp/wi_0/kernel' in self.arrays
    return Config(
      vocab_size=vocab_size,
      emb_dim=emb_dim,
      num_heads=num_heads,
      num_encoder_layers=max(self._layers('encoder'), default=0) + 1,
      num_decoder_layers=max(self._layers('decoder'), default=0) + 1,
      head_dim=shape('encoder/layers_0/attention/query/kernel')[1] // num_heads,
      mlp_dim=shape(f'encoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel')[1],
      mlp_activations=('gelu', 'linear') if gated else ('relu',),
      logits_via_embedding=OUTPUT_LAYER not in self.arrays,
      position_bias_per_layer=bias_per_layer,
    )


def open_source(path: str, within: tuple[str, ...] = ()) -> Source:
  """Opens a checkpoint of any format; `folders.decide` alone decides which format it has.

  Args:
    path: names a local folder, or `gs://…` of a T5X checkpoint.
    within: names the checkpoints that have led here, each the base of the one before.

  Raises:
    UserError: if it is no checkpoint, or a part of it is missing or damaged.
  """
  decided = folders.decide(path)
  folder = Folder(path)
  if decided.kind == folders.HUGGING_FACE:
    arrays, config = huggingface.read(folder)
    return Source(path, decided.kind, 0, arrays, config, vocabulary=_vocabulary_in(path))
  if decided.kind == folders.BUNDLE:
    arrays, made = bundle.read(path)
    network, step = network_of(path, made.network), made.trained['step']
    words = made.vocabulary_in(path)
    return Source(path, decided.kind, step, arrays, network, made.task_list, words)
  if decided.kind == folders.ONNX:
    raise UserError(
      f'{path} was exported to ONNX, from which no parameters are read: infer, serve and '
      'hyperprompt_jax.load answer with it; name the run for anything else'
    )
  if decided.run is not None:
    step = folders.latest(decided) if decided.step is None else decided.step
    return open_step(decided.run, step, within)
  if not folder.is_remote:
    check_folder(path)
  if contents := folder.read(t5x.MSGPACK_FILE):
    arrays, step = t5x.read_native(folder, contents)
    return _of_t5x(path, folders.T5X, step, arrays)
  state = folder / t5x.ORBAX_ITEM
  if metadata := state.read(t5x.ORBAX_FILE):
    arrays, step = t5x.of_train_state(state, t5x.read_orbax(state, metadata))
    return _of_t5x(path, folders.T5X_ORBAX, step, arrays)
  raise folders.nothing(path)


def _vocabulary_in(path: str) -> str | None:
  """Returns the vocabulary of a Hugging Face folder by the name that VOCABULARY takes."""
  import hyperprompt_tasks  # and with it TensorFlow, which runs do not need

  if hyperprompt_tasks.is_bytes(path):
    return hyperprompt_tasks.BYTES
  return path if hyperprompt_tasks.has_vocabulary(path) else None


def _of_t5x(path: str, kind: str, step: int, arrays: Mapping[str, LazyArray]) -> Source:
  """Returns a checkpoint of T5X, with the settings of a gin file beside it."""
  layers = scalable_t5.unrolled(unrolled(arrays))
  source = Source(path, kind, step, layers)
  beside = t5x_gin.read(path)
  if not beside:
    return source
  try:
    config = dataclasses.replace(source.network(), **beside.network)
  except (TypeError, UserError):  # the arrays or the file are of another program
    return dataclasses.replace(source, vocabulary=beside.vocabulary)
  return dataclasses.replace(source, config=config, vocabulary=beside.vocabulary)


def open_step(run: str, step: int, within: tuple[str, ...] = ()) -> Source:
  """Opens a checkpoint of a run.

  Args:
    run: is the run's folder.
    step: is the number of the checkpoint.
    within: is the argument of `open_source`.

  Raises:
    DamagedError: if a file of the checkpoint is missing or damaged.
    UserError: if its frozen parameters, which are elsewhere, cannot be read.
  """
  where = folders.step_folder(run, step)
  check_folder(where)
  try:
    saved, of_step = _read_run(epath.Path(where))
  except UserError as error:
    raise DamagedError(where, damage.DELETE, str(error)) from error
  vocabulary = of_step.data.get('VOCABULARY')
  if written := recorded.read(run):
    vocabulary = written.vocabulary_in(run)
  return Source(
    # A reference to this source means this step, so its path is not the run's.
    where,
    folders.RUN,
    step,
    _with_base(epath.Path(run), where, of_step.base, saved, within),
    config=network_of(where, of_step.data),
    task_list=tuple(of_step.task_list),
    vocabulary=vocabulary,
  )


def _read_run(step_folder: epath.Path) -> tuple[dict[str, LazyArray], record.RunRecord]:
  """Opens the parameters that a run's checkpoint holds, checked by their sums."""
  contents = Folder(str(step_folder / 'run')).read('metadata')
  if contents is None:
    raise UserError(f'checkpoint {step_folder} is incomplete: it has no run/metadata')
  run = record.parse(str(step_folder), contents)
  saved = _read_orbax_folder(step_folder / 'params')
  for path, expected in (run.sums or {}).get('params', {}).items():
    if path not in saved or int(weighted_sum(saved[path].read())) != expected:
      raise UserError(f'checkpoint {step_folder} is damaged: {path} is not what was saved')
  return unrolled(saved), run


def _with_base(
  model_dir: epath.Path,
  where: str,
  base: Base | None,
  arrays: dict[str, LazyArray],
  within: tuple[str, ...],
) -> dict[str, LazyArray]:
  """Adds the frozen parameters that a checkpoint refers to."""
  if base is None:
    return arrays
  if base.path in within:
    raise UserError(f'checkpoint {where} is damaged: it is the base of its own base')
  of_base = frozen_arrays(model_dir, base, (*within, base.path))
  frozen = {path: array for path, array in of_base.items() if path not in arrays}
  whole = ((path, array.read()) for path, array in frozen.items())
  check_fingerprint(model_dir, base, whole)
  return {**arrays, **frozen}


def frozen_arrays(
  model_dir: epath.Path, base: Base, within: tuple[str, ...] = ()
) -> dict[str, LazyArray]:
  """Opens a run's frozen parameters, float32, by their unrolled paths.

  They are not yet checked against the fingerprint.

  Args:
    model_dir: is the run's folder.
    base: refers to the parameters.
    within: is the argument of `open_source`.

  Raises:
    UserError: if they are missing or damaged.
  """
  try:
    if base.path == FOLDER:
      return unrolled(_read_orbax_folder(model_dir / FOLDER))
    arrays = open_source(base.path, within).arrays
  except UserError as error:
    raise UserError(
      f'{where(model_dir, base)} cannot be read; put the original folder back, as all '
      f'checkpoints of {model_dir} need it ({error})'
    ) from error
  return {path: cast(array, np.float32) for path, array in arrays.items()}


def _read_orbax_folder(path: epath.Path) -> dict[str, LazyArray]:
  check_folder(path)
  folder = Folder(str(path))
  metadata = folder.read(t5x.ORBAX_FILE)
  if metadata is None:
    raise UserError(f'checkpoint {path} is incomplete: it has no {t5x.ORBAX_FILE}')
  return t5x.read_orbax(folder, metadata)
