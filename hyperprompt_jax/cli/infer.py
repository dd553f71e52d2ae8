"""`hyperprompt infer`: predicts for a file, a SeqIO task, or a benchmark's server."""

from collections.abc import Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings

NEEDS = ('tensorflow', 'hyperprompt_jax.evaluation.infer')
RUN_FILE = 'runs/infer.gin'


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('infer', __doc__)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    '--input', help='JSONL whose lines have "task", of the model\'s list, and "inputs"'
  )
  source.add_argument('--task', help='a SeqIO task of the same task list')
  source.add_argument(
    '--submission',
    action='store_true',
    help="predict the test splits of the run's benchmark, into a zip for its server",
  )
  parser.add_argument('--split', help='the split of --task (default: validation)')
  parser.add_argument('--output', required=True, help='the JSONL file or zip to write')
  parser.add_argument(
    '--step', default='latest', help="a step, 'latest' (the default) or 'best'"
  )
  arguments.add_run(parser, (DataSettings, ObjectSettings))
  arguments.add_hosts(parser)
  parsed = parser.parse(words)
  flags = parsed.flags
  if flags.submission and flags.split not in (None, 'test'):
    raise UserError(f'--split={flags.split}: --submission is of the test split')
  run_folder.check(flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings)
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt infer`."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import runs
  from hyperprompt_jax.evaluation.infer import infer, submit
  from hyperprompt_jax.runtime import distributed

  flags = parsed.flags
  arguments.use_cache(flags)
  distributed.start(flags)
  runs.configure(flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings)
  distributed.check_agreement(f'--step={flags.step}', f'--input={flags.input}')
  console = terminal.stderr_console()
  if flags.submission:
    strange = gin_files.call(submit, output=flags.output, step=flags.step)
    for name, number in strange.items():
      if number:
        console.print(f'{name}: {number} answers are no label, and written as its first')
    console.print(f'{", ".join(strange)} in {flags.output}')
    return
  number = gin_files.call(
    infer,
    output=flags.output,
    step=flags.step,
    input_file=flags.input,
    task_name=flags.task,
    split=flags.split or 'validation',
  )
  console.print(f'{number} predictions in {flags.output}')
