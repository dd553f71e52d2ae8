"""Requests of the HTTP interface: their JSON, checked, as jobs for a model."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from hyperprompt_jax.errors import UserError, nearest, shown
from hyperprompt_jax.inference import batches
from hyperprompt_jax.inference.answers import (
  LONGEST_ANSWER,
  Answer,
  Generation,
  Score,
)
from hyperprompt_jax.inference.batches import LabelSet, Question
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.programs import Shape
from hyperprompt_jax.runtime import plain_json
from hyperprompt_jax.serving.batcher import Job

PREDICT, RANK, SCORE = 'predict', 'rank', 'score'
_ATTENTION = 'attention'
OPTIONS = ('num_decodes', 'temperature', 'top_k', 'top_p', 'seed', 'max_length')
_QUESTION = ('task', 'inputs', 'targets')
# The fields of each kind of request, beside those of its questions.
FIELDS = {
  PREDICT: ('task', 'inputs', 'questions', _ATTENTION, *OPTIONS),
  RANK: ('task', 'inputs', 'questions', 'labels'),
  SCORE: ('task', 'inputs', 'targets', 'questions'),
}
# A program is compiled for each number of candidates, and its memory grows with it.
MOST_DECODES = 16
MOST_LABELS = 256


class RequestError(Exception):
  """A request that cannot be answered.

  Args:
    status: is the status of the response.
    message: is one line for the client.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Group:
  """The common part of the jobs of a batch.

  Attributes:
    predictor: computes them; jobs keep the model with which their request began.
    kind: is one of this module's constants.
    setting: is the `Generation` of answers, or the padded size of the labels to rank.
  """

  predictor: Predictor
  kind: str
  setting: Any = None


@dataclasses.dataclass(frozen=True)
class Request:
  """A checked request.

  Attributes:
    predictor: is the model that answers it.
    tasks: are the tasks of its questions.
    jobs: are its jobs, in the order of the questions; further jobs measure attention.
  """

  predictor: Predictor
  tasks: Sequence[str]
  jobs: Sequence[Job]

  def response(self, results: Sequence[Any]) -> dict[str, Any]:
    """Returns the JSON object of a response.

    Args:
      results: are the results of the jobs.
    """
    number = len(self.tasks)
    answers = [
      {'task': task, **described(result)}
      for task, result in zip(self.tasks, results[:number], strict=True)
    ]
    if masses := results[number:]:
      for answer, mass in zip(answers, masses, strict=True):
        answer['prompt_mass'] = [round(float(x), 6) for x in mass]
    return {'step': self.predictor.step, 'answers': answers}


def takes_compilation(group: Group, values: Sequence[Any]) -> bool:
  """Whether no batch like this one has been computed yet: it takes a compilation."""
  compiled = group.predictor.engine.compiled
  return compiled is not None and _program(group, values) not in compiled


def _program(group: Group, values: Sequence[Any]) -> Hashable:
  """Returns a value that two batches share if one program computes both."""
  predictor, setting = group.predictor, group.setting
  questions = [value[0] if group.kind in (SCORE, RANK) else value for value in values]
  if group.kind == PREDICT:
    limit = setting.max_length or predictor.lengths['targets']
    setting = Shape.from_generation(setting, limit)
  elif group.kind == SCORE:
    setting = batches.size(max(len(target) for _, target in values), LONGEST_ANSWER)
  shape = batches.shape_of(
    questions, predictor.lengths['inputs'], predictor.engine.least_rows
  )
  return group.kind, setting, shape


def compute(group: Group, values: Sequence[Any]) -> Sequence[Any]:
  """Computes a batch."""
  results = _computed(group, values)
  if (compiled := group.predictor.engine.compiled) is not None:
    compiled.add(_program(group, values))
  return results


def _computed(group: Group, values: Sequence[Any]) -> Sequence[Any]:
  predictor = group.predictor
  if group.kind == PREDICT:
    return list(predictor.answers(values, group.setting))
  if group.kind == SCORE:
    return list(predictor.scores(values))
  if group.kind == RANK:
    return list(predictor.rankings(values))
  return list(predictor.attention(values))


def parse(kind: str, body: bytes, predictor: Predictor, most: int) -> Request:
  """Returns the request that a body holds.

  Args:
    kind: is 'predict', 'rank' or 'score'.
    body: is a JSON object.
    predictor: is the model.
    most: is the most questions of a request.

  Raises:
    RequestError: if the body is no such request; 400 for no JSON, 413 for too many
      questions, 422 for the rest.
  """
  try:
    value = plain_json.parse(body)
  except ValueError as error:
    raise RequestError(400, f'the body is no JSON: {error}') from error
  try:
    return _request(kind, _fields(value, FIELDS[kind], 'the body'), predictor, most)
  except UserError as error:
    raise RequestError(422, str(error)) from error


def _request(
  kind: str, value: Mapping[str, Any], predictor: Predictor, most: int
) -> Request:
  triples = _questions(kind, value)
  if len(triples) > most:
    raise RequestError(413, f'{len(triples)} questions in a request: send at most {most}')
  questions = [
    predictor.question(task, _text('inputs', inputs), place)
    for place, (task, inputs, _) in enumerate(triples)
  ]
  tasks = [task for task, _, _ in triples]
  lengths = [_bucket(question, predictor) for question in questions]
  make = lambda group, values: [
    Job(group, length, item) for length, item in zip(lengths, values, strict=True)
  ]
  if kind == SCORE:
    targets = [predictor.target(_text('targets', target)) for *_, target in triples]
    longest = max(map(len, targets))
    if longest > predictor.lengths['targets']:
      raise UserError(
        f'a target has {longest} tokens: send at most {predictor.lengths["targets"]}'
      )
    jobs = make(Group(predictor, SCORE), zip(questions, targets, strict=True))
  elif kind == RANK:
    labels = {
      task: _labels(task, value.get('labels'), predictor) for task in dict.fromkeys(tasks)
    }
    jobs = [
      Job(Group(predictor, RANK, labels[task].size), length, (question, labels[task]))
      for task, length, question in zip(tasks, lengths, questions, strict=True)
    ]
  else:
    jobs = make(Group(predictor, PREDICT, generation(value, predictor)), questions)
    if value.get(_ATTENTION):
      jobs += make(Group(predictor, _ATTENTION), questions)
  return Request(predictor, tasks, jobs)


def _fields(value: Any, known: Sequence[str], where: str) -> Mapping[str, Any]:
  """Returns an object, which has known fields alone."""
  if not isinstance(value, dict):
    raise UserError(f'{where} must be an object with {", ".join(known)}')
  for name in value:
    if name not in known:
      hint = nearest(name, known)
      raise UserError(f'{where} has no field {shown(name)}{hint}: {", ".join(known)}')
  return value


def _questions(kind: str, value: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
  """Returns task, input and target of each question of a request."""
  known = _QUESTION[: 3 if kind == SCORE else 2]
  if 'questions' in value:
    if any(name in value for name in known):
      raise UserError(f'give either questions, or {", ".join(known)}')
    listed = value['questions']
    if not isinstance(listed, list):
      raise UserError(f'questions must be a list, not {shown(listed)}')
    objects = [_fields(one, known, 'a question') for one in listed]
  else:
    columns = [value[name] for name in known[1:] if name in value]
    if 'task' not in value or len(columns) < len(known) - 1:
      raise UserError(f'give {", ".join(known)}, or questions')
    rows = [[x] if isinstance(x, str) else x for x in columns]
    if not all(isinstance(row, list) for row in rows):
      raise UserError(f'{" and ".join(known[1:])} must be a text or a list of texts')
    if len({*map(len, rows)}) > 1:
      raise UserError(f'there are {len(rows[0])} inputs and {len(rows[1])} targets')
    objects = [
      {'task': value['task'], **dict(zip(known[1:], texts, strict=True))}
      for texts in zip(*rows, strict=True)
    ]
  if not objects:
    raise UserError('the request has no question')
  if any(len(one) < len(known) for one in objects):
    raise UserError(f'a question must have {", ".join(known)}')
  return [(one['task'], one['inputs'], one.get('targets')) for one in objects]


def _text(name: str, value: Any) -> str:
  """Returns a text, which UTF-8 can write."""
  if not isinstance(value, str):
    raise UserError(f'{name} must be texts, not {shown(value)}')
  try:
    value.encode('utf-8')
  except UnicodeError as error:
    raise UserError(f'{name} holds half of a surrogate pair, which is no text') from error
  return value


def _labels(task: str, given: Any, predictor: Predictor) -> LabelSet:
  """Returns the labels to rank for the questions of a task."""
  own = predictor.labels(task)
  if given is None and own:
    return predictor.label_set(own)
  if not isinstance(given, list) or not 0 < len(given) <= MOST_LABELS:
    raise UserError(
      f'task {task} needs labels, a list of 1 to {MOST_LABELS} texts'
      if given is None
      else f'labels must be a list of 1 to {MOST_LABELS} texts'
    )
  most = predictor.lengths['targets']
  labels = predictor.label_set([_text('labels', label) for label in given])
  for label, tokens in zip(labels.texts, labels.tokens, strict=True):
    if len(tokens) > most:
      raise UserError(f'label {shown(label)} has more than {most} tokens')
  return labels


def generation(value: Mapping[str, Any], predictor: Predictor) -> Generation:
  """Returns the settings of answers that a request asks for.

  Raises:
    UserError: if one is out of its range.
  """
  if not isinstance(value.get(_ATTENTION, False), bool):
    raise UserError(f'attention must be true or false, not {shown(value[_ATTENTION])}')
  given: Any = {name: value[name] for name in OPTIONS if name in value}
  settings = predictor.generation(given)
  most = predictor.lengths['targets']
  if settings.num_decodes > MOST_DECODES and 'num_decodes' in given:
    raise UserError(f'num_decodes must be an integer from 1 to {MOST_DECODES}')
  if settings.max_length is not None and settings.max_length > most:
    raise UserError(f'max_length must be an integer from 1 to {most}')
  return settings


def _bucket(question: Question, predictor: Predictor) -> int:
  longest = predictor.lengths['inputs']
  return batches.size(len(question.tokens), longest, batches.SHORTEST)


def described(result: Answer | Score) -> dict[str, Any]:
  """Returns the JSON object of an answer or a score."""
  values = dataclasses.asdict(result)
  return {
    name: [described_alternative(x) for x in value] if name == 'alternatives' else value
    for name, value in values.items()
    if value != () and name != 'tokens'
  }


def described_alternative(answer: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the JSON object of another candidate."""
  return {name: answer[name] for name in ('text', 'log_likelihood', 'finished')}


def warm_up(predictor: Predictor, kinds: Sequence[str], rows: int, length: int) -> None:
  """Compiles the programs of batches of a size.

  Args:
    predictor: is the model.
    kinds: are the kinds of requests.
    rows: is the number of rows.
    length: is the length of the inputs.
  """
  question = Question(0, [predictor.tokenizer.eos_id] * length)
  questions, target = [question] * rows, [predictor.tokenizer.eos_id]
  if PREDICT in kinds:
    compute(Group(predictor, PREDICT, predictor.generation({})), questions)
  if SCORE in kinds:
    compute(Group(predictor, SCORE), [(question, target)] * rows)
  if RANK in kinds:
    own = {texts for task in predictor.tasks if (texts := predictor.labels(task))}
    by_size = {labels.size: labels for labels in map(predictor.label_set, own)}
    for size, labels in by_size.items():
      compute(Group(predictor, RANK, size), [(question, labels)] * rows)


def lengths(predictor: Predictor) -> list[int]:
  """Returns the lengths for which programs are compiled, the shortest first."""
  longest = predictor.lengths['inputs']
  sizes = {batches.size(number, longest, batches.SHORTEST) for number in range(1, longest)}
  return sorted({*sizes, longest})
