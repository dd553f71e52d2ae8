"""`hyperprompt train`: trains, evaluates and checkpoints; resumes by itself."""

from collections.abc import Sequence

import hyperprompt_tasks
from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.evaluation import summary
from hyperprompt_jax.runtime import distributed
from hyperprompt_jax.training.train import train_configured


def main(words: Sequence[str]) -> None:
  """`hyperprompt train`."""
  parser = arguments.Parser('train', __doc__)
  arguments.add_arguments(parser)
  arguments.add_cache_argument(parser)
  distributed.add_arguments(parser)
  flags, bindings = arguments.parse_arguments(parser, words)
  distributed.start(flags)
  gin_files.parse(flags.gin_file, bindings)
  distributed.check_agreement()
  records = train_configured()
  mixture = gin_files.parameter('settings.DataSettings.mixture_or_task_name')
  summary.print_summary(records, hyperprompt_tasks.groups(mixture))
