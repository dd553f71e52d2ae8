"""Metrics of the training steps since the last report, and whether they are numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperprompt_jax.errors import listed

# The sums of a step that `train_step` returns, by name, on the host.
Sums = Mapping[str, Any]

_NORMS = ('grad_norm', 'param_norm')
# Learning rates, of which some optimizers report none.
_RATES = ('learning_rate', 'method_learning_rate')


def is_finite(sums: Sums) -> bool:
  """Whether the loss and norms of a step, and the parameters after it, are finite.

  The loss and gradient of a skipped step do not count: it has changed nothing.
  """
  norms = _NORMS[1:] if sums.get('skipped') else ('loss', *_NORMS)
  return all(math.isfinite(sums[name]) for name in norms)


def describe(sums: Sums, task_list: Sequence[str]) -> str:
  """The numbers of one step, the tasks in its batch, and which of them are not finite."""
  loss = sums['loss'] / _at_least_one(sums['tokens'])
  in_batch = [task for task, n in _by_task(sums, 'task_tokens', task_list) if n]
  bad = [
    task
    for task, x in _by_task(sums, 'task_loss', task_list)
    if task in in_batch and not math.isfinite(x)
  ]
  text = (
    f'loss {loss:.4g}, gradient norm {sums["grad_norm"]:.4g}, parameter norm '
    f'{sums["param_norm"]:.4g}; tasks in its batch: {listed(in_batch) or "none"}'
  )
  if bad and bad != in_batch:
    text += f', not finite: {listed(bad)}'
  return text


def means(steps: Sequence[Sums], task_list: Sequence[str]) -> dict[str, float]:
  """Means over the target tokens of several steps; norms are means over the steps.

  Learning rates are those of the last step.

  Args:
    steps: are the sums of steps, none of which was skipped.
    task_list: names the conditioned tasks; those without a token have no loss.
  """
  if not steps:
    return {}
  total = {name: np.sum([step[name] for step in steps], axis=0) for name in steps[0]}
  tokens = _at_least_one(total['tokens'])
  return {
    'loss': float(total['loss'] / tokens),
    'z_loss': float(total['z_loss'] / tokens),
    'accuracy': float(total['correct'] / tokens),
    **{name: float(total[name] / len(steps)) for name in _NORMS},
    **{name: float(steps[-1][name]) for name in _RATES if name in steps[-1]},
    **{
      f'loss/{task}': float(loss / of_task)
      for (task, loss), of_task in zip(
        _by_task(total, 'task_loss', task_list), total['task_tokens'], strict=True
      )
      if of_task
    },
  }


def _by_task(
  sums: Sums, name: str, task_list: Sequence[str]
) -> Iterator[tuple[str, float]]:
  return zip(task_list, map(float, sums[name]), strict=True)


def _at_least_one(tokens: Any) -> Any:
  # A batch of padding alone has no token and no loss.
  return np.maximum(tokens, 1)
