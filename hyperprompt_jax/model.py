"""The trained model: the network with its loss, its decoding and its scores of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.linen import partitioning as nn_partitioning

from hyperprompt_jax import decoding
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.losses import cross_entropy, log_likelihood
from hyperprompt_jax.methods import Conditioning, Method, by_segment, within_budget
from hyperprompt_jax.methods.parameters import with_last_tasks
from hyperprompt_jax.nn import backend, int8, statistics
from hyperprompt_jax.nn.attention import ENCODER_CACHE
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.segments import Segments
from hyperprompt_jax.nn.stacking import unstack_layers
from hyperprompt_jax.nn.statistics import AttentionStatistics
from hyperprompt_jax.nn.transformer import Transformer

Array = jax.Array
Batch = Mapping[str, Array]
Params = Mapping[str, Any]
DecodeStep = Callable[..., tuple[Array, Any]]

# The largest conditioning of all tasks that inference keeps, in bytes over all devices.
LARGEST_FOLDED = 2**30


@dataclasses.dataclass(frozen=True)
class Model:
  """The network, its loss and its decoder.

  Attributes:
    config: holds the network's sizes and options.
    method: conditions the network on tasks; `extra_parameters` replaces its widths.
    task_list: names the conditioned tasks; task ids index it.
    z_loss: weighs the z-loss.
    label_smoothing: is the probability that each label gives to the other classes.
    extra_parameters: is the number of parameters that the method adds, with a tolerance of
      2 %; None keeps the method's widths.
    decode_fn: decodes a batch; it is a function of `hyperprompt_jax.decoding`.
  """

  config: Config
  method: Method
  task_list: tuple[str, ...]
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  extra_parameters: int | None = None
  decode_fn: Callable[..., tuple[Array, Array]] = decoding.greedy

  def __post_init__(self):
    ObjectSettings.check('z_loss', self.z_loss)
    ObjectSettings.check('label_smoothing', self.label_smoothing)
    if self.extra_parameters is not None:
      ObjectSettings.check('extra_parameters', self.extra_parameters)
      method = within_budget(
        self.method, self.config, len(self.task_list), self.extra_parameters
      )
      object.__setattr__(self, 'method', method)  # the dataclass is frozen

  @property
  def module(self) -> Transformer:
    """The Flax module."""
    return Transformer(self.config, self.method, num_tasks=len(self.task_list))

  def _apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    return self.module.apply(int8.variables(params), *args, **kwargs)

  def encode(
    self, params: Params, conditioning: Conditioning, batch: Batch, **kwargs: Any
  ) -> Any:
    """Returns the encoder's output of inputs that are not packed, without dropout."""
    return self._apply(
      params,
      batch['encoder_input_tokens'],
      batch['task_ids'],
      conditioning,
      enable_dropout=False,
      method=Transformer.encode,
      **kwargs,
    )

  def init_variables(self, rng: Array) -> Mapping[str, Any]:
    """Returns fresh `params`, and their logical axes, `params_axes`."""
    tokens = jnp.ones((1, 1), jnp.int32)
    return self.module.init(
      rng, tokens, tokens, tokens, jnp.zeros((1, 1), jnp.int32), enable_dropout=False
    )

  def init(self, rng: Array) -> Params:
    """Returns fresh parameters, float32."""
    return _initializer(self)(rng)['params']

  def init_from(self, rng: Array, loaded: Params) -> Params:
    """Returns loaded parameters, completed by fresh parameters of the method.

    A method may initialize its parameters from the backbone's.

    Args:
      rng: seeds the fresh parameters.
      loaded: holds all parameters of the backbone, and those parameters of the method that
        are not to be fresh. If the latter have fewer tasks than `task_list`, the remaining
        tasks, which are the last, get fresh parameters.
    """
    known = loaded.get('method', {})
    backbone = {name: part for name, part in loaded.items() if name != 'method'}
    _, variables = self.module.apply(
      {'params': backbone},
      method=Transformer.condition,
      mutable=['params', 'params_axes'],
      rngs={'params': rng},
    )
    fresh = variables.get('params', {}).get('method', {})
    if not fresh:
      return backbone
    method = jax.tree.map(with_last_tasks, known, fresh) if known else fresh
    return {**backbone, 'method': method}

  def param_shapes(self) -> Params:
    """Returns the parameters' shapes and dtypes, without allocating memory."""
    return jax.tree.map(lambda leaf: leaf, _abstract_variables(self)['params'])

  def param_axes(self) -> Params:
    """Returns the parameters' logical axes, as a tree of `PartitionSpec` of names."""
    axes = nn_partitioning.get_axis_names(_abstract_variables(self)['params_axes'])
    return flax.core.unfreeze(axes)

  def condition(self, params: Params, task_ids: Array | None = None) -> Conditioning:
    """Returns the conditioning of all tasks, or of the segments of a batch.

    Args:
      params: are the network's parameters.
      task_ids: are the tasks of a batch, `[B, S]` int32. If a device has fewer segments
        than there are tasks, only these are conditioned (`methods.by_segment`), and the
        result serves this batch alone. None conditions all tasks.
    """
    if task_ids is None or not self.conditions_segments(task_ids.size):
      return self._apply(params, method=Transformer.condition)
    module = self.module.clone(num_tasks=task_ids.size)
    # These are all that a method reads.
    parts = int8.variables(params)['params']
    parts = {name: parts[name] for name in ('token_embedder', 'method') if name in parts}

    def condition(params: Params) -> Any:
      return module.apply({'params': params}, method=Transformer.condition)

    return by_segment.of_segments(condition, parts, self.param_axes(), task_ids)

  def conditions_segments(self, num_segments: int) -> bool:
    """Whether a batch of `[B, S]` segments, B * S in all, is conditioned by segment."""
    cheaper = by_segment.is_cheaper(len(self.task_list), num_segments)
    return cheaper and self.method.independent_tasks

  def fold(self, params: Params) -> Conditioning | None:
    """Returns the conditioning of all tasks, to be kept while a checkpoint is evaluated.

    It is None if it would be larger than `LARGEST_FOLDED`. Given None, decoding and scoring
    condition the segments of each batch.
    """
    arrays = jax.tree.leaves(jax.eval_shape(self.condition, params))
    nbytes = sum(array.size * array.dtype.itemsize for array in arrays)
    return self.condition(params) if nbytes <= LARGEST_FOLDED else None

  def loss(
    self, params: Params, batch: Batch, dropout_rng: Array | None
  ) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of a batch, summed over its target tokens.

    Args:
      params: are the network's parameters.
      batch: holds features of `ConditionedEncDecFeatureConverter`, `[B, ...]`. Its rows
        may be packed.
      dropout_rng: seeds dropout; None turns dropout off.

    Returns:
      The summed loss, a float32 scalar, and the sums from which metrics are computed:
      `loss`, `z_loss`, `correct`, `tokens` and `examples` (scalars), `task_loss` and
      `task_tokens` (`[t]`). All are float32.
    """
    logits = self.logits(params, batch, dropout_rng=dropout_rng)
    targets = batch['decoder_target_tokens']
    weights = batch['decoder_loss_weights'].astype(jnp.float32)
    token_loss, token_z_loss = cross_entropy(
      logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
    )
    token_loss, token_z_loss = token_loss * weights, token_z_loss * weights
    loss = jnp.sum(token_loss)
    segments = Segments.from_tokens(
      batch['task_ids'], targets, batch.get('decoder_segment_ids')
    )
    tasks = segments.position_tasks().ravel()

    def sum_by_task(values: Array) -> Array:
      return jax.ops.segment_sum(values.ravel(), tasks, num_segments=len(self.task_list))

    return loss, {
      'loss': loss,
      'z_loss': jnp.sum(token_z_loss),
      'correct': jnp.sum((backend.argmax(logits) == targets) * weights),
      'tokens': jnp.sum(weights),
      'examples': jnp.sum(jnp.max(segments.ids, axis=1)).astype(jnp.float32),
      'task_loss': sum_by_task(token_loss),
      'task_tokens': sum_by_task(weights),
    }

  def logits(
    self,
    params: Params,
    batch: Batch,
    *,
    dropout_rng: Array | None = None,
    conditioning: Conditioning | None = None,
  ) -> Array:
    """Returns the targets' logits, `[B, Q, V]`; computes the conditioning if it is None."""
    if conditioning is None:
      conditioning = self.condition(params, batch['task_ids'])
    return self._apply(
      params,
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      batch['task_ids'],
      encoder_segment_ids=batch.get('encoder_segment_ids'),
      decoder_segment_ids=batch.get('decoder_segment_ids'),
      enable_dropout=dropout_rng is not None,
      rngs=None if dropout_rng is None else {'dropout': dropout_rng},
      conditioning=conditioning,
    )

  def attention_statistics(
    self, params: Params, conditioning: Conditioning, batch: Batch
  ) -> AttentionStatistics:
    """Returns statistics of the encoder's self-attention, `[m, B, ...]`.

    Args:
      params: are the network's parameters.
      conditioning: is the result of `fold`.
      batch: holds `encoder_input_tokens` `[B, K]` and `task_ids` `[B, 1]`, int32. Its rows
        are not packed.
    """
    _, sown = self.encode(params, conditioning, batch, mutable=[statistics.COLLECTION])
    return statistics.collect(sown[statistics.COLLECTION]['encoder'])

  def score(self, params: Params, conditioning: Conditioning | None, batch: Batch) -> Array:
    """Returns the log likelihood of each row's targets, `[B]` float32."""
    logits = self.logits(params, batch, conditioning=conditioning)
    targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
    return log_likelihood(logits, targets, weights)

  def rank(
    self, params: Params, conditioning: Conditioning | None, batch: Batch, labels: Array
  ) -> Array:
    """Returns the log likelihood of every label's text; the encoder runs once for each row.

    Args:
      params: are the network's parameters.
      conditioning: is the result of `fold`.
      batch: holds the inputs that `start_decoding` takes.
      labels: are the tokens of each label, EOS included, `[N, Q]` int32, or `[B, N, Q]` if
        each row has its own; 0 is padding.

    Returns:
      Log likelihoods, `[B, N]` float32.
    """
    inputs, task_ids = batch['encoder_input_tokens'], batch['task_ids']
    if conditioning is None:
      conditioning = self.condition(params, task_ids)
    encoded = self.encode(params, conditioning, batch)
    labels = jnp.broadcast_to(labels, (inputs.shape[0], *labels.shape[-2:]))

    def of_label(targets: Array) -> Array:
      logits = self._apply(
        params,
        encoded,
        jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        targets,
        task_ids,
        conditioning,
        enable_dropout=False,
        method=Transformer.decode,
      )
      return log_likelihood(logits, targets, targets > 0)

    return jax.vmap(of_label, in_axes=1, out_axes=1)(labels)

  @property
  def cache_batch_axis(self) -> int:
    """The axis of the rows in every array of the cache."""
    return 1 if self._step_config.scan_layers else 0

  @property
  def _step_config(self) -> Config:
    """The configuration of the network that decodes position by position."""
    if not backend.unrolls_decoding():
      return self.config
    return dataclasses.replace(self.config, scan_layers=False)

  def _step_function(
    self,
    params: Params,
    conditioning: Conditioning,
    encoded: Any,
    task_ids: Array,
    max_decode_length: int,
  ) -> Callable[..., tuple[Array, Any]]:
    """Returns the network's step as a function of tokens, caches and the position."""
    module = self.module.clone(config=self._step_config)
    variables = int8.variables(params)
    if not self._step_config.scan_layers:
      variables = unstack_layers(variables)

    def apply(
      tokens: Array, caches: Any, index: Array, mutable: list[str], slots: Any = None
    ) -> Any:
      # The candidates of a row are adjacent, and share its task.
      candidates = tokens.shape[0] // task_ids.shape[0]
      return module.apply(
        {**variables, **caches},
        encoded,
        tokens[:, None],
        jnp.repeat(task_ids, candidates, axis=0),
        conditioning,
        index,
        max_decode_length=max_decode_length,
        method=Transformer.decode_step,
        mutable=mutable,
        slots=slots,
      )

    return apply

  def start_decoding(
    self,
    params: Params,
    conditioning: Conditioning | None,
    batch: Batch,
    max_decode_length: int,
  ) -> tuple[DecodeStep, Any]:
    """Encodes a batch, and returns a step function that decodes it, with its first cache.

    Args:
      params: are the network's parameters.
      conditioning: is the result of `fold`.
      batch: holds `encoder_input_tokens` `[B, K]` and `task_ids` `[B, 1]`, int32. Its rows
        are not packed.
      max_decode_length: is the length of the cache.

    Returns:
      A function of tokens `[B * N]`, the cache and the position, which returns logits
      `[B * N, V]` and the next cache; the N candidates of a row are adjacent. It may also
      be given the slots of a `DecodePosition`. The second result is the first cache, in
      which N is 1.
    """
    inputs, task_ids = batch['encoder_input_tokens'], batch['task_ids']
    if conditioning is None:
      conditioning = self.condition(params, task_ids)
    encoded = self.encode(params, conditioning, batch)
    apply = self._step_function(params, conditioning, encoded, task_ids, max_decode_length)
    # The first call only makes the caches; its logits are not used.
    start = jnp.zeros(inputs.shape[0], jnp.int32)
    _, caches = apply(start, {}, jnp.int32(0), ['cache', ENCODER_CACHE])
    # The encoder's cache is no part of the state: no step changes it, and all candidates of
    # a row read the same one. Without the barrier, XLA would transpose it at every step.
    encoder_cache = jax.lax.optimization_barrier({ENCODER_CACHE: caches[ENCODER_CACHE]})

    def step(
      tokens: Array, cache: Any, index: Array, slots: Array | None = None
    ) -> tuple[Array, Any]:
      given = {'cache': cache, **encoder_cache}
      logits, mutated = apply(tokens, given, index, ['cache'], slots)
      return logits, mutated['cache']

    return step, caches['cache']

  def start_search(
    self,
    params: Params,
    conditioning: Conditioning | None,
    batch: Batch,
    max_decode_length: int,
  ) -> tuple[DecodeStep, Any]:
    """Does what `start_decoding` does, for the decoders of `hyperprompt_jax.decoding`.

    Their beams may share the cache of a row.
    """
    step, cache = self.start_decoding(params, conditioning, batch, max_decode_length)
    if not backend.keeps_caches_in_place():
      return step, cache
    rows = batch['task_ids'].shape[0]

    def in_place(
      tokens: Array, state: decoding.InPlace, index: Array
    ) -> tuple[Array, decoding.InPlace]:
      candidates, slots = tokens.shape[0] // rows, None
      if candidates > 1:
        state = state.at(index, candidates)
        slots = state.slots
      logits, cache = step(tokens, state.arrays, index, slots)
      return logits, state._replace(arrays=cache)

    return in_place, decoding.InPlace(
      cache, jnp.zeros((rows, max_decode_length), jnp.int32)
    )

  def predict(
    self,
    params: Params,
    conditioning: Conditioning | None,
    batch: Batch,
    max_decode_length: int,
  ) -> Array:
    """Decodes a batch. Decoding ends when all rows have ended.

    Args:
      params: are the network's parameters.
      conditioning: is the result of `fold`.
      batch: holds the inputs that `start_decoding` takes; a row of padding, which fills a
        batch up, ends at once.
      max_decode_length: is the most tokens to decode, EOS included.

    Returns:
      Tokens, `[B, max_decode_length]` int32; 0 after EOS.
    """
    step, state = self.start_search(params, conditioning, batch, max_decode_length)
    is_padding = jnp.all(batch['encoder_input_tokens'] == 0, axis=1)
    step = decoding.end_at_once(step, is_padding, self.config.eos_id)
    settings = decoding.DecodeSettings(
      batch_size=batch['task_ids'].shape[0],
      max_decode_len=max_decode_length,
      eos_id=self.config.eos_id,
      batch_axis=self.cache_batch_axis,
    )
    tokens, _ = self.decode_fn(step, state, settings)
    # Beam search returns several candidates, the best one first.
    return tokens if tokens.ndim == 2 else tokens[:, 0]


# JAX traces one function once for each mesh, and tracing a network takes seconds: a run
# needs the shapes several times, and then the parameters.
@functools.lru_cache(maxsize=16)
def _initializer(model: Model) -> Any:
  return jax.jit(model.init_variables)


@functools.lru_cache(maxsize=16)
def _abstract_variables(model: Model) -> Mapping[str, Any]:
  # The key is abstract, too: under a mesh of described devices nothing can run.
  return _initializer(model).eval_shape(jax.eval_shape(jax.random.key, 0))
