"""Examples without SeqIO, for what reads them by index."""

import numpy as np

from hyperprompt_jax.data.cache import Entry, Info
from hyperprompt_jax.data.columns import Columns, Values, Writer
from hyperprompt_jax.data.examples import CUT_BEFORE_EOS, Examples

EOS = 1


def make(folder, name, size, rng, longest=9, task_id=0):
  """Materialised examples; the first token of inputs says which row it is."""
  writer = Writer(str(folder))
  for feature, first in (('inputs', True), ('targets', False)):
    length = rng.integers(2, longest + 1, size)
    flat = rng.integers(2, 30_000, length.sum()).astype(np.int32)
    ends = np.cumsum(length)
    if first:
      flat[ends - length] = np.arange(size) + 2
    flat[ends - 1] = EOS
    part = {feature: Values(flat, (length,))}
    writer.append(part)
  ids = np.full(size, task_id, np.int32)
  writer.append({'task_ids': Values(ids, (np.ones(size, np.int64),))})
  writer.examples = size
  path = folder / f'{name}.bin'
  layout = writer.write(str(path))
  writer.close()
  rules = {'inputs': CUT_BEFORE_EOS, 'targets': CUT_BEFORE_EOS, 'task_ids': 'cut'}
  info = Info(name, 'train', {}, rules, layout, 0.0)
  return Examples(name, Columns(str(path), layout), rules, Entry(str(folder), info))
