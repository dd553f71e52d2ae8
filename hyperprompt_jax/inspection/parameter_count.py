"""`hyperprompt params`: how many parameters a model has, and how many a method adds.

Counted from abstract shapes: no weights are made, whatever the size.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import (
  Method,
  MultiTaskLearning,
  added_parameters,
  within_budget,
)
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

SIZES = ('small', 'base', 'large', 'xl', 'xxl')
# The numbers of tasks that growth is shown at.
TASKS = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Counts:
  """Numbers of parameters.

  Attributes:
    backbone: counts the parameters of the network that the tasks share.
    task: counts the parameters that the method adds for all tasks.
    per_task: counts the parameters that one more task adds.
    growth: gives the parameters that the method adds, by the number of tasks.
  """

  backbone: int
  task: int
  per_task: int
  growth: Mapping[int, int]

  @property
  def ratio(self) -> float:
    """`task / backbone`."""
    return self.task / self.backbone


def count(
  config: Config, method: Method, num_tasks: int, extra_parameters: int | None = None
) -> Counts:
  """Counts the parameters of a network and a method.

  Args:
    config: configures the network.
    method: is the method of task-conditioning.
    num_tasks: is the number of conditioned tasks, t.
    extra_parameters: is the number of parameters that the method is to add, to 2 %; None
      keeps its widths.

  Raises:
    UserError: for a number of tasks or an option of the method that cannot be.
  """
  if num_tasks < 1:
    raise UserError(f'--num_tasks must be a positive integer, not {num_tasks}')
  backbone = _backbone(config)
  if extra_parameters is not None:
    method = within_budget(method, config, num_tasks, extra_parameters)

  def added(tasks: int) -> int:
    if not method.shared_backbone:
      return (tasks - 1) * backbone
    return added_parameters(method, config, tasks)

  growth = _growth(added, {*TASKS, num_tasks, num_tasks + 1})
  return Counts(
    backbone=backbone,
    task=growth[num_tasks],
    per_task=growth[num_tasks + 1] - growth[num_tasks],
    growth={tasks: growth[tasks] for tasks in TASKS},
  )


def _growth(added: Callable[[int], int], numbers: Collection[int]) -> dict[int, int]:
  """Returns `added` by the number of tasks.

  Tracing a method takes longer than anything else here. Where three counts lie on a line,
  as those of every method of the package do, the others are read from it.
  """
  first, most = added(1), max(numbers)
  slope = added(2) - first
  if added(most) != first + (most - 1) * slope:
    return {tasks: added(tasks) for tasks in numbers}
  return {tasks: first + (tasks - 1) * slope for tasks in numbers}


@functools.lru_cache
def _backbone(config: Config) -> int:
  shapes = Model(config, MultiTaskLearning(), ('task',)).param_shapes()
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def draw(rows: Sequence[Mapping[str, Any]], path: str) -> None:
  """Draws the growth of the ratio, a panel for each size and a line for each method.

  Methods that were matched to a budget grow from the same point, and are left out.
  """
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  rows = [row for row in rows if row['family'] == 'default']
  if not any(row['task'] for row in rows):
    raise UserError(f'--plot {path}: {rows[0]["method"]} adds nothing that could be drawn')
  sizes = list(dict.fromkeys(row['size'] for row in rows))
  methods = list(dict.fromkeys(row['method'] for row in rows))
  styles = dict(zip(methods, _styles(), strict=False))
  figure, axes = plt.subplots(
    1, len(sizes), figsize=(3 * len(sizes) + 2, 4), sharey=True, squeeze=False
  )
  for axis, size in zip(axes[0], sizes, strict=True):
    for row in rows:
      if row['size'] != size or not row['task']:
        continue  # 0 has no place on a logarithmic axis
      # Of one task alone, single-task fine-tuning adds nothing either.
      growth = row['growth'].items()
      shown = {int(t): 100 * sums['ratio'] for t, sums in growth if sums['task']}
      axis.plot(
        list(shown), list(shown.values()), label=row['method'], **styles[row['method']]
      )
    axis.set(title=size, xscale='log', yscale='log', xlabel='conditioned tasks')
    axis.set_xticks(TASKS, labels=map(str, TASKS))
    axis.minorticks_off()
    axis.grid(color='0.9')
  axes[0, 0].set_ylabel('added parameters (% of the backbone)')
  figure.tight_layout()
  handles, labels = axes[0, -1].get_legend_handles_labels()
  figure.legend(handles, labels, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
  try:
    figure.savefig(path, dpi=150, bbox_inches='tight')
  except (OSError, ValueError) as error:
    raise UserError(f'--plot {path} cannot be written: {error}') from error
  finally:
    plt.close(figure)


def _styles() -> list[dict[str, Any]]:
  """Styles told apart in grey and by the colour-blind (Okabe & Ito), and by markers."""
  colors = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
  markers = ('o', 's', '^', 'D', 'v', 'P', 'X')
  lines = ('-', '--')
  return [
    {'color': color, 'marker': marker, 'linestyle': line, 'markersize': 4}
    for line in lines
    for color, marker in zip(colors, markers, strict=True)
  ]
