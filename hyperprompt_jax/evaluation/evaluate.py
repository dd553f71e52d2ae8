"""`hyperprompt eval`: evaluates checkpoints of a run: one, all, or each task's best."""

import math
from collections.abc import Sequence
from typing import Any

import hyperprompt_tasks
from hyperprompt_jax.data import datasets
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.evaluation.evaluator import Evaluator, Results
from hyperprompt_jax.evaluation.scores import best_step
from hyperprompt_jax.nn.int8 import FLOAT32
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings

ALL = 'all'
BEST_PER_TASK = 'best_per_task'


def evaluate(
  run: runs.Run,
  data: DataSettings,
  evaluation: EvaluationSettings,
  choice: str,
  split: str = 'validation',
  weights: str = FLOAT32,
) -> dict[str, Any]:
  """Evaluates checkpoints on a split of the tasks of a mixture.

  Args:
    run: is the run that has the checkpoints.
    data: describes the mixture, its lengths and batches; its task list must be the run's.
    evaluation: sets how much is evaluated, and how.
    choice: is a step, 'latest', 'best', 'all', or 'best_per_task'.
    split: names the split of the tasks that have it.
    weights: is the dtype of kernels, 'float32' or 'int8'.

  Returns:
    `checkpoints`, a list of `step`, `average`, `scores`, `metrics` and `losses` each;
    with 'best_per_task' also `best_per_task`, of `step` and `score` by task, and
    `best_per_task_average`.

  Raises:
    UserError: if there is no such checkpoint, mixture or split.
  """
  name = data.mixture_or_task_name
  run.check_task_list(name)
  datasets.check_mixture(name, split, use_cached=data.use_cached)
  run.partitioner.check(batch_size=data.batch_size)
  groups = hyperprompt_tasks.groups(hyperprompt_tasks.part(name, evaluation.tasks))
  wanted = _wanted(run, choice, list(groups))
  # Before the data are opened: those of a benchmark may have to be downloaded first.
  run.check_step(min(wanted.values()))
  if split != 'validation':
    datasets.check_targets(name, split, Access.from_settings(data))
  progress = terminal.stderr_console()
  with run.partitioner.activate():
    evaluator = Evaluator(run.model, run.partitioner, data, evaluation, split=split)
    results: dict[int, Results] = {}
    for number, step in enumerate(sorted(set(wanted.values())), 1):
      progress.print(f'step {step} ({number} of {len(set(wanted.values()))})')
      results[step] = evaluator.evaluate(run.restore(step, weights), step)
  report: dict[str, Any] = {'checkpoints': [_report(s, results[s]) for s in results]}
  if choice == BEST_PER_TASK:
    best = {
      task: {'step': step, 'score': results[step].scores[task]}
      for task, step in wanted.items()
    }
    report[BEST_PER_TASK] = best
    report['best_per_task_average'] = sum(b['score'] for b in best.values()) / len(best)
  return report


def _wanted(run: runs.Run, choice: str, tasks: Sequence[str]) -> dict[str, int]:
  """The steps to evaluate, by the purpose of each."""
  steps = run.steps()
  if choice == ALL:
    if not steps:
      raise UserError(f'no checkpoint in {run.model_dir}')
    return {str(step): step for step in steps}
  if choice != BEST_PER_TASK:
    return {choice: run.step(choice)}
  kept = {step: scores for step, scores in run.scores().items() if step in steps}
  best = {task: best_step(kept, task) for task in tasks}
  missing = [task for task, step in best.items() if step is None]
  if missing:
    raise UserError(
      f'no checkpoint of {run.model_dir} has a score of {", ".join(missing)} yet: '
      'evaluate --step=all'
    )
  return {task: step for task, step in best.items() if step is not None}


def _report(step: int, results: Results) -> dict[str, Any]:
  return {
    'step': step,
    'average': results.average,
    'scores': dict(results.scores),
    # JSON has no NaN, which is the correlation of equal predictions.
    'metrics': {
      task: {name: None if math.isnan(value) else value for name, value in metrics.items()}
      for task, metrics in results.metrics.items()
    },
    'losses': dict(results.losses),
  }
