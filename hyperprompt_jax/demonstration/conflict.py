"""String functions that disagree about the same inputs.

An example is `TASK x1 ... xn EOS -> y1 ... yn EOS`. A task rearranges the positions of the
string and replaces its symbols; both the arrangement and the replacement are the task's
own, so that tasks share nothing but their inputs. Every method reads the same text.
"""

import numpy as np

from hyperprompt_jax.demonstration.side_by_side import Rows

EOS, FIRST_SYMBOL = 1, 2  # 0 is padding


def vocabulary_size(alphabet: int, num_tasks: int) -> int:
  """V: symbols, the names of tasks, padding and the end."""
  return FIRST_SYMBOL + alphabet + num_tasks


def functions(
  num_tasks: int, length: int, alphabet: int, family: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Arrangements `[t, length]` and replacements `[t, alphabet]` of a family of tasks."""
  random = np.random.default_rng(2022 + family)
  arrangements = [random.permutation(length) for _ in range(num_tasks)]
  replacements = [random.permutation(alphabet) for _ in range(num_tasks)]
  return np.array(arrangements), np.array(replacements)


def rows(
  shape: tuple[int, int, int], rows_per_task: int, seed: int, family: int = 0
) -> Rows:
  """Makes random strings of every task, task by task.

  Args:
    shape: is the number of tasks, the length of strings and the number of symbols.
    rows_per_task: is the number of strings of each task.
    seed: gives the strings.
    family: chooses the tasks; each family has functions and names of its own.

  Returns:
    Features of the network, int32.
  """
  num_tasks, length, alphabet = shape
  random = np.random.default_rng(seed)
  arrangements, replacements = functions(num_tasks, length, alphabet, family)
  task = np.repeat(np.arange(num_tasks), rows_per_task)
  x = random.integers(0, alphabet, (len(task), length))
  arranged = np.take_along_axis(x, arrangements[task], axis=1)
  y = replacements[task[:, None], arranged]
  end = np.full((len(task), 1), EOS)
  name = FIRST_SYMBOL + alphabet + family * num_tasks + task[:, None]
  targets = np.concatenate([FIRST_SYMBOL + y, end], axis=1)
  features = {
    'encoder_input_tokens': np.concatenate([name, FIRST_SYMBOL + x, end], axis=1),
    'decoder_input_tokens': np.concatenate([0 * end, targets[:, :-1]], axis=1),
    'decoder_target_tokens': targets,
    'decoder_loss_weights': np.ones_like(targets) * (targets != EOS),
    'task_ids': task[:, None],
  }
  return {name: value.astype(np.int32) for name, value in features.items()}
