"""Keeps an evaluation alive where a metric or a postprocessor of a user's raises.

In a guarded evaluator, a metric that raises, or that returns anything but numbers, gives no
values, and the failure is recorded with the names of task and function. `rehearse` tries
the metrics of a mixture on a few examples, before hours are spent.
"""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import errors, task_lists


class Failures:
  """The failures of one or more tasks since they were last taken.

  Each is recorded once, though a postprocessor may fail at every example.
  """

  def __init__(self) -> None:
    self._recorded: dict[tuple[str, str], errors.MetricError] = {}

  def record(self, error: errors.MetricError) -> None:
    """Records the first failure of a function of a task."""
    self._recorded.setdefault((error.task, error.function), error)

  def take(self) -> list[errors.MetricError]:
    """Returns the failures and forgets them."""
    taken = list(self._recorded.values())
    self._recorded.clear()
    return taken


def guard(evaluator: seqio.Evaluator, names: Mapping[str, str]) -> Failures:
  """Replaces the tasks of an evaluator by guarded copies; returns where failures appear.

  Args:
    evaluator: has not evaluated anything yet.
    names: are the names of tasks in failures; others keep SeqIO's names.
  """
  failures = Failures()
  evaluator.eval_tasks[:] = [
    guarded(task, failures, names.get(task.name, task.name))
    for task in evaluator.eval_tasks
  ]
  return failures


def guarded(task: seqio.Task, failures: Failures, name: str) -> seqio.Task:
  """Returns a copy of a task whose metrics and postprocessor do not raise.

  The copy is not registered. A metric that fails returns no values. So does every metric
  of an evaluation in which the postprocessor fails. Metric objects other than functions
  are taken as they are.

  Args:
    task: has metric functions of `(targets, predictions)`.
    failures: all failures are recorded here.
    name: is the name of the task in failures.
  """
  if not task.metric_fns:
    return task
  values = _Values(task, failures, name)
  return task.replace(
    postprocess_fn=values.postprocess if task.postprocessor else None,
    metric_fns=[values.metric(function) for function in task.metric_fns],
  )


def rehearse(
  name: str, num_examples: int = 4, use_cached: bool = False
) -> list[errors.MetricError]:
  """Tries the metrics of a task or mixture on a few validation examples.

  The targets themselves, and an empty text, stand for predictions. Tasks whose metrics and
  postprocessor are all of this package need no trial, and are not read.

  Args:
    name: is the name of a registered SeqIO task or mixture.
    num_examples: is the largest number of examples of a task that are read.
    use_cached: whether the examples are read from SeqIO's cache.

  Returns:
    The failures of metrics and postprocessors.
  """
  failures = Failures()
  names = task_lists.short_names(name, 'validation')
  for member in names:
    task = seqio.TaskRegistry.get(member)
    functions = [*task.metric_fns, *filter(None, [task.postprocessor])]
    is_needless = not task.metric_fns or all(map(_is_of_this_package, functions))
    if is_needless:
      continue
    examples = list(
      task.get_dataset(None, 'validation', shuffle=False, use_cached=use_cached)
      .take(num_examples)
      .as_numpy_iterator()
    )
    trial = guarded(task, failures, names[member])
    texts = [_target_text(task, example) for example in examples]
    for predictions in (texts, [''] * len(texts)):
      _try(trial, examples, texts, predictions)
  return failures.take()


def _is_of_this_package(function: Any) -> bool:
  function = getattr(function, 'func', function)  # of a functools.partial
  return (getattr(function, '__module__', None) or '').startswith(f'{__package__}.')


def _try(
  task: seqio.Task,
  examples: Sequence[Mapping[str, Any]],
  targets: Sequence[str],
  predictions: Sequence[str],
) -> None:
  process = lambda texts, is_target: [
    task.postprocess_fn(text, example=example, is_target=is_target)
    for text, example in zip(texts, examples, strict=True)
  ]
  targets, predictions = process(targets, True), process(predictions, False)
  for metric in task.metric_fns:
    metric(targets, predictions)


def _target_text(task: seqio.Task, example: Mapping[str, Any]) -> str:
  """Returns the target of an example as SeqIO's evaluator takes it."""
  text = example.get('targets_pretokenized')
  if text is None:
    tokens = [int(token) for token in example['targets']]
    return task.output_features['targets'].vocabulary.decode(tokens)
  return text.decode('utf-8')


class _Values:
  """The postprocessed values of a task's evaluations.

  SeqIO postprocesses the targets once, for all evaluations, and predictions every time. A
  value that could not be made is therefore marked by itself.
  """

  _MISSING = object()

  def __init__(self, task: seqio.Task, failures: Failures, name: str) -> None:
    self._task = task
    self._shown_name = name
    self._failures = failures
    self._missing_because: errors.MetricError | None = None

  def postprocess(self, text: str, **arguments: Any) -> Any:
    """Returns the value of a text, or a mark if the postprocessor raises."""
    try:
      return self._task.postprocess_fn(text, **arguments)
    except Exception as error:  # a user's function may raise anything
      problem = f'fails at {text[:80]!r}'
      self._missing_because = self._fails(self._task.postprocessor, problem, error)
      return self._MISSING

  def metric(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a metric function that gives no values where `function` fails."""

    def guarded_metric(targets: Sequence[Any], predictions: Sequence[Any]) -> Any:
      if any(value is self._MISSING for value in (*targets, *predictions)):
        if self._missing_because:  # perhaps of an earlier evaluation
          self._failures.record(self._missing_because)
        return {}
      try:
        values = function(targets, predictions)
      except Exception as error:
        self._fails(function, 'fails', error)
        return {}
      if problem := _problem(values):
        self._fails(function, problem)
        return {}
      return values

    guarded_metric.__name__ = _name(function)
    return guarded_metric

  def _fails(
    self, function: Any, problem: str, error: Exception | None = None
  ) -> errors.MetricError:
    if error is not None:
      reason = next(iter(str(error).splitlines()), '')
      problem += f': {type(error).__name__}: {reason}'
    failure = errors.MetricError(self._shown_name, _name(function), problem)
    self._failures.record(failure)
    return failure


def _problem(values: Any) -> str | None:
  """Returns what is wrong with the values of a metric function, if anything is."""
  expected = "; expected a dict such as {'accuracy': 50.0}"
  if not isinstance(values, Mapping):
    return f'returns {str(values)[:80]!r}{expected}'
  for name, value in values.items():
    if not isinstance(name, str):
      return f'returns a value named {str(name)[:80]!r}{expected}'
    # SeqIO also logs texts and pictures, which are values of its own classes.
    is_number = isinstance(value, numbers.Real) or getattr(value, 'shape', None) == ()
    if not is_number and not isinstance(value, seqio.metrics.MetricValue):
      return f'returns {str(value)[:80]!r} as {name}; expected a number'
  return None


def _name(function: Any) -> str:
  function = getattr(function, 'func', function)  # of a functools.partial
  return getattr(function, '__name__', type(function).__name__)
