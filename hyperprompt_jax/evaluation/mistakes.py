"""The mistakes of a checkpoint: which labels it confuses, and its wrongest answers."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import datasets
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import examples, runs
from hyperprompt_jax.inference.answers import Answer, Generation
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.nn.int8 import FLOAT32
from hyperprompt_jax.training.settings import DataSettings, EvaluationSettings

# The column of answers that are no label.
OTHER = '(other)'


@dataclasses.dataclass(frozen=True)
class Mistake:
  """An answer that is not the target's text.

  Attributes:
    inputs: is the input.
    target: is the right answer.
    prediction: is the model's answer.
    log_likelihood: is the log likelihood of the prediction.
    target_log_likelihood: is the log likelihood of the target.
  """

  inputs: str
  target: str
  prediction: str
  log_likelihood: float
  target_log_likelihood: float


@dataclasses.dataclass(frozen=True)
class TaskMistakes:
  """The mistakes in a split of one SeqIO task.

  Attributes:
    labels: are the task's labels; empty if any text may be an answer.
    confusion: counts answers by target and prediction, a row for each label of the task
      and a column for each, and one for other answers.
    wrongest: are the mistakes of which the model is surest: its answer is the most likelier
      than the target.
    examples: counts the examples.
  """

  labels: tuple[str, ...]
  confusion: Sequence[Sequence[int]]
  wrongest: Sequence[Mistake]
  examples: int

  def report(self) -> dict[str, Any]:
    """Returns a JSON object."""
    return dataclasses.asdict(self)


def find(
  run: runs.Run,
  data: DataSettings,
  evaluation: EvaluationSettings,
  step: int,
  split: str,
  most: int,
  weights: str = FLOAT32,
) -> dict[str, TaskMistakes]:
  """Answers a split of each task of a mixture, and finds the mistakes.

  Args:
    run: is the run that has the checkpoint.
    data: describes the mixture, its lengths and batches.
    evaluation: sets how many examples are answered, and whether labels are ranked.
    step: is the step of the checkpoint.
    split: names the split of the tasks that have it.
    most: is the number of wrongest answers to keep.
    weights: is the dtype of kernels, 'float32' or 'int8'.

  Returns:
    Mistakes by the short name of the task (`hyperprompt_tasks.short_names`).

  Raises:
    UserError: if an example has no target.
  """
  datasets.check_mixture(data.mixture_or_task_name, split)
  members = seqio.get_subtasks(seqio.get_mixture_or_task(data.mixture_or_task_name))
  tasks = [task for task in members if split in task.splits]
  opened = examples.datasets(tasks, split, data)
  predictor = run.predictor(step, data, weights)
  names = hyperprompt_tasks.short_names(data.mixture_or_task_name, split)
  return {
    names[name]: _of_task(
      predictor,
      name,
      list(dataset.take(evaluation.num_examples or -1).as_numpy_iterator()),
      most,
      ranks=evaluation.rank_labels,
    )
    for name, dataset in opened.items()
  }


def _of_task(
  predictor: Predictor,
  name: str,
  rows: Sequence[Mapping[str, Any]],
  most: int,
  *,
  ranks: bool,
) -> TaskMistakes:
  if not all(map(examples.has_target, rows)):
    raise UserError(f'{name}: an example has no target, so that no answer can be wrong')
  inputs = [examples.text(row, 'inputs') for row in rows]
  targets = [examples.text(row, 'targets') for row in rows]
  labels = hyperprompt_tasks.labels(name) or ()
  task = hyperprompt_tasks.conditioned_task(name) or ''
  if ranks and labels:
    answers = predictor.rank(task, inputs, labels)
  else:
    questions = (examples.question(predictor, row, place) for place, row in enumerate(rows))
    answers = list(predictor.answers(questions, Generation()))
  wrong = [n for n, answer in enumerate(answers) if answer.text != targets[n]]
  return TaskMistakes(
    labels,
    _confusion(labels, targets, answers),
    _wrongest(predictor, task, [(inputs[n], targets[n], answers[n]) for n in wrong], most),
    len(rows),
  )


def _confusion(
  labels: Sequence[str], targets: Sequence[str], answers: Sequence[Answer]
) -> list[list[int]]:
  counts = collections.Counter(
    (target, answer.text if answer.text in labels else OTHER)
    for target, answer in zip(targets, answers, strict=True)
  )
  return [[counts[target, column] for column in (*labels, OTHER)] for target in labels]


def _wrongest(
  predictor: Predictor,
  task: str,
  wrong: Sequence[tuple[str, str, Answer]],
  most: int,
) -> list[Mistake]:
  if not most or not wrong:
    return []
  scores = predictor.score(task, [w[0] for w in wrong], [w[1] for w in wrong])
  mistakes = [
    Mistake(inputs, target, answer.text, answer.log_likelihood, score.log_likelihood)
    for (inputs, target, answer), score in zip(wrong, scores, strict=True)
  ]
  surest = lambda mistake: mistake.target_log_likelihood - mistake.log_likelihood
  return sorted(mistakes, key=surest)[:most]
