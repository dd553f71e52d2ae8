"""`hyperprompt eval --compare`: compares methods by tasks, over seeds.

It reads the metrics that training recorded, and evaluates nothing again.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import run_folder


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words of `hyperprompt eval --compare`."""
  parser = arguments.Parser('eval --compare', __doc__)
  parser.add_argument(
    '--compare',
    nargs='+',
    required=True,
    metavar='MODEL_DIR',
    help='the folders of runs; runs that differ in RANDOM_SEED alone are one method',
  )
  parser.add_argument(
    '--step',
    default='best',
    help="take the step with the 'best' average (the default), each task's best step "
    "('best_per_task'), or the 'latest' evaluation",
  )
  parser.add_argument('--csv', metavar='FILE', help='also write the numbers to a file')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parsed = parser.parse(words)
  for model_dir in parsed.flags.compare:
    if '://' not in model_dir:
      run_folder.parts_of(model_dir)  # raises an error where there is no run
  return dataclasses.replace(parsed, needs=('hyperprompt_jax.evaluation.comparison',))


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt eval --compare`."""
  from hyperprompt_jax.evaluation import intervals
  from hyperprompt_jax.evaluation.comparison import compare, markdown, rows
  from hyperprompt_jax.runtime.files import whole_file, writing_output

  flags = parsed.flags
  methods = compare(flags.compare, flags.step)
  scores = rows(methods)
  if flags.csv:
    with writing_output(f'--csv {flags.csv}'), whole_file(flags.csv) as file:
      table = csv.DictWriter(file, list(scores[0]), lineterminator='\n')
      table.writeheader()
      table.writerows(scores)
  if flags.json:
    print(json.dumps({'step': flags.step, 'scores': scores}))
    return
  print(markdown(methods), end='')
  print(
    f'\nValidation scores x 100 ({flags.step}), mean ± standard deviation over seeds. '
    f'Bold: the {100 * intervals.LEVEL:.0f} % interval of the difference from every other '
    'method, paired by seed, lies above zero.'
  )
