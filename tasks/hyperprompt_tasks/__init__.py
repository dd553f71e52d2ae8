"""SeqIO tasks and mixtures whose examples carry the id of their conditioned task.

Importing this package registers them and does nothing else: no data are read, and no
vocabulary is loaded. The package itself uses neither JAX nor Flax.
"""

from hyperprompt_tasks.averages import (
  average,
  expanded,
  groups,
  task_scores,
)
from hyperprompt_tasks.builtin import chance
from hyperprompt_tasks.conditioning import condition
from hyperprompt_tasks.descriptions import declarations, declare_again, describe_tasks
from hyperprompt_tasks.errors import (
  DataError,
  MetricError,
  TaskError,
  UnknownNameError,
  UserMistake,
  VocabularyError,
)
from hyperprompt_tasks.file_tasks import from_files
from hyperprompt_tasks.glue import glue_average
from hyperprompt_tasks.model_folder import has_vocabulary, is_bytes
from hyperprompt_tasks.natural_instructions import from_natural_instructions
from hyperprompt_tasks.rates import Proportional
from hyperprompt_tasks.registration import (
  add_mixture,
  add_task,
  labels,
  part,
  rates_of,
  single_task_mixtures,
)
from hyperprompt_tasks.sources import glue_dir, super_glue_dir
from hyperprompt_tasks.storage import unreachable
from hyperprompt_tasks.super_glue import super_glue_average
from hyperprompt_tasks.task_column import from_task_column
from hyperprompt_tasks.task_lists import (
  TaskList,
  conditioned_task,
  declare,
  seqio_name,
  short_names,
  task_list,
)
from hyperprompt_tasks.vocabulary import (
  BYTES,
  DEFAULT_VOCABULARY,
  EXTRA_IDS,
  HUGGING_FACE_FILE,
  TaskVocabulary,
  use_vocabulary,
  vocabulary_file,
)

# The functions that make own mixtures, in the order in which a configuration calls them.
MAKERS = (from_files, from_task_column, from_natural_instructions, condition)

__all__ = [
  'BYTES',
  'DEFAULT_VOCABULARY',
  'EXTRA_IDS',
  'HUGGING_FACE_FILE',
  'MAKERS',
  'DataError',
  'MetricError',
  'Proportional',
  'TaskError',
  'TaskList',
  'TaskVocabulary',
  'UnknownNameError',
  'UserMistake',
  'VocabularyError',
  'add_mixture',
  'add_task',
  'average',
  'chance',
  'condition',
  'conditioned_task',
  'declarations',
  'declare',
  'declare_again',
  'describe_tasks',
  'expanded',
  'from_files',
  'from_natural_instructions',
  'from_task_column',
  'glue_average',
  'glue_dir',
  'groups',
  'has_vocabulary',
  'is_bytes',
  'labels',
  'part',
  'rates_of',
  'seqio_name',
  'short_names',
  'single_task_mixtures',
  'super_glue_average',
  'super_glue_dir',
  'task_list',
  'task_scores',
  'unreachable',
  'use_vocabulary',
  'vocabulary_file',
]
