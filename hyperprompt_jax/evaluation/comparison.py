"""`hyperprompt eval --compare`: methods beside each other, over tasks and seeds.

It reads what training recorded, and evaluates nothing again.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import intervals, summary
from hyperprompt_jax.evaluation.scores import AVERAGE, best_step, scores_by_step
from hyperprompt_jax.runtime import reporting

CHOICES = ('best', 'best_per_task', 'latest')

# The scores of one run, by task and under AVERAGE.
Scores = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Method:
  """Runs that differ in nothing but their seed.

  Attributes:
    name: is the method's name; if several share it, the first run's folder is added.
    scores: holds the scores by seed.
  """

  name: str
  scores: Mapping[int, Scores]

  def values(self, task: str) -> dict[int, float]:
    """The scores of a task, by seed, of the runs that have one."""
    return {seed: run[task] for seed, run in sorted(self.scores.items()) if task in run}

  def beats(self, other: 'Method', task: str) -> bool:
    """Whether the interval of the difference, paired by seed, lies above zero."""
    mine, theirs = self.values(task), other.values(task)
    paired = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    low, _ = intervals.bounds(paired)
    return low > 0


def compare(folders: Sequence[str], choice: str = 'best') -> list[Method]:
  """Reads the scores of runs, and puts those of a method together.

  Args:
    folders: are MODEL_DIRs; of single-task runs, the folder that theirs are in.
    choice: is 'best', the step of the highest average; 'best_per_task', each task's own
      best step, and the mean of these (T5's convention); or 'latest'.

  Raises:
    UserError: if a folder is that of no run, or has no scores yet; or if two runs of a
      method have the same seed.
  """
  if choice not in CHOICES:
    raise UserError(f'--step={choice}: --compare takes {", ".join(CHOICES)}')
  groups: dict[str, dict[int, tuple[str, Scores]]] = {}
  names: dict[str, str] = {}
  for folder in folders:
    config, records = _read(folder)
    seed, kind = _seed_and_kind(config)
    group = groups.setdefault(kind, {})
    if seed in group:
      raise UserError(
        f'{group[seed][0]} and {folder} are runs of the same configuration and seed, '
        f'{seed}: name one of them'
      )
    group[seed] = folder, _chosen(folder, records, choice)
    names[kind] = _method(config)
  methods = []
  for kind, group in groups.items():
    first, _ = next(iter(group.values()))
    shared = list(names.values()).count(names[kind]) > 1
    name = f'{names[kind]} ({pathlib.Path(first).name})' if shared else names[kind]
    methods.append(Method(name, {seed: scores for seed, (_, scores) in group.items()}))
  return methods


def tasks_of(methods: Sequence[Method]) -> list[str]:
  """All tasks that have a score, and AVERAGE at the end."""
  tasks = {task for method in methods for run in method.scores.values() for task in run}
  return [*sorted(tasks - {AVERAGE}), AVERAGE]


def best(methods: Sequence[Method], task: str) -> Method | None:
  """The method that beats every other, if there is one."""
  for method in methods:
    others = [other for other in methods if other is not method]
    if others and all(method.beats(other, task) for other in others):
      return method
  return None


def rows(methods: Sequence[Method]) -> list[dict[str, Any]]:
  """A row for each method and task: `mean` and `std` over `seeds`, and whether `best`."""
  table = []
  for task in tasks_of(methods):
    winner = best(methods, task)
    for method in methods:
      values = list(method.values(task).values())
      if values:
        table.append(
          {
            'method': method.name,
            'task': task,
            'seeds': len(values),
            'mean': float(np.mean(values)),
            'std': float(np.std(values, ddof=1)) if len(values) > 1 else None,
            'best': method is winner,
          }
        )
  return table


def markdown(methods: Sequence[Method]) -> str:
  """A table of methods by tasks."""
  cells = {}
  for row in rows(methods):
    spread = '' if row['std'] is None else f' ± {row["std"]:.2f}'
    text = f'{row["mean"]:.2f}{spread}'
    cells[row['method'], row['task']] = f'**{text}**' if row['best'] else text
  tasks = tasks_of(methods)
  head = ['method', 'seeds', *tasks]
  lines = [head, ['---'] * len(head)]
  for method in methods:
    of_tasks = [cells.get((method.name, task), '-') for task in tasks]
    lines.append([method.name, str(len(method.scores)), *of_tasks])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _read(folder: str) -> tuple[str, list[dict[str, float]]]:
  """The configuration and the records of a run, or of the single-task runs in a folder."""
  path = epath.Path(folder)
  if (path / run_folder.CONFIG_FILE).is_file():
    records = reporting.read_metrics(path / reporting.METRICS_FILE)
    return (path / run_folder.CONFIG_FILE).read_text(), records
  parts = sorted(path.glob(f'*/{run_folder.CONFIG_FILE}')) if path.is_dir() else []
  if not parts:
    raise UserError(
      f'{folder} is no folder of a training run: it has no {run_folder.CONFIG_FILE}'
    )
  of_tasks = {
    part.parent.name: reporting.read_metrics(part.parent / reporting.METRICS_FILE)
    for part in parts
  }
  return parts[0].read_text(), summary.merge(of_tasks)


def _chosen(folder: str, records: Sequence[Mapping[str, float]], choice: str) -> Scores:
  scores = scores_by_step(records)
  if not scores:
    raise UserError(f'{folder} has no scores yet: train on, or leave it out')
  if choice == 'latest':
    return scores[max(scores)]
  if choice == 'best':
    step = best_step(scores, AVERAGE)
    if step is None:
      raise UserError(
        f'{folder} has no average score yet: --step=latest compares what it has'
      )
    return scores[step]
  tasks = sorted({task for run in scores.values() for task in run} - {AVERAGE})
  of_tasks = {
    task: max(run[task] for run in scores.values() if task in run) for task in tasks
  }
  averaged = any(AVERAGE in run for run in scores.values())
  mean = {AVERAGE: sum(of_tasks.values()) / len(of_tasks)} if averaged else {}
  return {**of_tasks, **mean}


def _seed_and_kind(config: str) -> tuple[int, str]:
  """The seed, and the rest of a configuration but for where the run is."""
  seed = re.search(r'^RANDOM_SEED = (\d+)$', config, re.MULTILINE)
  own = r'^(RANDOM_SEED|MODEL_DIR|MIXTURE_OR_TASK_NAME) = (\\\n)?.*\n'
  return int(seed[1]) if seed else 0, re.sub(own, '', config, flags=re.MULTILINE)


def _method(config: str) -> str:
  match = re.search(r'^METHOD = @(?:\w+\.)*(\w+)\(\)$', config, re.MULTILINE)
  return match[1] if match else 'unknown'
