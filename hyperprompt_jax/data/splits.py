"""Whole splits of tasks in their order, for evaluation and inference."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hyperprompt_jax.data import build
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.data.columns import Values
from hyperprompt_jax.data.examples import Examples


def open_splits(
  tasks: Sequence[seqio.Task], split: str, access: Access, *, all_features: bool = True
) -> dict[str, Examples]:
  """Opens what can be materialised of tasks' splits, by task.

  Args:
    tasks: have the split.
    split: names it.
    access: gives the way to the examples.
    all_features: says whether all features are needed, or tokens alone.
  """
  if access.cache is None or not tasks:
    return {}
  try:
    return access.open(tasks, split, all_features=all_features)
  except build.NotMaterialised:
    opened: dict[str, Examples] = {}
    for task in tasks:
      with contextlib.suppress(build.NotMaterialised):
        opened |= access.open([task], split, all_features=all_features)
    return opened


def datasets(
  tasks: Sequence[seqio.Task],
  split: str,
  access: Access,
  lengths: Mapping[str, int] | None,
) -> dict[str, tf.data.Dataset]:
  """The examples of splits as `seqio.Task.get_dataset` gives them, without shuffling.

  Args:
    tasks: have the split.
    split: names it.
    access: gives the way to the examples.
    lengths: gives the lengths to which features are cut; None cuts none.

  Returns:
    Datasets by the name of the task.
  """
  access = dataclasses.replace(access, lengths=lengths or {})
  opened = open_splits(tasks, split, access)
  return {
    task.name: as_dataset(opened[task.name], lengths)
    if task.name in opened
    else stream(task, split, access, lengths)
    for task in tasks
  }


def stream(
  task: seqio.Task, split: str, access: Access, lengths: Mapping[str, int] | None
) -> tf.data.Dataset:
  """Returns a split of a task through its own pipeline, in its order.

  Args:
    task: has the split.
    split: names it.
    access: says whether SeqIO's cache is read.
    lengths: gives the lengths to which features are cut; None cuts none.
  """
  return task.get_dataset(
    lengths and dict(lengths), split=split, shuffle=False, use_cached=access.use_cached
  )


def as_dataset(examples: Examples, lengths: Mapping[str, int] | None) -> tf.data.Dataset:
  """Materialised examples in their order as a dataset, whose rows are in memory."""
  rows = np.arange(len(examples))
  columns: dict[str, Any] = {}
  for feature in examples.columns.features:
    if lengths and feature in lengths:
      flat, length = examples.tokens(feature, rows, lengths[feature])
      columns[feature] = tf.RaggedTensor.from_row_lengths(flat, length)
    else:
      columns[feature] = _tensor(examples.columns.values(feature, rows))
  # A function that maps numbers to rows would have to be traced, for each task.
  return tf.data.Dataset.from_tensor_slices(columns)


def _tensor(values: Values) -> Any:
  """A feature of many examples as a tensor whose first axis counts them."""
  if values.text:
    texts = Values(values.flat, values.lengths[:1], text=True).rows()
    flat, lengths = tf.constant(texts, tf.string), values.lengths[1:]
  else:
    flat, lengths = tf.constant(values.flat), values.lengths
  return tf.RaggedTensor.from_row_lengths(flat, lengths[0]) if lengths else flat


@contextlib.contextmanager
def read_by_seqio(opened: Mapping[str, Examples]) -> Iterator[None]:
  """Gives SeqIO, while active, what is materialised in place of the tasks' pipelines.

  `seqio.Evaluator` takes names of tasks, and calls their `get_dataset`.
  """
  tasks = {name: seqio.TaskRegistry.get(name) for name in opened}

  def reader(examples: Examples) -> Any:
    return lambda sequence_length=None, **_: as_dataset(examples, sequence_length)

  for name, task in tasks.items():
    task.get_dataset = reader(opened[name])
  try:
    yield
  finally:
    for task in tasks.values():
      del task.get_dataset
