"""GLUE's tasks in T5's form, and the mixtures with T5's rates.

See sections 3.4, 5 and 8 of docs/reference/task_specification.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hyperprompt_tasks import (
  averages,
  glue_files,
  metrics,
  postprocessors,
  preprocessors,
  registration,
  sources,
  super_glue,
  task_lists,
  wnli,
)

_PREFIX = 'hp_glue'
_MIXTURE = f'{_PREFIX}_v002_proportional'

TASKS = task_lists.TaskList(
  tasks=('cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte'),
  scores={
    'cola': ((f'{_PREFIX}_cola_v002', 'matthews_corrcoef'),),
    'sst2': ((f'{_PREFIX}_sst2_v002', 'accuracy'),),
    'mrpc': ((f'{_PREFIX}_mrpc_v002', 'f1'), (f'{_PREFIX}_mrpc_v002', 'accuracy')),
    'stsb': (
      (f'{_PREFIX}_stsb_v002', 'pearson_corrcoef'),
      (f'{_PREFIX}_stsb_v002', 'spearman_corrcoef'),
    ),
    'qqp': ((f'{_PREFIX}_qqp_v002', 'f1'), (f'{_PREFIX}_qqp_v002', 'accuracy')),
    'mnli': (
      (f'{_PREFIX}_mnli_matched_v002', 'accuracy'),
      (f'{_PREFIX}_mnli_mismatched_v002', 'accuracy'),
    ),
    'qnli': ((f'{_PREFIX}_qnli_v002', 'accuracy'),),
    'rte': ((f'{_PREFIX}_rte_v002', 'accuracy'),),
  },
)
# No mixture of T5's holds WNLI, and no average counts it; it is trained by itself.
WNLI_TASKS = task_lists.TaskList(
  tasks=('wnli',), scores={'wnli': ((f'{_PREFIX}_wnli_v002', 'accuracy'),)}
)


def glue_average(metrics_by_task: averages.AllMetrics) -> float | None:
  """Returns T5's GLUE average over eight tasks, None if a metric is missing.

  It counts neither WNLI nor AX, so it is not the leaderboard's average.

  Args:
    metrics_by_task: the metrics of each `hp_glue_…` task are given as {metric: value x
      100}.
  """
  return averages.average(_MIXTURE, metrics_by_task)


def _add_classification(
  config: str,
  keys: Sequence[str],
  metric_fns: Sequence[Callable[..., Any]] = (metrics.accuracy,),
  *,
  conditioned_task: str | None = None,
  task_list: task_lists.TaskList = TASKS,
) -> None:
  layout = glue_files.FORMATS[config]
  conditioned_task = conditioned_task or config
  registration.add_task(
    f'{_PREFIX}_{config}_v002',
    source=sources.GlueSource(config, tuple(layout.files)),
    text=[
      partial(
        preprocessors.classification,
        name=conditioned_task,
        keys=keys,
        classes=layout.classes,
      )
    ],
    task_list=task_list,
    conditioned_task=conditioned_task,
    postprocess_fn=partial(postprocessors.class_id, classes=layout.classes),
    metric_fns=metric_fns,
  )


_SENTENCES = ('sentence1', 'sentence2')
_MNLI = ('hypothesis', 'premise')

_add_classification('cola', ('sentence',), (metrics.matthews_corrcoef,))
_add_classification('sst2', ('sentence',))
_add_classification('mrpc', _SENTENCES, (metrics.f1, metrics.accuracy))
_add_classification('qqp', ('question1', 'question2'), (metrics.f1, metrics.accuracy))
_add_classification('qnli', ('question', 'sentence'))
_add_classification('rte', _SENTENCES)
_add_classification('wnli', _SENTENCES, task_list=WNLI_TASKS)

# MNLI's own validation splits have other names, so evaluation passes it over, and two
# tasks stand in for it. The diagnostic AX only makes predictions.
_add_classification('mnli', _MNLI)
_add_classification('mnli_matched', _MNLI, conditioned_task='mnli')
_add_classification('mnli_mismatched', _MNLI, conditioned_task='mnli')
_add_classification('ax', _MNLI, (), conditioned_task='mnli')

registration.add_task(
  f'{_PREFIX}_stsb_v002',
  source=sources.GlueSource('stsb'),
  text=[preprocessors.stsb],
  task_list=TASKS,
  conditioned_task='stsb',
  postprocess_fn=postprocessors.number,
  metric_fns=[metrics.pearson_corrcoef, metrics.spearman_corrcoef],
)

# This one evaluates models that were trained on SuperGLUE's WSC and DPR.
registration.add_task(
  f'{_PREFIX}_wnli_v002_simple_eval',
  source=sources.GlueSource('wnli', ('validation', 'test')),
  text=[wnli.wnli],
  task_list=super_glue.TASKS,
  conditioned_task='wsc',
  postprocess_fn=postprocessors.wsc,
  metric_fns=[metrics.accuracy],
)

# A rate is the number of training examples, without a cap; QQP had this many when T5 was
# made. Members with rate 0 have no train split; they are here to be evaluated.
registration.add_mixture(
  _MIXTURE,
  {
    f'{_PREFIX}_cola_v002': 8_551,
    f'{_PREFIX}_sst2_v002': 67_349,
    f'{_PREFIX}_mrpc_v002': 3_668,
    f'{_PREFIX}_qqp_v002': 363_849,
    f'{_PREFIX}_stsb_v002': 5_749,
    f'{_PREFIX}_mnli_v002': 392_702,
    f'{_PREFIX}_qnli_v002': 104_743,
    f'{_PREFIX}_rte_v002': 2_490,
    f'{_PREFIX}_mnli_matched_v002': 0,
    f'{_PREFIX}_mnli_mismatched_v002': 0,
    f'{_PREFIX}_ax_v002': 0,
  },
)
registration.add_mixture(
  f'{_PREFIX}_mnli_and_dev_v002',
  {
    f'{_PREFIX}_{config}_v002': 1.0
    for config in ('mnli', 'mnli_matched', 'mnli_mismatched')
  },
)
