"""`hyperprompt train`: trains, evaluates and checkpoints; resumes by itself."""

import os
import re
from collections.abc import Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import checks, static, tasks
from hyperprompt_jax.errors import UserError

NEEDS = ('tensorflow', 'hyperprompt_jax.training.train')


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('train', __doc__)
  arguments.add_settings(parser)
  arguments.add_cache(parser)
  arguments.add_hosts(parser)
  parsed = parser.parse(words)
  if not parsed.flags.gin_file:
    raise UserError(
      'train needs gin files of a size, a method and a run: --gin_file=models/tiny.gin '
      '--gin_file=methods/hyperprompt_global.gin --gin_file=runs/finetune.gin; in place of '
      "the size's it takes --init= of a model's folder"
    )
  configuration = checks.check(parsed.flags.gin_file, parsed.bindings)
  _check_steps(configuration)
  _check_mixture(configuration)
  _check_files(configuration)
  return parsed


def _check_mixture(configuration: static.Configuration) -> None:
  """Refuses a part of a name, such as `super_glue`, that nothing of this run defines."""
  name = configuration.values.get('MIXTURE_OR_TASK_NAME')
  if not isinstance(name, str) or checks.may_be_registered(configuration, name):
    return
  longer = [known for known in tasks.NAMES if name and name.lower() in known]
  longer.sort(key=lambda known: not known.endswith('_proportional'))
  if longer:
    raise UserError(
      f'--mixture={name}: there is no such task or mixture (did you mean {longer[0]}?)'
    )


def _check_steps(configuration: static.Configuration) -> None:
  """Refuses a run without an end."""
  ends = ('TRAIN_STEPS', 'TRAIN_STEPS_RELATIVE')
  given = [macro for macro in ends if macro in configuration.values]
  if given and all(configuration.resolved(macro) is None for macro in given):
    raise UserError('TRAIN_STEPS must be set: add --train_steps=…')


def _check_files(configuration: static.Configuration) -> None:
  """Refuses a vocabulary or an initial checkpoint that is not on this machine."""
  value = lambda macro: macro in configuration.values and configuration.resolved(macro)
  problems = {'VOCABULARY': 'vocabulary {} cannot be read'}
  model_dir = value('MODEL_DIR')
  has_begun = isinstance(model_dir, str) and os.path.isdir(f'{model_dir}/checkpoints')
  if not has_begun:  # a run that goes on reads its own checkpoints
    problems['INITIAL_CHECKPOINT_PATH'] = 'initial checkpoint {} cannot be read'
  for macro, problem in problems.items():
    path = value(macro)
    if not isinstance(path, str) or path in ('', 'bytes') or '://' in path:
      continue
    # FILE:N is a vocabulary with N sentinels.
    if not os.path.exists(re.sub(r':\d+$', '', path)):
      raise UserError(f'{problem.format(path)}: there is no such file or folder')


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt train`."""
  import hyperprompt_tasks
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import summary
  from hyperprompt_jax.runtime import distributed
  from hyperprompt_jax.training.train import train_configured

  arguments.use_cache(parsed.flags)
  distributed.start(parsed.flags)
  arguments.parse_gin(parsed.flags.gin_file, parsed.bindings)
  distributed.check_agreement()
  records = train_configured()
  mixture = gin_files.parameter('settings.DataSettings.mixture_or_task_name')
  names = hyperprompt_tasks.short_names(mixture, 'validation')
  summary.print_summary(records, hyperprompt_tasks.groups(mixture), names)
