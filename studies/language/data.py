"""Twelve English tasks as arrays, and spans of their training text for pretraining.

The folder holds `TASK/train.jsonl` and `TASK/validation.jsonl`, a JSON object a line with
`inputs` and `targets`; the environment variable `STUDY_TEXT_DIR` names it.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
import re

import numpy as np
import sentencepiece

from hyperprompt_jax.demonstration.side_by_side import Rows
from hyperprompt_jax.errors import UserError

VARIABLE = 'STUDY_TEXT_DIR'
TASKS = (
  *('cb', 'copa', 'rte', 'wic', 'cola', 'mrpc'),
  *('sst2', 'sst5', 'cr', 'mpqa', 'subj', 'trec'),
)
PIECES = 2000
SENTINELS = 16
INPUT_LENGTH = 40
TARGET_LENGTH = 16  # of spans
ROWS_PER_TASK = 2000
EOS, UNKNOWN = 1, 2
MASKED, SPAN = 0.15, 3
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
  """The rows of a task, as text.

  Attributes:
    train: are inputs and labels without those whose text any task validates on.
    validation: are inputs and labels.
    removed: counts the training rows that were left out.
  """

  train: list[tuple[str, str]]
  validation: list[tuple[str, str]]
  removed: int


def text_of(inputs: str) -> str:
  """The text of a row without the name of its task, its fields, case and punctuation."""
  text = re.sub(r'^\S+ (\S+:)', r'\1', inputs)
  text = re.sub(r'\b(sentence|question|word|premise|hypothesis|choice)\s?[12]?:', ' ', text)
  return ' '.join(re.findall(r'\w+', text.lower()))


@functools.cache
def tasks() -> dict[str, Task]:
  """All tasks; no training row has the text of a validation row of any task."""
  folder = _folder()

  def read(name: str, split: str) -> list[tuple[str, str]]:
    lines = (folder / name / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row['inputs'], str(row['targets'])) for row in rows]

  validation = {name: read(name, 'validation') for name in TASKS}
  unseen = {text_of(inputs) for rows in validation.values() for inputs, _ in rows}
  loaded = {}
  for name in TASKS:
    train = read(name, 'train')
    kept = [row for row in train if text_of(row[0]) not in unseen]
    loaded[name] = Task(kept, validation[name], len(train) - len(kept))
  return loaded


def _folder() -> pathlib.Path:
  """The folder of the tasks.

  Raises:
    UserError: if the environment does not name it.
  """
  if VARIABLE not in os.environ:
    raise UserError(
      f'study C needs {VARIABLE} in the environment: let it name a folder that holds '
      f'TASK/train.jsonl and TASK/validation.jsonl for each of {", ".join(TASKS)}'
    )
  return pathlib.Path(os.environ[VARIABLE])


@functools.cache
def vocabulary() -> sentencepiece.SentencePieceProcessor:
  """Pieces of the training text, after padding, the end and the unknown piece."""
  text = (inputs for task in tasks().values() for inputs, _ in task.train)
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=text,
    model_writer=model,
    vocab_size=PIECES,
    pad_id=0,
    eos_id=EOS,
    unk_id=UNKNOWN,
    bos_id=-1,
    num_threads=1,
    minloglevel=2,
  )
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@functools.cache
def labels() -> dict[str, int]:
  """The id of every label, which follow the pieces; equal labels of tasks are one."""
  names = {label for task in tasks().values() for _, label in task.train}
  return {name: PIECES + index for index, name in enumerate(sorted(names))}


def vocabulary_size() -> int:
  """V: pieces, labels and sentinels."""
  return PIECES + len(labels()) + SENTINELS


def labels_of(task: str) -> list[int]:
  """The ids of a task's labels."""
  return sorted({labels()[label] for _, label in tasks()[task].train})


@functools.cache
def rows(split: str) -> Rows:
  """The rows of all tasks, task by task; at most ROWS_PER_TASK of each to train."""
  encoded, targets, ids = [], [], []
  for index, name in enumerate(TASKS):
    chosen: list[tuple[str, str]] = getattr(tasks()[name], split)
    if split == 'train' and len(chosen) > ROWS_PER_TASK:
      random = np.random.default_rng(index)
      chosen = [chosen[i] for i in random.permutation(len(chosen))[:ROWS_PER_TASK]]
    encoded += vocabulary().encode([inputs for inputs, _ in chosen])
    targets += [[labels()[label], EOS] for _, label in chosen]
    ids += [index] * len(chosen)
  inputs = _padded([_ended(pieces) for pieces in encoded], INPUT_LENGTH)
  return _features(inputs, np.array(targets), np.array(ids))


def spans(seed: int, number: int) -> Rows:
  """Corrupted stretches of training text, and what was taken out of them, as T5's.

  Args:
    seed: gives the stretches and the spans.
    number: is the number of rows.
  """
  random = np.random.default_rng(seed)
  text = _training_text()
  stream = np.concatenate([text[i] for i in random.permutation(len(text))])
  starts = random.integers(0, len(stream) - INPUT_LENGTH, number)
  pairs = [_corrupted(stream[start : start + INPUT_LENGTH], random) for start in starts]
  inputs = _padded([one for one, _ in pairs], INPUT_LENGTH)
  targets = _padded([other for _, other in pairs], TARGET_LENGTH)
  return _features(inputs, targets, np.zeros(number, np.int32))


@functools.cache
def _training_text() -> list[list[int]]:
  """The pieces of all training rows."""
  return [
    pieces
    for task in tasks().values()
    for pieces in vocabulary().encode([inputs for inputs, _ in task.train])
  ]


def _corrupted(pieces: Array, random: np.random.Generator) -> tuple[list[int], list[int]]:
  """A stretch with sentinels in place of spans, and the spans after their sentinels."""
  first = vocabulary_size() - SENTINELS
  count = round(len(pieces) * MASKED / SPAN)
  cuts = np.sort(random.choice(len(pieces) // (SPAN + 1), count, replace=False))
  inputs, targets, done = [], [], 0
  for sentinel, cut in enumerate(cuts * (SPAN + 1)):
    inputs += [*pieces[done:cut], first + sentinel]
    done = cut + SPAN
    targets += [first + sentinel, *pieces[cut:done]]
  return _ended([*inputs, *pieces[done:]]), [*targets, EOS]


def _ended(pieces: list[int]) -> list[int]:
  """The pieces with the end, cut to the length of inputs."""
  return [*pieces[: INPUT_LENGTH - 1], EOS]


def _padded(sequences: list[list[int]], length: int) -> Array:
  padded = np.zeros((len(sequences), length), np.int32)
  for row, sequence in zip(padded, sequences, strict=True):
    row[: len(sequence)] = sequence
  return padded


def _features(inputs: Array, targets: Array, task_ids: Array) -> Rows:
  shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
  features = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': shifted,
    'decoder_target_tokens': targets,
    'decoder_loss_weights': targets > 0,
    'task_ids': task_ids[:, None],
  }
  return {name: value.astype(np.int32) for name, value in features.items()}
