"""The scores of a run's steps, as its metrics record them; read without TensorFlow."""

from collections.abc import Mapping, Sequence

from hyperprompt_jax.checkpoints.retention import AVERAGE
from hyperprompt_jax.errors import UserError

EVAL = 'eval'
SCORE = f'{EVAL}/score/'

# The scores of each conditioned task and, under AVERAGE, their mean, by step.
ScoresByStep = dict[int, dict[str, float]]


def scores_by_step(records: Sequence[Mapping[str, float]]) -> ScoresByStep:
  """The scores in the records of a `metrics.jsonl`; of evaluated steps alone."""
  result: ScoresByStep = {}
  for record in records:
    scores = {
      name.removeprefix(SCORE): value
      for name, value in record.items()
      if name.startswith(SCORE)
    }
    if f'{EVAL}/{AVERAGE}' in record:
      scores[AVERAGE] = record[f'{EVAL}/{AVERAGE}']
    if scores:
      result[int(record['step'])] = scores
  return result


def best_step(scores: Mapping[int, Mapping[str, float]], name: str) -> int | None:
  """The step of the highest score of that name, the first of equals."""
  steps = [step for step in scores if name in scores[step]]
  return max(steps, key=lambda step: (scores[step][name], -step), default=None)


def best_of_run(model_dir: str, scores: ScoresByStep, steps: Sequence[int]) -> int:
  """Returns the step with the highest average score.

  Args:
    model_dir: names the run in the error.
    scores: are the scores that training recorded.
    steps: are the steps that have a checkpoint.

  Raises:
    UserError: if none of them has an average score.
  """
  kept = {step: of_step for step, of_step in scores.items() if step in steps}
  best = best_step(kept, AVERAGE)
  if best is None:
    raise UserError(f'no checkpoint in {model_dir} has an average score yet')
  return best
