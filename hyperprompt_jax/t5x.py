"""The adapter to T5X: our network, methods and features under its training loop.

T5X is optional, and nothing else of this package imports this module. docs/how_to/t5x.md
says how to install it; `gin/t5x/` holds the files for its `train`, `eval` and `infer`.
"""

import functools
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import seqio
from t5x import adafactor, decoding, models, optimizers
from t5x import partitioning as t5x_partitioning

from hyperprompt_jax import partitioning
from hyperprompt_jax.checkpoints.differences import check_same_parameters
from hyperprompt_jax.checkpoints.initial import open_for
from hyperprompt_jax.data.features import ConditionedEncDecFeatureConverter
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import Method
from hyperprompt_jax.model import Batch, Model, Params, check_vocabulary
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.training.settings import InitialCheckpoint

Array = jax.Array


class EncoderDecoderModel(models.EncoderDecoderModel):
  """T5X's encoder-decoder model with task-conditioning.

  Args:
    config: of the network.
    method: of task-conditioning.
    task_list: conditioned tasks in the order that task ids index.
    input_vocabulary: of the inputs.
    output_vocabulary: of the targets.
    optimizer_def: one of T5X's.
    decode_fn: one of `t5x.decoding`.
    max_segments: the most examples of a packed row.
    **kwargs: as for T5X's: `label_smoothing`, `z_loss`, `loss_normalizing_factor`,
      `default_decoder_params`.

  Raises:
    UserError: if the vocabulary does not fit the network, or the method trains one task
      at a time and there are more.
  """

  def __init__(
    self,
    config: Config,
    method: Method,
    task_list: Sequence[str],
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def: optimizers.OptimizerDefType,
    decode_fn: Callable[..., tuple[Array, Array]] = decoding.beam_search,
    max_segments: int = 8,
    **kwargs: Any,
  ):
    check_vocabulary(input_vocabulary, config)
    check_vocabulary(output_vocabulary, config)
    if not method.shared_backbone and len(task_list) > 1:
      raise UserError(
        f'{type(method).__name__} trains one task at a time, and the mixture has '
        f'{len(task_list)}: under T5X, start a run for each'
      )
    self.model = Model(config, method, tuple(task_list))
    super().__init__(
      module=self.model.module,
      input_vocabulary=input_vocabulary,
      output_vocabulary=output_vocabulary,
      optimizer_def=optimizer_def,
      decode_fn=decode_fn,
      feature_converter_cls=functools.partial(
        ConditionedEncDecFeatureConverter, max_segments=max_segments
      ),
      **kwargs,
    )

  def get_initial_variables(
    self,
    rng: Array,
    input_shapes: Mapping[str, Any],
    input_types: Mapping[str, Any] | None = None,
  ) -> flax.core.FrozenDict:
    """Fresh `params` and `params_axes`; they depend on no shape of the input."""
    del input_shapes, input_types
    return flax.core.freeze(self.model.init_variables(rng))

  def _compute_logits(
    self,
    params: Params,
    batch: Batch,
    dropout_rng: Array | None = None,
    mutable: Any = False,
    other_variables: Any = None,
  ) -> Any:
    """Logits `[b, q, v]` float32; with `mutable`, an empty mapping besides."""
    del other_variables
    logits = self.model.logits(params, batch, dropout_rng=dropout_rng)
    return (logits, {}) if mutable else logits

  def predict_batch_with_aux(
    self,
    params: Params,
    batch: Batch,
    rng: Array | None = None,
    decoder_params: MutableMapping[str, Any] | None = None,
    return_all_decodes: bool | None = None,
    num_decodes: int | None = None,
    prompt_with_targets: bool = False,
  ) -> tuple[Array, dict[str, Array]]:
    """Decodes a batch; the hypernetworks run once for it.

    Args:
      params: of the network.
      batch: unpacked features, `[b, ...]`.
      rng: of sampling.
      decoder_params: further arguments of `decode_fn`.
      return_all_decodes: whether to return all of `num_decodes`, worst first.
      num_decodes: beams or samples of each row, n.
      prompt_with_targets: whether the decoder's inputs, without EOS, are forced.

    Returns:
      Tokens `[b, q]` (or `[b, n, q]`) int32, and `scores` `[b]` (or `[b, n]`) float32.
    """
    defaults = self._default_decoder_params
    if return_all_decodes is None:
      return_all_decodes = defaults.return_all_decodes
    num_decodes = defaults.num_decodes if num_decodes is None else num_decodes
    inputs = batch['decoder_input_tokens']
    eos_id = self.output_vocabulary.eos_id
    forced = inputs * (inputs != eos_id) if prompt_with_targets else jnp.zeros_like(inputs)
    step, cache = self.model.start_decoding(
      params, self.model.condition(params), batch, inputs.shape[1]
    )

    def tokens_to_logits(state: decoding.DecodingState) -> tuple[Array, Any]:
      # All rows are at one position; T5X's sampling gives it for each.
      position = jnp.ravel(state.cur_index)[0]
      return step(state.cur_token[:, 0], state.cache, position)

    arguments = {'eos_id': eos_id, **(decoder_params or {})}
    if rng is not None:
      arguments.setdefault('decode_rng', rng)
    tokens, scores = self.decode_fn(
      inputs=forced,
      cache=cache,
      tokens_to_logits=tokens_to_logits,
      num_decodes=num_decodes,
      cache_offset=self.model.cache_batch_axis,
      **arguments,
    )
    if return_all_decodes:
      return tokens, {'scores': scores}
    return tokens[:, -1], {'scores': scores[:, -1]}


def standard_logical_axis_rules(**kwargs: Any) -> list[tuple[str, str | None]]:
  """T5X's rules of partitioning, and those of our own axes.

  Args:
    **kwargs: as for T5X's.
  """
  rules = list(t5x_partitioning.standard_logical_axis_rules(**kwargs))
  known = {axis for axis, _ in rules}
  ours = partitioning.standard_logical_axis_rules()
  return rules + [rule for rule in ours if rule[0] not in known]


def standard_logical_factor_rules() -> Mapping[str, adafactor.FactorDim]:
  """T5X's rules of which axes Adafactor factors; none of our own.

  What has axes of our own is small, and its second moments are kept whole.
  """
  ours = {
    axis: adafactor.FactorDim.NONE for axis, _ in partitioning.standard_logical_axis_rules()
  }
  return flax.core.freeze({**ours, **adafactor.standard_logical_factor_rules()})


def check_checkpoint(path: str | None, fresh: str) -> Callable[..., Any]:
  """A check, for `state_transformation_fns`, of what T5X is about to restore.

  T5X drops whatever a checkpoint has too much, and its `fallback_to_scratch` starts
  whatever is missing anew.

  Args:
    path: of the checkpoint; None checks nothing.
    fresh: what may be missing, as for `InitialCheckpoint`: 'task', the parameters of the
      method; or 'none'. Of the optimizer's state, anything may.

  Returns:
    A transformation that changes nothing. It raises a UserError, with a table, if the
    checkpoint's parameters are not the network's.
  """

  def check(state: Any, target: Any, *, is_resuming: bool = False) -> Any:
    if not is_resuming and path is not None:
      initial = open_for(InitialCheckpoint(path, fresh), target['target'])
      assert initial is not None
      # T5X cannot stack layers, as we can.
      check_same_parameters(
        path,
        initial.wanted,
        initial.source.arrays,
        'T5X restores unrolled layers alone: set config.Config.scan_layers=False',
      )
    return state

  return check
