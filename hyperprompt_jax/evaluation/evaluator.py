"""Evaluating parameters: each task's own metrics on generated answers, and its loss."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.data import datasets, features, splits
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.rows import Rows
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation.scores import AVERAGE
from hyperprompt_jax.inference import batches
from hyperprompt_jax.model import Batch, Model
from hyperprompt_jax.nn.int8 import Int8Params
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.runtime import distributed
from hyperprompt_jax.runtime.files import write_whole, writing
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings
from hyperprompt_tasks import metric_guard


@dataclasses.dataclass(frozen=True)
class Results:
  """The results of one evaluation.

  Tasks have their short names (`hyperprompt_tasks.short_names`).

  Attributes:
    metrics: holds the metrics by task and name.
    losses: holds the mean loss of a target token, by task.
    scores: holds the mean of its metrics, by conditioned task.
    average: is the mean of the scores; None if one is missing.
    failures: are the errors of metrics and postprocessors, whose values are missing.
  """

  metrics: Mapping[str, Mapping[str, float]]
  losses: Mapping[str, float]
  scores: Mapping[str, float]
  average: float | None
  failures: Sequence[hyperprompt_tasks.MetricError] = ()

  def scalars(self) -> dict[str, float]:
    """Returns the results as `TASK/METRIC`, `TASK/loss`, `score/TASK` and `average`."""
    flat = {
      f'{task}/{k}': v for task, numbers in self.metrics.items() for k, v in numbers.items()
    }
    flat |= {f'{task}/loss': loss for task, loss in self.losses.items()}
    flat |= {f'score/{task}': score for task, score in self.scores.items()}
    return flat | ({} if self.average is None else {AVERAGE: self.average})

  def ranking(self) -> dict[str, float]:
    """The scores by which checkpoints are ranked: each task's, and the average."""
    overall = {} if self.average is None else {AVERAGE: self.average}
    return {**self.scores, **overall}


class Evaluator:
  """Evaluates parameters on a split of the tasks of a mixture.

  Args:
    model: is the network.
    partitioner: is the device mesh; the caller has activated it.
    data: describes the mixture, whose tasks with the split and with metrics are
      evaluated. Its lengths cut longer inputs, as in training, and limit the answers.
    evaluation: sets how much is evaluated, and how.
    split: names the split that is evaluated, of the tasks that have it.
    log_dir: is the folder in which SeqIO writes predictions and metrics; None for none.
    between_batches: is called before each batch; it may raise to end the evaluation.
  """

  def __init__(
    self,
    model: Model,
    partitioner: Partitioner,
    data: DataSettings,
    evaluation: EvaluationSettings,
    *,
    split: str = 'validation',
    log_dir: str | None = None,
    between_batches: Callable[[], None] = lambda: None,
  ):
    self._name = hyperprompt_tasks.part(data.mixture_or_task_name, evaluation.tasks)
    self._task_list = model.task_list
    self._partitioner = partitioner
    self._batch_size = data.batch_size
    self._between_batches = between_batches
    self._evaluation = evaluation
    self._split = split
    self._log_dir = log_dir if distributed.is_first() else None
    self._access = Access.from_settings(data)
    self._names = hyperprompt_tasks.short_names(data.mixture_or_task_name, split)
    self._eval_tasks = seqio.evaluation.get_valid_eval_tasks(
      seqio.get_subtasks(seqio.get_mixture_or_task(self._name)), split
    )
    self._labels = (
      {task.name: _labels(task) for task in self._eval_tasks}
      if evaluation.rank_labels
      else {}
    )
    # Every host has all the results: XLA gathers them.
    everywhere = partitioner.replicated
    # While they are trained, parameters are spread over devices that share no model.
    self._gather = jax.jit(
      lambda params: params, out_shardings=partitioner.shardings(model.param_axes())
    )
    self._fold = jax.jit(model.fold)
    self._loss = jax.jit(
      functools.partial(model.loss, dropout_rng=None), out_shardings=everywhere
    )
    self._predict = jax.jit(
      model.predict, static_argnames='max_decode_length', out_shardings=everywhere
    )
    self._rank = jax.jit(model.rank, out_shardings=everywhere)

  @functools.cached_property
  def _opened(self) -> Mapping[str, Examples]:
    """The materialised splits of the tasks, from which losses and answers read."""
    tasks = self._eval_tasks
    if self._evaluation.steps:  # losses need no metrics
      tasks = datasets.tasks_with(self._split, self._name)
    return splits.open_splits(tasks, self._split, self._access)

  @functools.cached_property
  def _losses(self) -> Mapping[str, Rows]:
    """The rows for the loss of each task."""
    if not self._evaluation.steps:
      return {}
    limit = self._evaluation.steps * self._batch_size
    return datasets.split_rows(
      self._name, self._access, limit=limit, split=self._split, opened=self._opened
    )

  @functools.cached_property
  def _evaluator(self) -> seqio.Evaluator:
    """SeqIO's evaluator, which reads the validation splits when it is made."""
    if self._log_dir:
      with writing(self._log_dir):
        epath.Path(self._log_dir).mkdir(parents=True, exist_ok=True)  # SeqIO does not
    with splits.read_by_seqio(self._opened):
      evaluator = seqio.Evaluator(
        self._name,
        feature_converter=_NoConverter(),
        eval_split=self._split,
        use_cached=self._access.use_cached,
        sequence_length=dict(self._access.lengths),
        num_examples=self._evaluation.num_examples,
        logger_cls=[_Logger] if self._log_dir else [],
        log_dir=self._log_dir,
      )
    self._failures = metric_guard.guard(evaluator, self._names)
    return evaluator

  @functools.cached_property
  def _rows(self) -> Mapping[str, Rows]:
    """The rows that are answered, of each task: those that SeqIO's evaluator has read."""
    lengths, limit = self._access.lengths, self._evaluation.num_examples
    return {
      task: Rows.of_examples(self._opened[task], lengths, limit)
      if task in self._opened
      else Rows.of_stream(dataset.as_numpy_iterator(), lengths)
      for task, dataset in self._evaluator.cached_task_datasets.items()
    }

  def evaluate(self, params: Any, step: int) -> Results:
    """Evaluates one state of the parameters.

    Args:
      params: are the network's parameters, float32 or int8.
      step: is their training step, for the files in `log_dir`.
    """
    if not isinstance(params, Int8Params):
      params = self._gather(params)
    # The hypernetworks run here, once, unless the mixture has too many tasks.
    conditioning = self._fold(params)
    losses = {name: self._mean_loss(params, x) for name, x in self._losses.items()}
    metrics: Mapping[str, Mapping[str, float]] = {}
    failures: list[hyperprompt_tasks.MetricError] = []
    if self._eval_tasks:
      future, _ = self._evaluator.evaluate(
        compute_metrics=True,
        step=step,
        predict_fn=functools.partial(self._predict_all, params, conditioning),
      )
      metrics = {task: _numbers(values) for task, values in future.result().items()}
      failures = self._failures.take()
    return Results(
      metrics={self._names[task]: values for task, values in metrics.items()},
      losses={self._names[task]: loss for task, loss in losses.items()},
      scores=hyperprompt_tasks.task_scores(self._name, metrics),
      average=hyperprompt_tasks.average(self._name, metrics),
      failures=failures,
    )

  def _mean_loss(self, params: Any, rows: Rows) -> float:
    loss = tokens = 0.0
    for batch in rows.batches(self._batch_size):
      self._between_batches()
      _, sums = self._loss(params, self._put(batch))
      loss, tokens = loss + float(sums['loss']), tokens + float(sums['tokens'])
    return loss / max(tokens, 1.0)

  def _predict_all(
    self, params: Any, conditioning: Any, dataset: tf.data.Dataset
  ) -> list[tuple[int, list[int]]]:
    """Decodes the rows of the task that a dataset stands for (SeqIO's `predict_fn`)."""
    results: list[tuple[int, list[int]]] = []
    task = self._task_of(dataset)
    labels, rows = self._labels.get(task), self._rows[task]
    _, lengths = rows.tokens['inputs']
    for numbers in batches.by_length(lengths.tolist(), self._batch_size):
      self._between_batches()
      batch = rows.batch(np.array(numbers))
      on_devices = self._put(
        {name: batch[name] for name in ('encoder_input_tokens', features.TASK_IDS)}
      )
      if labels is None:
        length = self._access.lengths['targets']
        tokens = np.asarray(
          self._predict(params, conditioning, on_devices, max_decode_length=length)
        )
      else:
        likelihood = self._rank(params, conditioning, on_devices, labels)
        tokens = labels[np.asarray(likelihood).argmax(1)]
      results.extend(zip(numbers, tokens[: len(numbers)].tolist(), strict=True))
    return results

  def _task_of(self, dataset: tf.data.Dataset) -> str:
    """The name of the task that a dataset of SeqIO's evaluator stands for."""
    for task, of_task in self._evaluator.cached_model_datasets.items():
      if of_task is dataset:
        return task
    raise LookupError('SeqIO evaluates a dataset that it has not made')

  def _put(self, batch: Mapping[str, np.ndarray]) -> Batch:
    """Puts a batch on the devices: filled up with rows, its inputs cut to their bucket."""
    features.check_task_ids(batch, self._task_list)
    batch = features.cut_padding(features.fill_rows(batch, self._batch_size))
    return self._partitioner.put(batch)


class _NoConverter(features.ConditionedEncDecFeatureConverter):
  """Stands for the model's features, which `Rows` makes without TensorFlow's pipelines."""

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Returns a dataset of the task's own, which is never read."""
    return tf.data.Dataset.from_tensors({features.TASK_IDS: 0})


class _Logger(seqio.JSONLogger):
  """SeqIO's, in whose files an evaluation that is done again stands once."""

  def __call__(self, task_name: str, step: int | None, *args: Any, **kwargs: Any) -> None:
    """Writes the metrics and the generated answers."""
    path = epath.Path(self.output_dir) / f'{task_name}-metrics.jsonl'
    with writing(self.output_dir):
      if path.exists():
        lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
        others = [line for line in lines if _step_of(line) not in (None, step)]
        if others != lines:
          write_whole(path, ''.join(others))
      super().__call__(task_name, step, *args, **kwargs)


def _step_of(line: str) -> int | None:
  """Returns the step of a line of SeqIO's metrics; None if a kill has cut it short."""
  try:
    record = json.loads(line)
  except ValueError:
    return None
  return record.get('step') if isinstance(record, dict) else None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
  """The metrics that are numbers; SeqIO writes texts and pictures to `log_dir`."""
  values = {
    name: value.value if isinstance(value, seqio.metrics.Scalar) else value
    for name, value in metrics.items()
  }
  return {
    name: float(value)
    for name, value in values.items()
    if not isinstance(value, seqio.metrics.MetricValue)
  }


def _labels(task: seqio.Task) -> np.ndarray | None:
  """The tokens of a task's closed set of labels, EOS included, `[n, q]` int32; or None.

  Raises:
    UserError: if the vocabulary cannot say a label.
  """
  labels = hyperprompt_tasks.labels(task.name)
  if labels is None:
    return None
  vocabulary = task.output_features['targets'].vocabulary
  tokens = [vocabulary.encode(label) for label in labels]
  for label, ids in zip(labels, tokens, strict=True):
    if vocabulary.decode(ids) != label:
      raise UserError(
        f'RANK_LABELS=True: VOCABULARY cannot say the label {label!r} of {task.name}'
      )
  padded = np.zeros((len(tokens), 1 + max(map(len, tokens))), np.int32)
  for row, ids in enumerate(tokens):
    padded[row, : len(ids) + 1] = [*ids, vocabulary.eos_id]
  return padded
