"""Mixtures of tasks with a few rows, which are in memory."""

import functools

import tensorflow as tf

from hyperprompt_tasks import builtin, registration, sources


class SmallSource(sources.ColumnSource):
  """A few rows in memory."""

  def __init__(self, size, shuffles):
    super().__init__(splits=['train'], performs_internal_shuffling=shuffles)
    self._size = size

  def columns(self, split):
    texts = [f'row {n}' for n in range(self._size)]
    return {'inputs': tf.constant(texts), 'targets': tf.constant(texts)}


@functools.cache
def mixture(*sizes, shuffles=False):
  """Registers a mixture of tasks with these numbers of rows, and returns its name.

  If sources shuffle, epochs do not mix; otherwise SeqIO shuffles by a buffer.
  """
  name = f'hp_test_{"shuffled" if shuffles else "small"}_{"_".join(map(str, sizes))}'
  tasks = {}
  for number, size in enumerate(sizes):
    tasks[f'{name}_{number}'] = 1.0 + number
    registration.add_task(
      f'{name}_{number}',
      source=SmallSource(size, shuffles),
      text=[],
      task_list=builtin.TASKS,
      conditioned_task='first',
    )
  registration.add_mixture(name, tasks)
  return name
