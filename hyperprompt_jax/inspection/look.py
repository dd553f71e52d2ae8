"""The numbers of a look inside: attention by layer and task, and how alike tasks are."""

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
  """What a checkpoint is like inside; the definitions are in docs/reference/peek.md.

  Attributes:
    tasks: that examples were looked at of, in the order of the task list.
    examples: how many of each task.
    prompt_mass: `[m, t]`, means over examples, heads and queries.
    token_mass: `[m, t]`.
    entropy: `[m, t]`, nats.
    histogram: `[m, n]`: the share of queries, of all tasks alike, in each bin of entropy.
    bins: `[n + 1]`, the borders of the bins, nats.
    similarity: cosines between tasks, `[t, t]` over the whole task list: of
      `task embeddings`, of prompts (`keys`, `values`); what the method has of it.
    task_list: the names of those.
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
    """As JSON; `overall` means over tasks."""
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
  """Looks at a network's attention on some examples, and at what it knows of tasks.

  Args:
    model: the network.
    partitioner: where; the caller has activated it.
    params: of the network.
    batches: features of `ConditionedEncDecFeatureConverter`, not packed, all of one
      length; their last rows may be missing.
    batch_size: rows of a batch.
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
    found = jax.device_get(attention(params, conditioning, rows))
    for row, (task,) in enumerate(batch[features.TASK_IDS]):
      of_row = (
        found.prompt_mass[:, row].mean(-1),
        found.token_mass[:, row].mean(-1),
        found.entropy[:, row].mean(-1),
        # Each example counts as much, however long it is.
        found.histogram[:, row] / found.histogram[:, row].sum(-1, keepdims=True),
      )
      of_task = sums.get(int(task))
      sums[int(task)] = of_row if of_task is None else tuple(map(np.add, of_task, of_row))
      examples[int(task)] += 1
  tasks = sorted(sums)
  means = [[x / examples[task] for x in sums[task]] for task in tasks]
  prompt_mass, token_mass, entropy, histogram = (
    np.stack(of, axis=1) for of in zip(*means, strict=True)
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
  """Cosines between tasks, of what a method has of each task."""
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
  return {name: _cosines(np.asarray(of)) for name, of in vectors.items()}


def _cosines(vectors: np.ndarray) -> np.ndarray:
  flat = vectors.reshape(len(vectors), -1).astype(np.float64)
  norms = np.maximum(np.linalg.norm(flat, axis=1), 1e-30)
  return flat @ flat.T / np.outer(norms, norms)
