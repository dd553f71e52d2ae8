"""A loaded model, which answers questions of all its tasks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

import numpy as np

from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.errors import UserError, nearest, shown
from hyperprompt_jax.inference import batches, results
from hyperprompt_jax.inference.answers import (
  LONGEST_ANSWER,
  Answer,
  Generation,
  Options,
  Score,
)
from hyperprompt_jax.inference.batches import LabelSet, Question
from hyperprompt_jax.inference.engine import Engine
from hyperprompt_jax.inference.tokenizer import Tokenizer

R = TypeVar('R')


class Predictor:
  """A trained model with its vocabulary and tasks, which `hyperprompt_jax.load` returns.

  Methods take a sequence and return a list, or take any other iterable and return an
  iterator, which reads a few batches ahead. Inputs are computed in batches of similar
  lengths; an answer does not depend on the batch, nor on the tasks beside it in it. Methods
  may be called from several threads.

  Args:
    engine: runs the network.
    tokenizer: is the vocabulary.
    record: describes tasks, lengths and decoding.
    step: is the training step of the parameters.
    batch_size: is the most rows of a batch.
  """

  def __init__(
    self,
    engine: Engine,
    tokenizer: Tokenizer,
    record: RecordedRun,
    step: int,
    batch_size: int = 32,
  ):
    self.engine = engine
    self.tokenizer = tokenizer
    self.record = record
    self.step = step
    least = engine.least_rows
    if not isinstance(batch_size, int) or batch_size < 1 or batch_size % least:
      raise UserError(
        f'batch_size must be a positive multiple of {least}, not {shown(batch_size)}'
      )
    self.batch_size = batch_size

  @property
  def tasks(self) -> tuple[str, ...]:
    """The names of the tasks, in the order of their ids."""
    return tuple(self.record.task_list)

  @property
  def lengths(self) -> Mapping[str, int]:
    """The most tokens of `inputs` and, by default, of answers (`targets`)."""
    return self.record.lengths

  def labels(self, task: str) -> tuple[str, ...] | None:
    """Returns the closed set of answers of a task, or None if it has none."""
    self._task_id(task)
    return self.record.labels(task)

  # A sequence is an iterable, too. The first signature that fits gives the result.
  @overload
  def predict(  # type: ignore[overload-overlap]
    self, task: str, texts: Sequence[str], /, **options: Unpack[Options]
  ) -> list[Answer]: ...
  @overload
  def predict(
    self, task: str, texts: Iterable[str], /, **options: Unpack[Options]
  ) -> Iterator[Answer]: ...
  @overload
  def predict(  # type: ignore[overload-overlap]
    self, task: Sequence[tuple[str, str]], /, **options: Unpack[Options]
  ) -> list[Answer]: ...
  @overload
  def predict(
    self, task: Iterable[tuple[str, str]], /, **options: Unpack[Options]
  ) -> Iterator[Answer]: ...
  def predict(self, task, texts=None, /, **options):
    """Generates answers.

    Args:
      task: is the task of all texts; or pairs of a task and a text, without `texts`.
      texts: are the inputs.
      **options: are the attributes of `Generation`; the run's own decoding by default.

    Returns:
      An `Answer` for each input, in their order.

    Raises:
      UserError: if there is no such task, or an option is out of its range.
    """
    given: Any = options
    questions, is_list = self._questions(task, texts)
    answers = self.answers(questions, self.generation(given))
    return list(answers) if is_list else answers

  def answers(
    self, questions: Iterable[Question], generation: Generation
  ) -> Iterator[Answer]:
    """Generates answers to questions in tokens, as `predict` does to texts.

    Args:
      questions: are results of `question`.
      generation: holds the options of answers.
    """
    limit = generation.max_length or self.lengths['targets']

    def answer(batch: Sequence[Question]) -> list[Answer]:
      features = self._features(batch)
      places = np.zeros(len(features['task_ids']), np.int64)
      places[: len(batch)] = [question.place for question in batch]
      tokens, likelihoods = self.engine.generate(features, generation, limit, places)
      return [
        results.generated(question, tokens[row], likelihoods[row], limit, self.tokenizer)
        for row, question in enumerate(batch)
      ]

    return self._batched(questions, answer, lambda question: len(question.tokens))

  def score(
    self, task: str, inputs: Iterable[str], targets: Iterable[str], /
  ) -> list[Score]:
    """Returns the log likelihood of a target for each input.

    Args:
      task: is the task of all inputs.
      inputs: are the inputs.
      targets: are their targets, as many.

    Raises:
      UserError: if there is no such task, or as many targets as inputs.
    """
    inputs, targets = list(inputs), list(targets)
    if len(inputs) != len(targets):
      raise UserError(f'there are {len(inputs)} inputs and {len(targets)} targets')
    questions, _ = self._questions(task, inputs)
    tokens = [self.target(target) for target in targets]
    return list(self.scores(zip(questions, tokens, strict=True)))

  def scores(self, pairs: Iterable[tuple[Question, list[int]]]) -> Iterator[Score]:
    """Scores targets in tokens, as `score` does texts.

    Args:
      pairs: are results of `question` and of `target`.
    """

    def score(batch: Sequence[tuple[Question, list[int]]]) -> list[Score]:
      features = self._features([question for question, _ in batch])
      longest = max(len(target) for _, target in batch)
      rows = [target for _, target in batch]
      length = batches.size(longest, LONGEST_ANSWER)
      made = batches.padded(rows, len(features['task_ids']), length)
      features['decoder_target_tokens'] = made
      features['decoder_input_tokens'] = batches.shifted(made)
      features['decoder_loss_weights'] = (made > 0).astype(np.int32)
      likelihoods = self.engine.score(features)
      return [
        Score(float(likelihoods[row]), len(target), question.truncated)
        for row, (question, target) in enumerate(batch)
      ]

    return self._batched(pairs, score, lambda pair: len(pair[0].tokens))

  @overload
  def rank(  # type: ignore[overload-overlap]
    self, task: str, inputs: Sequence[str], labels: Sequence[str] | None = None, /
  ) -> list[Answer]: ...
  @overload
  def rank(
    self, task: str, inputs: Iterable[str], labels: Sequence[str] | None = None, /
  ) -> Iterator[Answer]: ...
  def rank(self, task, inputs, labels=None, /):
    """Chooses the likeliest label for each input; the others are its `alternatives`.

    Args:
      task: is the task of all inputs.
      inputs: are the inputs.
      labels: are the texts to choose from; None takes the task's own labels.

    Raises:
      UserError: if there is no such task, or it has no labels of its own.
    """
    texts = labels or self.labels(task)
    if not texts or isinstance(texts, str):
      raise UserError(f'task {task} has no labels of its own: give rank a list of labels')
    questions, is_list = self._questions(task, inputs)
    labels = self.label_set(texts)
    ranked = self.rankings((question, labels) for question in questions)
    return list(ranked) if is_list else ranked

  def label_set(self, texts: Sequence[str]) -> LabelSet:
    """Returns labels in tokens.

    Raises:
      UserError: if one is no text.
    """
    return LabelSet(tuple(texts), tuple(self.target(text) for text in texts))

  def rankings(self, pairs: Iterable[tuple[Question, LabelSet]]) -> Iterator[Answer]:
    """Ranks labels for questions in tokens, as `rank` does for texts.

    Args:
      pairs: are results of `question` and of `label_set`.
    """

    def rank(batch: Sequence[tuple[Question, LabelSet]]) -> list[Answer]:
      features = self._features([question for question, _ in batch])
      # A program is compiled for each size, so there are few. Padding is cut off.
      sizes = [labels.size for _, labels in batch]
      number, length = (max(column) for column in zip(*sizes, strict=True))
      tokens = np.zeros((len(features['task_ids']), number, length), np.int32)
      for row, (_, labels) in enumerate(batch):
        tokens[row] = batches.padded(labels.tokens, number, length)
      likelihoods = self.engine.rank(features, tokens)
      return [
        results.ranked(question, labels, likelihoods[row, : len(labels.tokens)])
        for row, (question, labels) in enumerate(batch)
      ]

    return self._batched(pairs, rank, lambda pair: len(pair[0].tokens))

  def attention(self, questions: Iterable[Question]) -> Iterator[np.ndarray]:
    """Yields the attention mass on prompts in each encoder layer, `[m]` float32.

    Args:
      questions: are results of `question`.
    """

    def attention(batch: Sequence[Question]) -> list[np.ndarray]:
      return list(self.engine.attention(self._features(batch))[: len(batch)])

    return self._batched(questions, attention, lambda question: len(question.tokens))

  def encode(self, task: str, texts: Iterable[str], /) -> list[np.ndarray]:
    """Returns the encoder's outputs for each text, `[length, d]` float32, EOS included.

    Args:
      task: is the task of all texts.
      texts: are the texts.

    Raises:
      UserError: if there is no such task.
    """
    questions, _ = self._questions(task, texts)

    def encode(batch: Sequence[Question]) -> list[np.ndarray]:
      outputs = self.engine.encode(self._features(batch))
      return [outputs[row, : len(q.tokens)] for row, q in enumerate(batch)]

    return list(self._batched(questions, encode, lambda q: len(q.tokens)))

  def question(self, task: str, text: str, place: int = 0) -> Question:
    """Returns an input in tokens, cut to the model's length as in training.

    Args:
      task: is its task.
      text: is the input.
      place: is its place in the call, which seeds its draws.

    Raises:
      UserError: if there is no such task, or the text is none.
    """
    task_id = self._task_id(task)
    if not isinstance(text, str):
      raise UserError(f'an input must be a text, not {shown(text)}')
    return self.question_of(task_id, self._with_end(self.tokenizer.encode(text)), place)

  def question_of(self, task_id: int, tokens: Sequence[int], place: int) -> Question:
    """Returns an input that is in tokens already, cut to the model's length.

    Args:
      task_id: is the place of its task in the task list.
      tokens: are the input's tokens, EOS included.
      place: is its place in the call, which seeds its draws.
    """
    length, unknown = self.lengths['inputs'], self.tokenizer.count_unknown(tokens)
    if len(tokens) <= length:
      return Question(task_id, tokens, place, False, unknown)
    # A cut input still ends in EOS, as in training.
    cut = self._with_end(tokens[: length - 1])
    return Question(task_id, cut, place, True, unknown)

  def generation(self, options: Options) -> Generation:
    """Returns the settings of the run's own decoding, changed by options.

    Raises:
      UserError: if an option does not exist or is out of its range.
    """
    own = {k: v for k, v in self.record.decoding.items() if k != 'name'}
    if options.get('temperature'):
      own = {}
    try:
      return Generation(**{**own, **options})
    except TypeError as error:
      raise UserError(f'predict has no such option: {error}') from error

  def _task_id(self, task: str) -> int:
    if task not in self.tasks:
      hint = nearest(task, self.tasks) if isinstance(task, str) else ''
      raise UserError(
        f'task {shown(task)} is not one of this model{hint}; it knows '
        f'{", ".join(self.tasks)}'
      )
    return self.tasks.index(task)

  def _questions(self, task: Any, texts: Any) -> tuple[Iterator[Question], bool]:
    """Returns the questions of a call, and whether they came in a sequence."""
    if isinstance(texts, str) or (texts is None and isinstance(task, str)):
      raise UserError('give the texts in a list, such as ["…"]')
    given = task if texts is None else texts
    if texts is not None:
      self._task_id(task)  # even if there is no text
      pairs: Iterable[Any] = ((task, text) for text in texts)
    else:
      pairs = given
    questions = (self.question(*_pair(pair), place) for place, pair in enumerate(pairs))
    return questions, isinstance(given, Sequence)

  def _with_end(self, tokens: Sequence[int]) -> list[int]:
    return [*tokens, self.tokenizer.eos_id]

  def target(self, text: str) -> list[int]:
    """Returns a target in tokens, EOS included.

    Raises:
      UserError: if it is no text.
    """
    if not isinstance(text, str):
      raise UserError(f'a target must be a text, not {shown(text)}')
    return self._with_end(self.tokenizer.encode(text))

  def _features(self, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    return batches.inputs_of(questions, self.lengths['inputs'], self.engine.least_rows)

  def _batched(
    self,
    items: Iterable[Any],
    function: Callable[[Sequence[Any]], list[R]],
    length_of: Callable[[Any], int],
  ) -> Iterator[R]:
    """Yields a result for each item, in their order, computed in batches."""
    for window in batches.windows(items, self.batch_size):
      made: dict[int, R] = {}
      for rows in batches.by_length([*map(length_of, window)], self.batch_size):
        made |= zip(rows, function([window[row] for row in rows]), strict=True)
      yield from (made[row] for row in range(len(window)))


def _pair(pair: Any) -> tuple[str, str]:
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    raise UserError(f'expected pairs of a task and a text, not {shown(pair)}')
  return pair[0], pair[1]
