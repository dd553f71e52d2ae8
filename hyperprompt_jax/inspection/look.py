"""The numbers of an inspection: attention by layer and task, and similarity of tasks."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.data import features
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn import statistics
from hyperprompt_jax.partitioning import Partitioner


@dataclasses.dataclass(frozen=True)
class Look:
  """Attention and task similarity of a checkpoint; docs/reference/peek.md defines them.

  Attributes:
    tasks: are the tasks with examples, in the order of the task list.
    examples: counts the examples of each of these tasks.
    prompt_mass: is the attention mass on prompts, `[m, t]`, averaged over examples, heads
      and queries.
    token_mass: is the attention mass on tokens, `[m, t]`.
    entropy: is the entropy of attention over tokens in nats, `[m, t]`.
    histogram: gives the share of queries in each bin of entropy, `[m, bins]`; every task
      has the same weight.
    bins: are the borders of the bins in nats, `[bins + 1]`.
    similarity: maps `task embeddings`, `keys` and `values`, as far as the method has them,
      to cosines between all tasks of the task list, `[t, t]`.
    task_list: names the tasks of `similarity`.
  """

  tasks: Sequence[str]
  examples: Sequence[int]
  prompt_mass: np.ndarray
  token_mass: np.ndarray
  entropy: np.ndarray
  histogram: np.ndarray
  bins: np.ndarray
  similarity: Mapping[str, np.ndarray]
  task_list: Sequence[str]

  def report(self) -> dict[str, Any]:
    """Returns a JSON object; `overall` is the mean over tasks."""
    plain = lambda x: np.asarray(x, np.float64).round(7).tolist()
    of_layers = {
      name: {'by_task': plain(x), 'overall': plain(x.mean(1))}
      for name, x in (
        ('prompt_mass', self.prompt_mass),
        ('token_mass', self.token_mass),
        ('entropy', self.entropy),
      )
    }
    return {
      'tasks': list(self.tasks),
      'examples': list(self.examples),
      **of_layers,
      'entropy_bins': plain(self.bins),
      'entropy_histogram': plain(self.histogram),
      'task_list': list(self.task_list),
      'similarity': {name: plain(x) for name, x in self.similarity.items()},
    }


def look(
  model: Model,
  partitioner: Partitioner,
  params: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  batch_size: int,
) -> Look:
  """Measures a network's attention on examples, and the similarity of its tasks.

  Args:
    model: is the network.
    partitioner: lays batches out over devices; the caller has activated it.
    params: are the network's parameters.
    batches: hold features of `ConditionedEncDecFeatureConverter`, not packed, all of one
      length; a batch may lack its last rows.
    batch_size: counts the rows of a batch.
  """
  conditioning = jax.jit(model.condition)(params)
  attention = jax.jit(model.attention_statistics, out_shardings=partitioner.replicated)
  # By task: sums over examples of `[m]` and `[m, n]`.
  sums: dict[int, Any] = {}
  examples: collections.Counter[int] = collections.Counter()
  length = 1
  for batch in batches:
    features.check_task_ids(batch, model.task_list)
    inputs = {name: batch[name] for name in ('encoder_input_tokens', features.TASK_IDS)}
    length = inputs['encoder_input_tokens'].shape[1]
    rows = partitioner.put(features.fill_rows(inputs, batch_size))
    measured = jax.device_get(attention(params, conditioning, rows))
    for row, (task,) in enumerate(batch[features.TASK_IDS]):
      of_row = (
        measured.prompt_mass[:, row].mean(-1),
        measured.token_mass[:, row].mean(-1),
        measured.entropy[:, row].mean(-1),
        # Each example has the same weight, however long it is.
        measured.histogram[:, row] / measured.histogram[:, row].sum(-1, keepdims=True),
      )
      of_task = sums.get(int(task))
      sums[int(task)] = of_row if of_task is None else tuple(map(np.add, of_task, of_row))
      examples[int(task)] += 1
  tasks = sorted(sums)
  means = [[x / examples[task] for x in sums[task]] for task in tasks]
  prompt_mass, token_mass, entropy, histogram = (
    np.stack(values, axis=1) for values in zip(*means, strict=True)
  )
  return Look(
    tasks=[model.task_list[task] for task in tasks],
    examples=[examples[task] for task in tasks],
    prompt_mass=prompt_mass,
    token_mass=token_mass,
    entropy=entropy,
    histogram=histogram.mean(1),
    bins=np.linspace(0, statistics.entropy_range(length), statistics.NUM_BINS + 1),
    similarity=_similarity(model, params, conditioning),
    task_list=model.task_list,
  )


def _similarity(model: Model, params: Any, conditioning: Any) -> dict[str, np.ndarray]:
  """Returns cosines between tasks, for each kind of vector that the method has of them."""
  vectors: dict[str, Any] = {}
  axes = jax.tree_util.tree_leaves_with_path(
    model.param_axes(), is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  of_params = by_path(params)
  for keys, names in axes:
    if tuple(names) == ('tasks', 'task_embed'):
      vectors['task embeddings'] = of_params['/'.join(key.key for key in keys)]
  prompts = conditioning.encoder.prompts or conditioning.decoder.prompts
  if prompts is not None:
    vectors |= {'keys': prompts.key, 'values': prompts.value}
    # A task's prompts of all layers, one after another.
    vectors['keys'], vectors['values'] = (
      np.moveaxis(np.asarray(vectors[name]), 1, 0) for name in ('keys', 'values')
    )
  elif conditioning.input_prompts is not None:
    vectors['input prompts'] = conditioning.input_prompts
  return {name: _cosines(np.asarray(rows)) for name, rows in vectors.items()}


def _cosines(vectors: np.ndarray) -> np.ndarray:
  flat = vectors.reshape(len(vectors), -1).astype(np.float64)
  norms = np.maximum(np.linalg.norm(flat, axis=1), 1e-30)
  return flat @ flat.T / np.outer(norms, norms)
