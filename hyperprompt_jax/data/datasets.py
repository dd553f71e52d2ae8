"""Checks of a mixture, and rows of its splits."""

from collections.abc import Mapping

import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import splits
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.data.examples import Examples
from hyperprompt_jax.data.rows import Rows
from hyperprompt_jax.errors import UserError


def check_mixture(name: str, split: str, *, use_cached: bool = False) -> None:
  """Checks that a task or mixture is registered with a task list, and has a split.

  With `use_cached`, all of its tasks must have a cache, too.

  Raises:
    UserError: if one of these conditions is not met.
  """
  hyperprompt_tasks.task_list(name)  # its errors suggest similar names
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  if not any(split in task.splits for task in tasks):
    splits = sorted({split for task in tasks for split in task.splits})
    raise UserError(f'{name} has no split {split}; it has {", ".join(splits)}')
  if use_cached and (missing := [task.name for task in tasks if not task.cache_dir]):
    raise UserError(
      f'USE_CACHED_TASKS=True, but there is no cache of {", ".join(missing)}: make one '
      'with seqio_cache_tasks and name its folder by --seqio_additional_cache_dirs, or set '
      'USE_CACHED_TASKS=False'
    )


def tasks_with(split: str, name: str) -> list[seqio.Task]:
  """Returns the SeqIO tasks of a task or mixture that have a split."""
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  return [task for task in tasks if split in task.splits]


def check_targets(name: str, split: str, access: Access) -> None:
  """Checks that the examples of a split have targets, which a test split may lack.

  Raises:
    UserError: if those of a task have none.
  """
  tasks = tasks_with(split, name)
  for task, dataset in splits.datasets(tasks, split, access, access.lengths).items():
    if 'targets' not in dataset.element_spec:
      raise UserError(
        f'the split {split} of {task} has no targets to compare answers with: '
        '`hyperprompt infer` answers it'
      )


def split_rows(
  name: str,
  access: Access,
  *,
  limit: int | None,
  split: str = 'validation',
  opened: Mapping[str, Examples] | None = None,
) -> dict[str, Rows]:
  """Returns the first rows of a split of each task of a mixture, in their order.

  Args:
    name: names the task or mixture.
    access: gives the way to the examples, and the lengths to which they are cut.
    limit: is the largest number of rows of a task; None for no limit.
    split: names the split of the tasks that have it.
    opened: holds the tasks' examples as `splits.open_splits` gives them; None opens them.

  Returns:
    Rows by the name of the SeqIO task.
  """
  tasks = tasks_with(split, name)
  if opened is None:
    opened = splits.open_splits(tasks, split, access)
  return {
    task.name: Rows.of_examples(opened[task.name], access.lengths, limit)
    if task.name in opened
    else Rows.of_stream(
      splits.stream(task, split, access, access.lengths)
      .take(-1 if limit is None else limit)
      .as_numpy_iterator(),
      access.lengths,
    )
    for task in tasks
  }
