"""Answers for SeqIO tasks: a split of one, or all test splits of a benchmark."""

import contextlib
import dataclasses
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import datasets, features
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import examples as examples_of
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.inference.answers import Generation
from hyperprompt_jax.inference.batches import Question
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.nn.int8 import FLOAT32
from hyperprompt_jax.runtime import distributed, files, terminal
from hyperprompt_jax.training.settings import DataSettings
from hyperprompt_tasks import submissions


@dataclasses.dataclass(frozen=True)
class Opened:
  """A run that `infer` uses, as gin configures it.

  Attributes:
    run: is the run that has the checkpoint.
    data: gives the lengths and the batches, and describes the benchmark.
  """

  run: runs.Run
  data: DataSettings

  def predictor(self, step: str, weights: str = FLOAT32) -> Predictor:
    """Returns the model of a step.

    Args:
      step: is a number, 'latest' or 'best'.
      weights: is the dtype of kernels, 'float32' or 'int8'.

    Raises:
      UserError: if there is no such checkpoint.
    """
    self.run.partitioner.check(batch_size=self.data.batch_size)
    return self.run.predictor(self.run.step(step), self.data, weights)

  def seqio_task(self, name: str, split: str) -> str:
    """Returns the SeqIO task of a name or of the short name of a member of the mixture.

    Raises:
      UserError: if it is no SeqIO task, lacks the split, or has another task list.
    """
    name = hyperprompt_tasks.seqio_name(self.data.mixture_or_task_name, name, split)
    self.run.check_task_list(name)
    datasets.check_mixture(name, split)
    if name not in seqio.TaskRegistry.names():
      members = seqio.get_subtasks(seqio.get_mixture_or_task(name))
      raise UserError(
        f'--task {name} is a mixture: choose one task of it, '
        f'{", ".join(task.name for task in members)}'
      )
    return name


def questions(
  opened: Opened, predictor: Predictor, name: str, split: str
) -> Iterator[tuple[dict[str, Any], Question]]:
  """Yields the examples of a SeqIO task's split, in its order: as text, and in tokens.

  Args:
    opened: is the run.
    predictor: is its model.
    name: names the SeqIO task.
    split: names the split.
  """
  for place, example in enumerate(_examples(name, split, opened)):
    question = examples_of.question(predictor, example, place)
    task = predictor.tasks[question.task_id]
    record = {'task': task, 'inputs': examples_of.text(example, 'inputs')}
    if examples_of.has_target(example):
      record['targets'] = examples_of.text(example, 'targets')
    yield record, question


def submit(
  run: runs.Run,
  data: DataSettings,
  output: str,
  step: str = 'latest',
  weights: str = FLOAT32,
) -> dict[str, int]:
  """Writes the zip that the server of SuperGLUE or GLUE takes.

  Args:
    run: is the run that has the checkpoint.
    data: describes the benchmark's mixture, its lengths and batches.
    output: is the zip to write; it appears whole, when all is done.
    step: is a step, 'latest' or 'best'.
    weights: is the dtype of kernels, 'float32' or 'int8'.

  Returns:
    By file, how many answers were none of its labels, and were written as its first.

  Raises:
    UserError: if there is no such checkpoint.
    DataError: if a test split is absent, or has not as many rows as the server expects.
    TaskError: if the mixture is no benchmark's.
  """
  opened = Opened(run, data)
  run.check_task_list(data.mixture_or_task_name)
  answer_files = submissions.files(data.mixture_or_task_name)
  examples = {}
  for file in answer_files:
    opened.seqio_task(file.task, 'test')
    examples[file] = list(_examples(file.task, 'test', opened))
    # All files are checked before the first is answered, which may take an hour.
    submissions.check_rows(file, len(examples[file]))
  strange = {}
  with _output_file(output) as whole:
    predictor = opened.predictor(step, weights)
    with zipfile.ZipFile(whole, 'w', zipfile.ZIP_DEFLATED) as zipped:
      for file in answer_files:
        texts = _texts(predictor, examples[file], file.name)
        answers = zip(examples[file], texts, strict=True)
        contents, strange[file.name] = submissions.contents(file, list(answers))
        zipped.writestr(file.name, contents)
  return strange


def _texts(
  predictor: Predictor, examples: Sequence[Mapping[str, Any]], description: str
) -> list[str]:
  """Returns the answers to examples, and shows how far they are."""
  inputs = (examples_of.question(predictor, e, n) for n, e in enumerate(examples))
  answers = predictor.answers(inputs, Generation())
  return [answer.text for answer in terminal.track(answers, description, len(examples))]


@contextlib.contextmanager
def _output_file(output: str) -> Iterator[IO[Any]]:
  """Opens the output, which appears whole; on hosts but the first, a buffer."""
  if not distributed.is_first():
    yield io.BytesIO()
    return
  with files.writing_output(f'--output {output}'), files.whole_file(output, 'wb') as file:
    yield file


def _examples(name: str, split: str, opened: Opened) -> Iterator[Mapping[str, Any]]:
  """Yields a SeqIO task's split, in its order, as SeqIO gives it."""
  dataset = examples_of.datasets([seqio.TaskRegistry.get(name)], split, opened.data)[name]
  for example in dataset.as_numpy_iterator():
    features.check_task_ids(example, opened.run.model.task_list)
    yield example
