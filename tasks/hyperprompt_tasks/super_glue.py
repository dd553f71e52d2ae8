"""SuperGLUE's tasks in T5's form, and the mixtures with T5's rates.

See sections 2 to 4 and 8 of docs/reference/task_specification.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import seqio

from hyperprompt_tasks import (
  averages,
  metrics,
  official_files,
  postprocessors,
  preprocessors,
  registration,
  sources,
  super_glue_files,
  task_lists,
)

_PREFIX = 'hp_super_glue'
_WSC_EVAL = f'{_PREFIX}_wsc_v102_simple_eval'
_MIXTURE = f'{_PREFIX}_v102_proportional'

TASKS = task_lists.TaskList(
  tasks=('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc'),
  scores={
    'boolq': ((f'{_PREFIX}_boolq_v102', 'accuracy'),),
    'cb': (
      (f'{_PREFIX}_cb_v102', 'mean_3class_f1'),
      (f'{_PREFIX}_cb_v102', 'accuracy'),
    ),
    'copa': ((f'{_PREFIX}_copa_v102', 'accuracy'),),
    'multirc': (
      (f'{_PREFIX}_multirc_v102', 'f1'),
      (f'{_PREFIX}_multirc_v102', 'exact_match'),
    ),
    'record': ((f'{_PREFIX}_record_v102', 'f1'), (f'{_PREFIX}_record_v102', 'em')),
    'rte': ((f'{_PREFIX}_rte_v102', 'accuracy'),),
    'wic': ((f'{_PREFIX}_wic_v102', 'accuracy'),),
    'wsc': ((_WSC_EVAL, 'accuracy'),),
  },
)


def super_glue_average(metrics_by_task: averages.AllMetrics) -> float | None:
  """Returns the SuperGLUE average over its eight tasks, None if a metric is missing.

  Args:
    metrics_by_task: the metrics of each `hp_super_glue_…` task are given as
      {metric: value x 100}.
  """
  return averages.average(_MIXTURE, metrics_by_task)


_add = partial(registration.add_task, task_list=TASKS)


def _add_classification(
  config: str,
  keys: Sequence[str],
  metric_fns: Sequence[Callable[..., Any]] = (metrics.accuracy,),
) -> None:
  classes = super_glue_files.FORMATS[config].classes
  _add(
    f'{_PREFIX}_{config}_v102',
    source=sources.SuperGlueSource(config),
    text=[partial(preprocessors.classification, name=config, keys=keys, classes=classes)],
    conditioned_task=config,
    postprocess_fn=partial(postprocessors.class_id, classes=classes),
    metric_fns=metric_fns,
  )


def _add_diagnostic(config: str, text: Sequence[Callable[..., Any]] = ()) -> None:
  """Adds a task in the form of RTE that has only a test split and no metrics."""
  classes = official_files.ENTAILMENT
  _add(
    f'{_PREFIX}_{config}_v102',
    source=sources.SuperGlueSource(config, splits=('test',)),
    text=[
      *text,
      partial(
        preprocessors.classification,
        name='rte',
        keys=('hypothesis', 'premise'),
        classes=classes,
      ),
    ],
    conditioned_task='rte',
    postprocess_fn=partial(postprocessors.class_id, classes=classes),
  )


_add_classification('boolq', ('passage', 'question'))
_add_classification(
  'cb', ('hypothesis', 'premise'), (metrics.mean_3class_f1, metrics.accuracy)
)
_add_classification('copa', ('choice1', 'choice2', 'premise', 'question'))
_add_classification('rte', ('hypothesis', 'premise'))
_add_classification('wic', ('sentence1', 'sentence2', 'word'))
_add_diagnostic(
  'axb',
  [
    partial(
      seqio.preprocessors.rekey,
      key_map={
        'premise': 'sentence1',
        'hypothesis': 'sentence2',
        'label': 'label',
        'idx': 'idx',
      },
    )
  ],
)
_add_diagnostic('axg')

_add(
  f'{_PREFIX}_multirc_v102',
  source=sources.SuperGlueSource('multirc'),
  text=[partial(preprocessors.multirc, classes=super_glue_files.BOOLEAN)],
  conditioned_task='multirc',
  postprocess_fn=partial(postprocessors.multirc, classes=super_glue_files.BOOLEAN),
  metric_fns=[metrics.multirc_f1, metrics.multirc_exact_match],
)

_add(
  f'{_PREFIX}_record_v102',
  source=sources.SuperGlueSource('record'),
  text=[preprocessors.record],
  conditioned_task='record',
  postprocess_fn=postprocessors.record,
  metric_fns=[metrics.record_em_and_f1],
)

# WSC is trained on the rows whose proposed referent is right, together with DPR, and
# evaluated on all rows. These three SeqIO tasks are one conditioned task.
_add(
  f'{_PREFIX}_wsc_v102_simple_train',
  source=sources.SuperGlueSource('wsc.fixed', splits=('train',)),
  text=[preprocessors.wsc_proposed_referents, preprocessors.wsc],
  conditioned_task='wsc',
)
_add(
  _WSC_EVAL,
  source=sources.SuperGlueSource('wsc.fixed', splits=('validation', 'test')),
  text=[preprocessors.wsc],
  conditioned_task='wsc',
  postprocess_fn=postprocessors.wsc,
  metric_fns=[metrics.accuracy],
)
_add(
  'hp_dpr_v001_simple',
  source=sources.TfdsOnlySource(
    sources.SUPER_GLUE, 'definite_pronoun_resolution:1.1.0', splits=('train', 'test')
  ),
  text=[preprocessors.dpr],
  conditioned_task='wsc',
  metric_fns=[metrics.accuracy],
)

# A rate is the number of training examples after preprocessing, without a cap. Members
# with rate 0 have no train split; they are here to be evaluated.
registration.add_mixture(
  _MIXTURE,
  {
    f'{_PREFIX}_boolq_v102': 9_427,
    f'{_PREFIX}_cb_v102': 250,
    f'{_PREFIX}_copa_v102': 400,
    f'{_PREFIX}_multirc_v102': 27_243,
    f'{_PREFIX}_record_v102': 138_854,
    f'{_PREFIX}_rte_v102': 2_490,
    f'{_PREFIX}_wic_v102': 5_428,
    f'{_PREFIX}_wsc_v102_simple_train': 259,
    'hp_dpr_v001_simple': 1_322,
    _WSC_EVAL: 0,
    f'{_PREFIX}_axb_v102': 0,
    f'{_PREFIX}_axg_v102': 0,
  },
)
registration.add_mixture(
  'hp_wsc_dpr_simple_proportional',
  {
    'hp_dpr_v001_simple': 1_322,
    f'{_PREFIX}_wsc_v102_simple_train': 259,
    _WSC_EVAL: 0,
  },
)
