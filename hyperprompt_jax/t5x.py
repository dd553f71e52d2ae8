"""The adapter to T5X: it runs our network, methods and features under T5X's training loop.

T5X is optional, and no other module of this package imports this one. docs/how_to/t5x.md
tells how to install it. `gin/t5x/` has the files for its `train`, `eval` and `infer`.
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
from hyperprompt_jax.model import Batch, Model, Params
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.training.settings import InitialCheckpoint

Array = jax.Array


class EncoderDecoderModel(models.EncoderDecoderModel):
  """T5X's encoder-decoder model with task-conditioning.

  Args:
    config: holds the network's sizes and options.
    method: conditions the network on tasks.
    task_list: names the conditioned tasks; task ids index it.
    input_vocabulary: is the vocabulary of the inputs.
    output_vocabulary: is the vocabulary of the targets.
    optimizer_def: is one of T5X's optimizers.
    max_segments: is the most examples that a packed row holds.
    **kwargs: are the other arguments of T5X's class: `decode_fn`, `label_smoothing`,
      `z_loss`, `loss_normalizing_factor` and `default_decoder_params`.

  Raises:
    UserError: if a vocabulary does not fit the network, or the method trains one task at a
      time and `task_list` has several.
  """

  def __init__(
    self,
    config: Config,
    method: Method,
    task_list: Sequence[str],
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def: optimizers.OptimizerDefType,
    max_segments: int = 8,
    **kwargs: Any,
  ):
    config.check_vocabulary(input_vocabulary)
    config.check_vocabulary(output_vocabulary)
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
    """Returns fresh `params` and `params_axes`, whatever the shapes of the inputs."""
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
    """Returns logits `[B, Q, V]` float32; if `mutable`, also an empty mapping."""
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
      params: are the network's parameters.
      batch: holds features that are not packed, `[B, ...]`.
      rng: seeds sampling.
      decoder_params: are further arguments of `decode_fn`.
      return_all_decodes: tells whether to return all candidates, the worst first.
      num_decodes: is the number of beams or samples of each row, N.
      prompt_with_targets: tells whether to force the decoder's inputs, without EOS.

    Returns:
      Tokens `[B, Q]` (or `[B, N, Q]`) int32, and `scores` `[B]` (or `[B, N]`) float32.
    """
    defaults = self._default_decoder_params
    if return_all_decodes is None:
      return_all_decodes = defaults.return_all_decodes
    num_decodes = defaults.num_decodes if num_decodes is None else num_decodes
    inputs = batch['decoder_input_tokens']
    eos_id = self.output_vocabulary.eos_id
    forced = inputs * (inputs != eos_id) if prompt_with_targets else jnp.zeros_like(inputs)
    step, cache = self.model.start_decoding(params, None, batch, inputs.shape[1])

    def tokens_to_logits(state: decoding.DecodingState) -> tuple[Array, Any]:
      # All rows are at the same position, which T5X's sampling repeats for each row.
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
  """Returns T5X's partitioning rules, followed by the rules of our own axes.

  Args:
    **kwargs: are the arguments of T5X's function.
  """
  rules = list(t5x_partitioning.standard_logical_axis_rules(**kwargs))
  known = {axis for axis, _ in rules}
  ours = partitioning.standard_logical_axis_rules()
  return rules + [rule for rule in ours if rule[0] not in known]


def standard_logical_factor_rules() -> Mapping[str, adafactor.FactorDim]:
  """Returns T5X's rules for the axes that Adafactor factors; it factors none of ours.

  Parameters with axes of our own are small, so Adafactor keeps their full second moments.
  """
  ours = {
    axis: adafactor.FactorDim.NONE for axis, _ in partitioning.standard_logical_axis_rules()
  }
  return flax.core.freeze({**ours, **adafactor.standard_logical_factor_rules()})


def check_checkpoint(path: str | None, fresh: str) -> Callable[..., Any]:
  """Returns a check of the checkpoint that T5X restores, for `state_transformation_fns`.

  T5X itself ignores the parameters that only the checkpoint has, and with
  `fallback_to_scratch` it initializes those that only the network has.

  Args:
    path: names the checkpoint; None checks nothing.
    fresh: chooses the parameters that the checkpoint may lack, as `InitialCheckpoint`
      does: 'task' for those of the method, 'none' for none. The checkpoint may always lack
      the optimizer's state.

  Returns:
    A transformation that changes nothing. It raises a UserError, with a table, if the
    checkpoint's parameters differ from the network's.
  """

  def check(state: Any, target: Any, *, is_resuming: bool = False) -> Any:
    if not is_resuming and path is not None:
      initial = open_for(InitialCheckpoint(path, fresh), target['target'])
      assert initial is not None
      # Unlike our trainer, T5X cannot stack the layers of a checkpoint.
      check_same_parameters(
        path,
        initial.wanted,
        initial.source.arrays,
        'T5X restores unrolled layers alone: set config.Config.scan_layers=False',
      )
    return state

  return check
