"""A training batch in words: which examples a step was trained on."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

import hyperprompt_tasks
from hyperprompt_jax.data import access, indexed
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.partitioning import Partitioner


def batch_of_step(
  data: Any, step: int, positions: dict[int, tuple[int, int]] | None = None
) -> list[dict[str, Any]]:
  """The batch that a step of a run is trained on.

  Args:
    data: holds the run's `settings.DataSettings`.
    step: is the number of the step; the first step of a fresh run is 1.
    positions: gives positions in the data by step, as `saved_positions` reads them; with
      packed rows, the batches between the nearest one and the step have to be placed.

  Returns:
    The examples of the batch, row by row: each with its `row`, `task`, `epoch`, `example`
    (its number among the task's), `draw`, and the texts `inputs` and `targets`.

  Raises:
    UserError: if there is no such step, or the data are read as a stream.
  """
  vocabulary = hyperprompt_tasks.use_vocabulary(data.vocabulary)
  settings = indexed.BatchSettings(
    data.task_feature_lengths, data.batch_size, data.seed, data.pack, data.max_segments
  )
  reader = access.training_batches(
    data.mixture_or_task_name,
    settings,
    access.Access.from_settings(data),
    Partitioner(),
    num_shards=1,
  )
  if not isinstance(reader, indexed.IndexedBatches):
    raise UserError(
      'batches of a stream cannot be made without those before: --show-step needs data '
      'that are read by index'
    )
  batches = reader.batches
  placed = batches.at(_start(batches, step, positions or {}))
  shown = []
  drawn = placed.drawn
  for draw in sorted(range(len(drawn)), key=lambda draw: (placed.row[draw], draw)):
    examples = batches.examples[drawn.task[draw]]
    row = drawn.example[draw : draw + 1]
    texts = {
      feature: vocabulary.decode(examples.tokens(feature, row, limit)[0].tolist())
      for feature, limit in data.task_feature_lengths.items()
    }
    shown.append(
      {
        'row': int(placed.row[draw]),
        'task': examples.name,
        'epoch': int(drawn.epoch[draw]),
        'example': int(row[0]),
        'draw': placed.start + draw,
        **texts,
      }
    )
  return shown


def _start(
  batches: indexed.Batches, step: int, positions: dict[int, tuple[int, int]]
) -> int:
  """The draw that the batch of a step begins with."""
  # All checkpoints of a run have the same number of steps before its first.
  initial_step = next((at - number for at, (number, _) in positions.items()), 0)
  if step <= initial_step:
    raise UserError(f'--show-step={step}: the first step of this run is {initial_step + 1}')
  wanted = step - 1 - initial_step
  before = [(number, draw) for number, draw in positions.values() if number <= wanted]
  return batches.start_of(wanted, max(before, default=(0, 0)))


def saved_positions(model_dir: str) -> dict[int, tuple[int, int]]:
  """The number of batches and draws that each checkpoint of a run had read, by step."""
  return dict(_positions(epath.Path(model_dir) / 'checkpoints'))


def _positions(folder: epath.Path) -> Iterator[tuple[int, tuple[int, int]]]:
  for path in sorted(folder.glob(f'*/data/{indexed.FILE}')):
    try:
      position = json.loads(path.read_text())
      yield int(path.parent.parent.name), (position['batches'], position['draws'])
    except (OSError, ValueError, KeyError, TypeError):  # of a step that is being removed
      continue
