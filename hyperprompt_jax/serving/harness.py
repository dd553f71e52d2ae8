r"""A run or checkpoint as a model of lm-evaluation-harness (the extra `lm_eval`).

  python -m hyperprompt_jax.serving.harness run --model hyperprompt \
    --model_args pretrained=/path/to/run,task=rte --tasks my_task

The arguments are those of the harness's own command, which has one more model here. The
harness writes inputs itself; `task` chooses the prompts that they are given.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hyperprompt_jax.errors import UserError, nearest, shown
from hyperprompt_jax.inference.answers import LONGEST_ANSWER
from hyperprompt_jax.inference.predictor import Predictor

NAME = 'hyperprompt'
_BATCH_SIZE = 32


class Answering:
  """Answers the requests of the harness by a loaded model.

  A request has `args`: a context, and a continuation or settings of generation. The
  encoder reads the context, and the decoder writes the continuation, EOS included.

  Args:
    predictor: is the model.
    task: names the task of all requests. None takes the task that is named as the
      harness's own task is, or the only one.
  """

  def __init__(self, predictor: Predictor, task: str | None = None):
    if task is not None and task not in predictor.tasks:
      raise UserError(
        f'task={task} is not one of this model{nearest(task, predictor.tasks)}; it knows '
        f'{", ".join(predictor.tasks)}'
      )
    self.predictor = predictor
    self.task = task

  def log_likelihoods(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
    """Returns the log likelihood of each continuation, and whether it is the greedy one."""
    questions = [(self.task_of(request), request.args[0]) for request in requests]
    # The harness puts a space before a continuation; T5's targets have none.
    targets = [request.args[1].strip() for request in requests]
    likelihoods = self._scores(questions, targets)
    encode = self.predictor.tokenizer.encode
    tokens = [[*encode(target), self.predictor.tokenizer.eos_id] for target in targets]
    # Labels of one context share its greedy answer, as long as the longest of them.
    longest: dict[tuple[str, str], int] = {}
    for question, target in zip(questions, tokens, strict=True):
      longest[question] = max(longest.get(question, 1), len(target))
    greedy: dict[tuple[str, str], Sequence[int]] = {}
    for length in sorted({*longest.values()}):
      same = [question for question, most in longest.items() if most == length]
      answers = self.predictor.predict(
        same, max_length=length, num_decodes=1, temperature=0.0
      )
      greedy |= {q: answer.tokens for q, answer in zip(same, answers, strict=True)}
    return [
      (likelihood, [*greedy[question][: len(target)]] == target)
      for likelihood, question, target in zip(likelihoods, questions, tokens, strict=True)
    ]

  def _scores(
    self, questions: Sequence[tuple[str, str]], targets: Sequence[str]
  ) -> list[float]:
    """Returns the log likelihood of a target for each question."""
    likelihoods = [0.0] * len(questions)
    for task in dict.fromkeys(task for task, _ in questions):
      rows = [row for row, question in enumerate(questions) if question[0] == task]
      scores = self.predictor.score(
        task, [questions[row][1] for row in rows], [targets[row] for row in rows]
      )
      for row, score in zip(rows, scores, strict=True):
        likelihoods[row] = score.log_likelihood
    return likelihoods

  def texts(self, requests: Sequence[Any]) -> Iterator[str]:
    """Yields the answer to each request, up to the first of its stop texts."""
    groups: dict[Any, list[int]] = {}
    for row, request in enumerate(requests):
      groups.setdefault(self._options(request.args[1]), []).append(row)
    texts: dict[int, str] = {}
    for options, rows in groups.items():
      questions = [(self.task_of(requests[row]), requests[row].args[0]) for row in rows]
      answers = self.predictor.predict(questions, **dict(options))
      texts |= {row: answer.text for row, answer in zip(rows, answers, strict=True)}
    for row, request in enumerate(requests):
      yield _until(texts[row], request.args[1].get('until'))

  def _options(self, settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Returns options of `predict` that do what settings of generation say."""
    length = settings.get('max_gen_toks') or self.predictor.lengths['targets']
    options: dict[str, Any] = {'max_length': min(int(length), LONGEST_ANSWER)}
    if settings.get('do_sample'):
      given = {name: settings.get(name) for name in ('top_k', 'top_p')}
      options |= {name: value for name, value in given.items() if value}
      options['temperature'] = float(settings.get('temperature') or 1.0)
    if settings.get('num_beams'):
      options['num_decodes'] = int(settings['num_beams'])
    return tuple(options.items())

  def task_of(self, request: Any) -> str:
    """Returns the task of this model that a request is given.

    Raises:
      UserError: if it is not clear.
    """
    tasks = self.predictor.tasks
    theirs = getattr(request, 'task_name', None)
    if self.task is not None:
      return self.task
    if theirs in tasks:
      return theirs
    if len(tasks) > 1:
      raise UserError(
        f'the harness asks for {shown(theirs)}, which is no task of this model: choose '
        f'whose prompts it is given, --model_args …,task=NAME, one of {", ".join(tasks)}'
      )
    return tasks[0]


def _until(text: str, stops: str | Iterable[str] | None) -> str:
  """Returns a text up to the first of some stop texts."""
  for stop in [stops] if isinstance(stops, str) else stops or ():
    if stop:
      text = text.split(stop)[0]
  return text


def register() -> type:
  """Makes the model `hyperprompt` known to the harness; returns its class.

  Raises:
    UserError: if the harness is not installed.
  """
  try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
  except ImportError as error:
    raise UserError(
      "lm-evaluation-harness is not installed: pip install 'hyperprompt-jax[lm_eval]'"
    ) from error

  class HyperPromptLM(LM):
    """A run or checkpoint; the keywords are those of `--model_args`."""

    def __init__(
      self,
      pretrained: str,
      task: str | None = None,
      step: str = 'latest',
      vocabulary: str | None = None,
      batch_size: int | str = _BATCH_SIZE,
      max_batch_size: int | None = None,
      device: str | None = None,
    ):
      del max_batch_size, device  # JAX chooses the device
      super().__init__()
      from hyperprompt_jax.inference.loading import load

      rows = int(batch_size) if str(batch_size).isdigit() else _BATCH_SIZE
      predictor = load(pretrained, step, vocabulary=vocabulary, batch_size=rows)
      self.answering = Answering(predictor, task)

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
      results = self.answering.log_likelihoods(requests)
      return _kept(self, 'loglikelihood', requests, results)

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
      results = [*self.answering.texts(requests)]
      return _kept(self, 'generate_until', requests, results)

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
      raise NotImplementedError(
        'a T5 that was trained on pairs of input and target has no likelihood of a text '
        'alone: choose tasks whose output_type is multiple_choice, loglikelihood or '
        'generate_until'
      )

  register_model(NAME)(HyperPromptLM)
  return HyperPromptLM


def _kept(model: Any, kind: str, requests: Sequence[Any], results: list[Any]) -> list[Any]:
  """Returns results after the harness's cache, if it has one, has them, too."""
  for request, result in zip(requests, results, strict=True):
    model.cache_hook.add_partial(kind, request.args, result)
  return results


def main(command: Callable[[], None] | None = None) -> int:
  """Runs the harness's command with the model `hyperprompt`.

  Args:
    command: is the command; None imports it.

  Returns:
    The exit status.
  """
  try:
    register()
    if command is None:
      from lm_eval.__main__ import cli_evaluate

      command = cli_evaluate
    command()
  except UserError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
