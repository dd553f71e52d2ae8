"""`hyperprompt infer`: answers the questions of a file, a SeqIO task, or a benchmark.

The input of --input is JSONL, CSV, TSV or Parquet, compressed (.gz) or not, or `-`. Each
question has a `task` of the model's list, and `inputs`. Greedy answers are the default;
several candidates are those of a beam search or, with a temperature, samples.
"""

import argparse
import ast
import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import macros, run_folder
from hyperprompt_jax.configuration.objects import ObjectSettings
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.answers import Generation, Options
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import DataSettings

if TYPE_CHECKING:
  from hyperprompt_jax.inference.answers import Answer
  from hyperprompt_jax.inference.batches import Question
  from hyperprompt_jax.inference.predictor import Predictor

NEEDS = ('hyperprompt_jax.inference.loading',)
# The modules for SeqIO tasks, and for runs that gin describes.
_NEEDS_OF_GIN = ('tensorflow', 'hyperprompt_jax.evaluation.infer')
RUN_FILE = 'runs/infer.gin'
_OPTIONS = ('num_decodes', 'temperature', 'top_k', 'top_p', 'seed', 'max_length')
_ALSO_ASKED = ('input', 'task', 'split', 'scores', 'weights')
# Answers that are written before the file is flushed.
_FLUSH = 64
_BATCH_SIZE = 32
# The arguments of `load` by the macros of their flags.
_OF_LOADING = {
  'BATCH_SIZE': 'batch_size',
  'TASK_FEATURE_LENGTHS': 'lengths',
  'VOCABULARY': 'vocabulary',
}
Questions = Iterable[tuple[dict[str, Any], 'Question']]


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('infer', __doc__)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--input', help='a file of questions, or - for standard input')
  source.add_argument('--task', help='a SeqIO task of the same task list')
  source.add_argument(
    '--submission',
    action='store_true',
    help="predict the test splits of the run's benchmark, into a zip for its server",
  )
  parser.add_argument('--split', help='the split of --task (default: validation)')
  parser.add_argument(
    '--output', required=True, help='the JSONL file or zip to write, or - for answers'
  )
  parser.add_argument(
    '--step', default='latest', help="a step, 'latest' (the default) or 'best'"
  )
  arguments.add_weights(parser)
  _add_generation(parser)
  arguments.add_run(parser, (DataSettings, ObjectSettings))
  arguments.add_hosts(parser)
  parsed = parser.parse(words)
  flags = parsed.flags
  if flags.submission and flags.split not in (None, 'test'):
    raise UserError(f'--split={flags.split}: --submission is of the test split')
  Generation(**_options(flags))  # checks the values
  if flags.input not in (None, '-') and not pathlib.Path(flags.input).exists():
    raise UserError(f'--input {flags.input} cannot be read: there is no such file')
  run_folder.check_step(flags.model_dir, flags.step, ('latest', 'best'))
  if not _needs_gin(parsed):
    _of_loading(parsed.bindings)  # checks the values
    return parsed
  run_folder.check(
    flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings, trust_gin=flags.trust_gin
  )
  return arguments.Parsed(flags, parsed.bindings, _NEEDS_OF_GIN)


def _add_generation(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('answers')
  group.add_argument(
    '--num_decodes', type=int, metavar='N', help='candidates of each question (default: 1)'
  )
  group.add_argument(
    '--temperature', type=float, help='draw tokens; 0 (the default) takes the likeliest'
  )
  group.add_argument(
    '--top_k', type=int, metavar='K', help='draw from the K likeliest tokens alone'
  )
  group.add_argument(
    '--top_p', type=float, metavar='P', help='draw from the likeliest tokens of this mass'
  )
  group.add_argument('--seed', type=int, help='the seed of the draws (default: 0)')
  group.add_argument(
    '--max_length', type=int, metavar='N', help='the most tokens of an answer'
  )
  group.add_argument(
    '--scores',
    action='store_true',
    help='write log_likelihood, finished and truncated_inputs beside each prediction',
  )


def _options(flags: argparse.Namespace) -> Options:
  """Returns the options of answers that were given."""
  values = {name: getattr(flags, name) for name in _OPTIONS}
  given: Any = {name: value for name, value in values.items() if value is not None}
  return given


def _needs_gin(parsed: arguments.Parsed) -> bool:
  """Whether SeqIO tasks or gin are used; else the run's record is enough."""
  flags = parsed.flags
  return bool(
    flags.input is None
    or flags.trust_gin
    or flags.gin_file
    or '://' in flags.model_dir
    or {binding.partition('=')[0] for binding in parsed.bindings} - {*_OF_LOADING}
  )


def _of_loading(bindings: Sequence[str]) -> dict[str, Any]:
  """Returns the arguments of `load` that bindings give."""
  given = {}
  for binding in bindings:
    name, _, text = binding.partition('=')
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
      raise UserError(f'--gin.{name}={text} is no value') from error
    macros.described()[name].check(value)
    given[_OF_LOADING[name]] = value
  return given


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt infer`."""
  from hyperprompt_jax.runtime import distributed

  flags = parsed.flags
  distributed.start(flags)
  if flags.submission:
    _submit(parsed)
    return
  predictor, questions, number = _of_gin(parsed) if parsed.needs else _of_record(parsed)
  distributed.check_agreement(f'--step={flags.step}', f'--input={flags.input}')
  _answer(flags, predictor, questions, predictor.generation(_options(flags)), number)


def _of_record(parsed: arguments.Parsed) -> tuple['Predictor', Questions, int | None]:
  """Returns model and questions of a run that its record describes."""
  import jax

  from hyperprompt_jax.inference.loading import load
  from hyperprompt_jax.partitioning import Partitioner

  partitioner = Partitioner() if jax.device_count() > 1 else None
  given: dict[str, Any] = {'batch_size': max(_BATCH_SIZE, jax.device_count())}
  given |= _of_loading(parsed.bindings)
  predictor = load(
    parsed.flags.model_dir,
    parsed.flags.step,
    partitioner=partitioner,
    weights=parsed.flags.weights,
    **given,
  )
  return predictor, *_of_file(parsed.flags.input, predictor)


def _of_gin(parsed: arguments.Parsed) -> tuple['Predictor', Questions, int | None]:
  """Returns model and questions of a run that gin describes."""
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import infer

  flags, weights = parsed.flags, parsed.flags.weights or 'float32'
  _configure(parsed)
  opened = gin_files.call(infer.Opened)
  if flags.input is not None:
    predictor = opened.predictor(flags.step, weights)
    return predictor, *_of_file(flags.input, predictor)
  split = flags.split or 'validation'
  task = opened.seqio_task(flags.task, split)
  predictor = opened.predictor(flags.step, weights)
  return predictor, infer.questions(opened, predictor, task, split), None


def _of_file(path: str, predictor: 'Predictor') -> tuple[Questions, int | None]:
  """Returns the questions of a file, and their number if it can be known."""
  from hyperprompt_jax.inference.questions import QuestionFile

  file = QuestionFile(path, predictor.tasks)
  # Every line is checked before anything is computed.
  number = sum(1 for _ in file.read()) if file.can_be_read_again else None
  questions = (
    (record, predictor.question(record['task'], record['inputs'], place))
    for place, record in enumerate(file.read())
  )
  return questions, number


def _configure(parsed: arguments.Parsed) -> None:
  from hyperprompt_jax.evaluation import runs

  flags = parsed.flags
  arguments.use_cache(flags)
  runs.configure(
    flags.model_dir, RUN_FILE, flags.gin_file, parsed.bindings, trust_gin=flags.trust_gin
  )


def _submit(parsed: arguments.Parsed) -> None:
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import infer

  flags = parsed.flags
  _configure(parsed)
  given = {'step': flags.step, 'weights': flags.weights or 'float32'}
  strange = gin_files.call(infer.submit, output=flags.output, **given)
  for name, number in strange.items():
    if number:
      terminal.say(f'{name}: {number} answers are no label, and written as its first')
  terminal.say(f'{", ".join(strange)} in {flags.output}')


def _answer(
  flags: argparse.Namespace,
  predictor: 'Predictor',
  questions: Questions,
  generation: Generation,
  number: int | None,
) -> None:
  """Writes an answer for every question, in the order that they come in."""
  import itertools

  from hyperprompt_jax.runtime import files

  counts = {'cut': 0, 'unfinished': 0, 'unknown': 0}
  with files.writing_output(f'--output {flags.output}'), _output(flags, predictor) as out:
    if out.done:
      terminal.say(f'{out.done} answers of an earlier start are kept; going on after them')
    left = itertools.islice(questions, out.done, None)
    records, inputs = itertools.tee(left)
    answers = predictor.answers((question for _, question in inputs), generation)
    total = None if number is None else number - out.done
    shown = terminal.track(answers, f'predicting with step {predictor.step}', total)
    written = out.done
    for (record, _), answer in zip(records, shown, strict=True):
      out.write({**record, **_described(answer, flags)})
      written += 1
      counts['cut'] += answer.truncated_inputs
      counts['unfinished'] += not answer.finished
      counts['unknown'] += answer.unknown_tokens
      if not written % _FLUSH:
        out.flush()
  limit = generation.max_length or predictor.lengths['targets']
  notes = [
    (counts['cut'], f'inputs cut at {predictor.lengths["inputs"]} tokens'),
    (counts['unfinished'], f'answers not finished within {limit} tokens'),
    (counts['unknown'], 'pieces unknown to the vocabulary'),
  ]
  closing = [f'{written} prediction{"s" * (written != 1)} in {flags.output}']
  closing += [f'{text}: {count}' for count, text in notes if count]
  terminal.say('; '.join(closing))


def _described(answer: 'Answer', flags: argparse.Namespace) -> dict[str, Any]:
  """Returns the entries of an answer that are written."""
  described: dict[str, Any] = {'prediction': answer.text}
  if flags.scores:
    described['log_likelihood'] = round(answer.log_likelihood, 6)
    described['finished'] = answer.finished
    described['truncated_inputs'] = answer.truncated_inputs
  if answer.alternatives:
    described['alternatives'] = [
      {'prediction': other.text, 'log_likelihood': round(other.log_likelihood, 6)}
      for other in answer.alternatives
    ]
  return described


@contextlib.contextmanager
def _output(flags: argparse.Namespace, predictor: 'Predictor') -> Iterator[Any]:
  """Opens the output; on hosts but the first, nothing is written."""
  from hyperprompt_jax.inference import output
  from hyperprompt_jax.runtime import distributed

  request: dict[str, Any] = {name: getattr(flags, name) for name in _OPTIONS}
  request |= {name: getattr(flags, name) for name in _ALSO_ASKED}
  request |= {
    'model_dir': os.path.abspath(flags.model_dir),
    'step': predictor.step,
    'lengths': predictor.lengths,
  }
  if flags.input is not None and os.path.isfile(flags.input):
    status = os.stat(flags.input)
    request['input'] = [os.path.abspath(flags.input), status.st_size, status.st_mtime_ns]
  path = flags.output if distributed.is_first() else os.devnull
  # Standard input comes once, and hosts that go on must agree on where.
  if flags.input == '-' or len(distributed.gather('')) > 1:
    request['process'] = os.getpid()
  with output.opened(path, request) as file:
    yield file
