"""The scores of a run over its steps, and the table that closes it."""

from collections.abc import Mapping, Sequence

import hyperprompt_tasks
from hyperprompt_jax.evaluation.scores import (
  AVERAGE,
  EVAL,
  SCORE,
  best_step,
  scores_by_step,
)
from hyperprompt_jax.runtime import terminal


def merge(
  records_by_task: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[dict[str, float]]:
  """Puts the evaluations of single-task runs together, as if they were of one run.

  Args:
    records_by_task: are the records of each run's `metrics.jsonl`, by conditioned task.

  Returns:
    A record for each step that was evaluated, with an average where all tasks have a
    score.
  """
  merged: dict[int, dict[str, float]] = {}
  for records in records_by_task.values():
    for record in records:
      at_step = merged.setdefault(int(record['step']), {'step': record['step']})
      at_step.update(
        {
          name: value
          for name, value in record.items()
          if name.startswith(f'{EVAL}/') and name != f'{EVAL}/{AVERAGE}'
        }
      )
  for record in merged.values():
    names = [f'{SCORE}{task}' for task in records_by_task]
    if record.keys() >= {*names}:
      record[f'{EVAL}/{AVERAGE}'] = sum(record[name] for name in names) / len(names)
  return [merged[step] for step in sorted(merged)]


def print_summary(
  records: Sequence[Mapping[str, float]],
  groups: Mapping[str, Sequence[tuple[str, str]]],
  names: Mapping[str, str],
) -> None:
  """Prints, for each task, its metrics at the best single checkpoint and its best score.

  Args:
    records: are the lines of `metrics.jsonl`.
    groups: gives the `(SeqIO task, metric)` pairs whose mean is a conditioned task's score.
    names: gives the short names of SeqIO tasks, by which `records` name them.
  """
  scores = scores_by_step(records)
  if not scores:
    return
  # Without an average (a task was not evaluated) the last step stands in.
  single = best_step(scores, AVERAGE)
  shown = max(scores) if single is None else single
  values = {
    name: value
    for record in records
    if record['step'] == shown
    for name, value in record.items()
  }
  rows: list[tuple[str, ...]] = []
  best_scores = []
  for task, metrics in groups.items():
    step = best_step(scores, task)
    if step is None:
      continue
    best_scores.append(scores[step][task])
    of_tasks = {name: _metrics(values, names.get(name, name)) for name, _ in metrics}
    detail = '  '.join(
      f'{metric} {of_tasks[name].get(metric, float("nan")):.2f}'
      for name, metric in hyperprompt_tasks.expanded(metrics, of_tasks)
    )
    at_shown = scores[shown].get(task)
    rows.append(
      (
        task,
        detail,
        '-' if at_shown is None else f'{at_shown:.2f}',
        f'{best_scores[-1]:.2f}',
        str(step),
      )
    )
  rows, rest = _ends(rows)
  averaged = single is not None
  means = ('-', '-')
  if averaged:
    means = f'{scores[shown][AVERAGE]:.2f}', f'{sum(best_scores) / len(best_scores):.2f}'
  rows.append((AVERAGE, '', *means, ''))
  name = 'best single checkpoint' if averaged else 'last evaluation'
  terminal.print_table(
    f'Validation scores (x 100), {name}: step {shown}{rest}',
    ('task', 'metrics', f'step {shown}', 'best of task', 'at step'),
    rows,
    ruled=1,
  )


def _ends(rows: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], str]:
  """The rows of the highest and lowest scores where there are many, and a note of that."""
  half = terminal.MOST_ROWS // 2
  if len(rows) <= terminal.MOST_ROWS:
    return rows, ''
  rows = sorted(rows, key=lambda row: -float(row[3]))
  note = f'; the best and the worst {half} of {len(rows):,} tasks, all are in metrics.jsonl'
  return [*rows[:half], *rows[-half:]], note


def _metrics(values: Mapping[str, float], task: str) -> dict[str, float]:
  """The metrics of a task in a record of an evaluation, without its loss."""
  prefix = f'{EVAL}/{task}/'
  return {
    name.removeprefix(prefix): value
    for name, value in values.items()
    if name.startswith(prefix) and name != f'{prefix}loss'
  }
