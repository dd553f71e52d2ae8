"""The rates of a mixture: how often each of its tasks is drawn."""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import seqio

from hyperprompt_tasks import errors


def check(mixture: str, rates: Mapping[str, Any]) -> None:
  """Checks that every rate is a finite number of 0 or more.

  Args:
    mixture: This mixture is named in the error.
    rates: This is the rate of each member of the mixture.

  Raises:
    TaskError: One rate is not such a number.
  """
  for member, rate in rates.items():
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not is_number or not math.isfinite(rate) or rate < 0:
      raise errors.TaskError(
        f'mixture {mixture}: the rate of {member} is {str(rate)[:80]}; expected a finite '
        'number of 0 or more'
      )


def check_trainable(
  mixture: str, rates: Mapping[str, Any], has_train_split: Callable[[str], bool]
) -> None:
  """Checks that training has a task to draw.

  A mixture without a train split, which can only be evaluated, may have the rate 0
  everywhere.

  Args:
    mixture: This mixture is named in the error.
    rates: This is the valid rate of each SeqIO task of the mixture.
    has_train_split: The function tells whether a SeqIO task has a train split. It is
      called only if all rates are 0, because it may look on disk.

  Raises:
    TaskError: All rates are 0 although a task has a train split.
  """
  if not any(rates.values()) and any(map(has_train_split, rates)):
    raise errors.TaskError(
      f'mixture {mixture}: the rate of every task is 0, so there is nothing to train on; '
      'give at least one task with training data a positive rate'
    )


def expand(mixture: str, rates: Mapping[str, Any]) -> dict[str, float]:
  """Replaces every mixture among the members by its tasks.

  The tasks of an inner mixture share its rate in proportion to their own rates, as SeqIO
  shares it. A task that is reached twice gets the sum.

  Args:
    mixture: This mixture is named in errors.
    rates: This is the rate of each member, which is a SeqIO task or a registered mixture.

  Returns:
    The rate of each SeqIO task.

  Raises:
    TaskError: A rate is invalid, or the rates of an inner mixture are.
  """
  check(mixture, rates)
  tasks: dict[str, float] = {}
  for member, rate in rates.items():
    shares = {member: 1.0}
    if member in seqio.MixtureRegistry.names():
      shares = _shares(seqio.MixtureRegistry.get(member))
    for task, share in shares.items():
      tasks[task] = tasks.get(task, 0) + rate * share
  return tasks


def of_mixture(mixture: seqio.Mixture) -> dict[str, float]:
  """Returns the rate of each SeqIO task of a registered mixture.

  Raises:
    TaskError: A rate is invalid, or a function that computes a rate raises.
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


def _shares(mixture: seqio.Mixture) -> dict[str, float]:
  """Returns the part of a mixture's rate that belongs to each of its tasks."""
  rates = of_mixture(mixture)
  total = sum(rates.values())
  return {task: rate / total if total else 0.0 for task, rate in rates.items()}
