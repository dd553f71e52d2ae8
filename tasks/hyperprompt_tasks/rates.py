"""The rates of a mixture: how often each of its tasks is drawn."""

import dataclasses
import fnmatch
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import seqio

from hyperprompt_tasks import errors

_PATTERN_SIGNS = re.compile(r'[*?\[]')


@dataclasses.dataclass(frozen=True)
class Proportional:
  """The rate `min(examples, cap) ** (1 / temperature)` of a task (Raffel et al., 3.5.2).

  Attributes:
    cap: is the largest number of examples that counts; None for no cap.
    temperature: makes the rates of large and small tasks the more alike, the higher it is.
  """

  cap: float | None = None
  temperature: float = 1.0

  def __post_init__(self) -> None:
    for name, value in (('cap', self.cap), ('temperature', self.temperature)):
      if value is not None and not (_is_finite(value) and value > 0):
        raise errors.TaskError(
          f'the {name} of proportional rates must be a positive number, not '
          f'{str(value)[:80]}'
        )

  def rate(self, examples: int) -> float:
    """Returns the rate of a task with so many training examples."""
    size = examples if self.cap is None else min(examples, self.cap)
    return float(size ** (1 / self.temperature))


def is_pattern(member: Any) -> bool:
  """Returns whether a member of a mixture is a pattern, `* ? […]`, of SeqIO tasks."""
  return isinstance(member, str) and bool(_PATTERN_SIGNS.search(member))


def by_examples(
  mixture: str,
  given: Mapping[str, float | Proportional] | Proportional | None,
  examples: Mapping[str, int],
) -> dict[str, float]:
  """Returns the rates of tasks whose numbers of training examples are known.

  Args:
    mixture: is the mixture that the error names.
    given: is the rate of a task, or of all; by default it is the number of examples.
    examples: is the number of training examples of each task.

  Raises:
    TaskError: if a rate is neither a finite number of 0 or more nor proportional.
  """
  others = given if isinstance(given, Proportional) else Proportional()
  listed = given if isinstance(given, Mapping) else {}
  rates = {task: listed.get(task, others) for task in examples}
  check(mixture, rates)
  return {
    task: rate.rate(examples[task]) if isinstance(rate, Proportional) else rate
    for task, rate in rates.items()
  }


def check(mixture: str, rates: Mapping[str, Any]) -> None:
  """Checks that every rate is proportional, or a finite number of 0 or more.

  Args:
    mixture: is the mixture that the error names.
    rates: is the rate of each member of the mixture.

  Raises:
    TaskError: if one rate is neither.
  """
  for member, rate in rates.items():
    if not isinstance(rate, Proportional) and not (_is_finite(rate) and rate >= 0):
      raise errors.TaskError(
        f'mixture {mixture}: the rate of {member} is {str(rate)[:80]}; expected a finite '
        'number of 0 or more'
      )


def _is_finite(value: Any) -> bool:
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def check_trainable(
  mixture: str, rates: Mapping[str, Any], has_train_split: Callable[[str], bool]
) -> None:
  """Checks that training has a task to draw.

  A mixture without a train split, which can only be evaluated, may have the rate 0
  everywhere.

  Args:
    mixture: is the mixture that the error names.
    rates: is the valid rate of each SeqIO task of the mixture.
    has_train_split: tells whether a SeqIO task has a train split. It is
      called only if all rates are 0, because it may look on disk.

  Raises:
    TaskError: if all rates are 0 although a task has a train split.
  """
  if not any(rates.values()) and any(map(has_train_split, rates)):
    raise errors.TaskError(
      f'mixture {mixture}: the rate of every task is 0, so there is nothing to train on; '
      'give at least one task with training data a positive rate'
    )


def expand(mixture: str, rates: Mapping[str, Any]) -> dict[str, float]:
  """Replaces every pattern and every mixture among the members by its tasks.

  Each task that a pattern matches gets the pattern's rate. The tasks of an inner mixture
  share its rate in proportion to their own rates, as SeqIO shares it; where the rate is
  proportional, each gets that of its own examples. A task that is reached twice gets the
  sum.

  Args:
    mixture: is the mixture that errors name.
    rates: is the rate of each member, which is a SeqIO task, a pattern of SeqIO tasks
      or a registered mixture.

  Returns:
    The rate of each SeqIO task.

  Raises:
    TaskError: if a rate is invalid, the rates of an inner mixture are, or no task matches a
      pattern.
  """
  check(mixture, rates)
  tasks: dict[str, float] = {}
  for member, rate in rates.items():
    shares = _shares(mixture, member)
    if isinstance(rate, Proportional):
      added = {task: rate.rate(_num_examples(mixture, task)) for task in shares}
    else:
      added = {task: rate * share for task, share in shares.items()}
    for task, own in added.items():
      tasks[task] = tasks.get(task, 0) + own
  return tasks


def _num_examples(mixture: str, task: str) -> int:
  """Returns the number of training examples of a SeqIO task, 0 without a train split."""
  if task not in seqio.TaskRegistry.names():
    return 0  # whoever looks for the task has an error for this
  registered = seqio.TaskRegistry.get(task)
  if 'train' not in registered.splits:
    return 0
  number = registered.num_input_examples('train')
  if number is None:
    raise errors.TaskError(
      f'mixture {mixture}: the source of {task} does not know how many examples it has: '
      'give it a number as rate'
    )
  return number


def of_mixture(mixture: seqio.Mixture) -> dict[str, float]:
  """Returns the rate of each SeqIO task of a registered mixture.

  Raises:
    TaskError: if a rate is invalid, or a function that computes a rate raises.
  """
  try:
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  except Exception as error:  # a rate function may read files and raise anything
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise errors.TaskError(
      f'mixture {mixture.name}: its rates cannot be computed: {reason}'
    ) from error
  check(mixture.name, rates)
  return rates


def _shares(mixture: str, member: str) -> dict[str, float]:
  """Returns the part of a member's rate that belongs to each of its tasks."""
  if is_pattern(member):
    return dict.fromkeys(_matching(mixture, member, seqio.TaskRegistry.names()), 1.0)
  if member not in seqio.MixtureRegistry.names():
    return {member: 1.0}
  rates = of_mixture(seqio.MixtureRegistry.get(member))
  total = sum(rates.values())
  return {task: rate / total if total else 0.0 for task, rate in rates.items()}


def _matching(mixture: str, pattern: str, names: Iterable[str]) -> list[str]:
  # The mixture's own tasks, of an earlier call, are not what it is made of.
  others = [name for name in names if not name.startswith(f'{mixture}.')]
  matches = sorted(fnmatch.filter(others, pattern))
  if not matches:
    raise errors.TaskError(f'mixture {mixture}: no registered SeqIO task matches {pattern}')
  return matches
