"""String functions that disagree on the same inputs, and have parts in common.

An example is `TASK x1 … xn EOS -> y1 … yn EOS`: a symbol that names the task, and the
string. All tasks share their strings, so nothing but that symbol (and what a method knows
of the task) says what to do; every method reads the same text.
"""

from collections.abc import Callable, Sequence

import numpy as np

ALPHABET, LENGTH = 16, 10
PAD, EOS, FIRST_SYMBOL = 0, 1, 2
FIRST_TASK = FIRST_SYMBOL + ALPHABET

Array = np.ndarray  # of symbols, int64 `[b, LENGTH]`, 0 to ALPHABET - 1

# A task is a way to arrange positions and a map of symbols: each with 4 of the first and 4
# of the second, all pairs of them. Tasks of one arrangement or one map have half in common.
_RANDOM = np.random.RandomState(0)
ARRANGEMENTS = [_RANDOM.permutation(LENGTH) for _ in range(4)]
MAPS = [_RANDOM.permutation(ALPHABET) for _ in range(4)]
# In this order the first n tasks hold as many arrangements as maps.
_PAIRS = [(0, 0), (1, 1), (0, 1), (1, 0), (2, 2), (3, 3), (2, 3), (3, 2)]
_PAIRS += [(0, 2), (1, 3), (2, 0), (3, 1), (0, 3), (1, 2), (2, 1), (3, 0)]
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
  f'arrange_{a}_map_{m}': lambda x, a=a, m=m: MAPS[m][x[:, ARRANGEMENTS[a]]]
  for a, m in _PAIRS
}
NAMES = tuple(FUNCTIONS)
VOCAB_SIZE = FIRST_TASK + len(NAMES)


def strings(rows: int, rng: np.random.Generator) -> Array:
  """Random strings."""
  return rng.integers(0, ALPHABET, (rows, LENGTH))


def batch(rows_per_task: int, tasks: Sequence[int], x: Array) -> dict[str, np.ndarray]:
  """Features of the network for strings of some tasks.

  Args:
    rows_per_task: of each.
    tasks: indices into NAMES, which are the task ids, too.
    x: `[rows_per_task * len(tasks), LENGTH]`, task by task.

  Returns:
    int32 arrays `[b, …]`, as from `ConditionedEncDecFeatureConverter`.
  """
  ids = np.repeat(np.asarray(tasks), rows_per_task)
  y = np.concatenate(
    [
      FUNCTIONS[NAMES[task]](part)
      for task, part in zip(tasks, np.split(x, len(tasks)), strict=True)
    ]
  )
  end = np.full((len(x), 1), EOS)
  inputs = np.concatenate([FIRST_TASK + ids[:, None], FIRST_SYMBOL + x, end], axis=1)
  targets = np.concatenate([FIRST_SYMBOL + y, end], axis=1)
  shifted = np.concatenate([np.zeros_like(end), targets[:, :-1]], axis=1)
  found = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': shifted,
    'decoder_target_tokens': targets,
    'decoder_loss_weights': np.ones_like(targets),
    'task_ids': ids[:, None],
  }
  return {name: value.astype(np.int32) for name, value in found.items()}
