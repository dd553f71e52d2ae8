"""`hyperprompt report`: one HTML page about training runs, which needs no other file.

It has curves, scores of each task, predictions with the wrong ones first, the report on
data and the configuration; with several runs also a comparison over seeds.
"""

from collections.abc import Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.errors import UserError

NEEDS = ('tensorflow', 'hyperprompt_jax.inspection.report_page')


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb."""
  parser = arguments.Parser('report', __doc__)
  parser.add_argument(
    'runs',
    nargs='+',
    metavar='MODEL_DIR',
    help='the folders of runs; runs that differ in RANDOM_SEED alone are one method',
  )
  parser.add_argument(
    '--output', help='the file to write (default: report.html in the first folder)'
  )
  parser.add_argument(
    '--predictions',
    type=int,
    default=200,
    metavar='N',
    help='the number of predictions to show of each task (default: %(default)s)',
  )
  parser.add_argument(
    '--peek',
    action='store_true',
    help='include the pictures that `hyperprompt peek` has written in the folders of runs',
  )
  parsed = parser.parse(words)
  if parsed.flags.predictions < 0:
    raise UserError(f'--predictions must be 0 or more, not {parsed.flags.predictions}')
  for folder in parsed.flags.runs:
    if '://' not in folder:
      run_folder.parts_of(folder)
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt report`."""
  from hyperprompt_jax.evaluation import comparison
  from hyperprompt_jax.inspection import report_data, report_page
  from hyperprompt_jax.runtime.files import write_whole, writing_output

  flags = parsed.flags
  names = report_data.names(flags.runs)
  runs = [
    report_data.read(folder, name) for folder, name in zip(flags.runs, names, strict=True)
  ]
  compared = comparison.rows(comparison.compare(flags.runs)) if len(runs) > 1 else []
  peeks = {one.name: report_data.peek(one) for one in runs} if flags.peek else {}
  text = report_page.page(
    runs, compared=compared, peeks=peeks, predictions=flags.predictions
  )
  output = flags.output or f'{flags.runs[0].rstrip("/")}/report.html'
  with writing_output(f'--output {output}'):
    write_whole(output, text)
  print(output)
