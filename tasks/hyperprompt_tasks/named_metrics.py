"""The metrics of own tasks: by name, as each kind of target takes them, or functions."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperprompt_tasks import errors, metrics, postprocessors, task_lists, text_metrics

Function = Callable[..., Any]

_CLASSES: Mapping[str, Function] = {
  'accuracy': metrics.accuracy,
  'f1': metrics.f1,
  'matthews_corrcoef': metrics.matthews_corrcoef,
}
_NUMBERS: Mapping[str, Function] = {
  'mean_absolute_error': metrics.mean_absolute_error,
  'pearson_corrcoef': metrics.pearson_corrcoef,
  'spearman_corrcoef': metrics.spearman_corrcoef,
}
_TEXTS: Mapping[str, Function] = {
  'accuracy': text_metrics.accuracy,
  'bleu': text_metrics.bleu,
  'exact_match': text_metrics.exact_match,
  'f1': text_metrics.f1,
  'rouge': text_metrics.rouge,
}
_SHORT_NAMES = {
  name.removesuffix('_corrcoef'): name
  for name in ('matthews_corrcoef', 'pearson_corrcoef', 'spearman_corrcoef')
}
DEFAULT = ('accuracy',)


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The metrics of a task and the values that they compare.

  Attributes:
    functions: are SeqIO's metric functions.
    numbers: whether targets are numbers.
    labels: is the closed set of targets; None for any target.
  """

  functions: tuple[Function, ...]
  numbers: bool
  labels: tuple[str, ...] | None

  def postprocessor(self, has_references: bool) -> Function | None:
    """Returns the function that makes these values of texts, None for the texts.

    Args:
      has_references: whether examples have several targets.
    """
    if self.labels:
      return functools.partial(postprocessors.class_id, classes=list(self.labels))
    if self.numbers:
      return postprocessors.finite_number
    return postprocessors.references if has_references else None


def choose(
  task: str, given: Sequence[str | Function], labels: Sequence[str] | None
) -> Chosen:
  """Returns the metrics of a task.

  A metric of numbers makes the targets of its task numbers.

  Args:
    task: is the task that errors name.
    given: are the metrics of the task, as names or as functions of `(targets,
      predictions)`.
    labels: is the closed set of targets; None for any target.

  Raises:
    TaskError: if there is no such metric for such targets, or a function takes other
      arguments.
  """
  if isinstance(given, str) or not isinstance(given, Sequence):
    raise errors.TaskError(
      f'metric_fns of task {task}: expected a list such as {list(DEFAULT)}; found '
      f'{str(given)[:80]!r}'
    )
  names = [_SHORT_NAMES.get(m, m) for m in given if isinstance(m, str)]
  numbers = not labels and any(name in _NUMBERS for name in names)
  known = _CLASSES if labels else _NUMBERS if numbers else _TEXTS
  for name in names:
    if name not in known:
      raise _unknown(task, name, known, bool(labels))
    if names.count(name) > 1:
      raise errors.TaskError(f'metric_fns of task {task}: {name} is named twice')
  functions = tuple(
    _function(known, _SHORT_NAMES.get(m, m), labels)
    if isinstance(m, str)
    else _checked(task, m)
    for m in given
  )
  return Chosen(functions, numbers, tuple(labels) if labels else None)


def _function(
  known: Mapping[str, Function], name: str, labels: Sequence[str] | None
) -> Function:
  if name == 'f1' and labels and len(labels) > 2:
    return _mean_f1(len(labels))
  return known[name]


@functools.cache  # so that the same call has an equal result
def _mean_f1(num_classes: int) -> Function:
  def mean_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    return {'f1': metrics.mean_class_f1(targets, predictions, num_classes)}

  return mean_f1


def _checked(task: str, function: Any) -> Function:
  """Returns a function of the user's that SeqIO takes."""
  expected = 'a function of (targets, predictions), or the name of a metric'
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError) as error:
    raise errors.TaskError(
      f'metric_fns of task {task}: expected {expected}; found {str(function)[:80]!r}'
    ) from error
  # SeqIO looks at these alone.
  names = [
    p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
  ]
  if names != ['targets', 'predictions']:
    raise errors.TaskError(
      f'metric_fns of task {task}: expected {expected}; the function '
      f'{getattr(function, "__name__", function)} takes ({", ".join(names)})'
    )
  return function


def _unknown(
  task: str, name: str, known: Mapping[str, Function], has_labels: bool
) -> errors.TaskError:
  kind = 'labels' if has_labels else 'numbers' if known is _NUMBERS else 'texts'
  if name in {**_CLASSES, **_NUMBERS, **_TEXTS}:
    reason = f'{name} is no metric of {kind}'
    if has_labels and name in _NUMBERS:
      reason += ' (numbers as targets need no labels)'
  else:
    everything = {**_CLASSES, **_NUMBERS, **_TEXTS, **_SHORT_NAMES}
    reason = f'{name!r} is no metric; nearest: {task_lists.nearest(name, everything)}'
  return errors.TaskError(
    f'metric_fns of task {task}: {reason}; for {kind} there are {", ".join(sorted(known))}'
  )
