"""The contents of a training run's folder, read as data for a report."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from hyperprompt_jax.checkpoints import AVERAGE
from hyperprompt_jax.configuration import run_folder, static
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.evaluation import summary
from hyperprompt_jax.evaluation.scores import ScoresByStep, best_step, scores_by_step
from hyperprompt_jax.runtime import reporting

PREDICTIONS_FOLDER = 'inference_eval'


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One validation example and the run's answer.

  Attributes:
    text: is the input.
    target: is the right answer, or a list of right answers.
    prediction: is the run's answer.
  """

  text: str
  target: Any
  prediction: Any

  @property
  def error(self) -> float:
    """0 for a right answer; else the distance of numbers, and 1 for everything else."""
    one, other = self.target, self.prediction
    if one == other or (isinstance(one, list) and other in one):
      return 0.0
    is_number = [
      isinstance(x, int | float) and not isinstance(x, bool) for x in (one, other)
    ]
    # Labels are integers, whose distance means nothing.
    is_measured = all(is_number) and any(isinstance(x, float) for x in (one, other))
    return abs(one - other) if is_measured else 1.0


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run.

  Attributes:
    name: is the folder's name, or its path where several folders have one name.
    folder: is the run's folder.
    settings: holds the values of its configuration, macros first.
    records: are the lines of `metrics.jsonl`.
    predictions: holds the answers at `step`, by SeqIO task.
    step: is the step of the highest average, or the last evaluated step if there is no
      average; None if nothing was evaluated.
    data: is the report on data by SeqIO task, and empty if there is none.
  """

  name: str
  folder: str
  settings: Mapping[str, str]
  records: Sequence[Mapping[str, float]]
  predictions: Mapping[str, Sequence[Prediction]]
  step: int | None
  data: Mapping[str, Any]

  @property
  def method(self) -> str:
    """The name of the method's class."""
    match = re.search(r'(\w+)\(\)$', self.settings.get('METHOD', ''))
    return match[1] if match else 'unknown'

  @property
  def scores(self) -> ScoresByStep:
    """The scores by step."""
    return scores_by_step(self.records)

  def curve(self, name: str) -> list[tuple[float, float]]:
    """Returns the points (step, value) of a metric."""
    return [
      (record['step'], record[name])
      for record in self.records
      if isinstance(record.get(name), int | float)
    ]

  def metrics(self) -> dict[str, float]:
    """Returns the metrics of all SeqIO tasks at `step`, by `TASK/METRIC`."""
    prefix, own = 'eval/', ('eval/score/', f'eval/{AVERAGE}')
    return {
      name.removeprefix(prefix): value
      for record in self.records
      if record['step'] == self.step
      for name, value in record.items()
      if name.startswith(prefix) and not name.startswith(own)
    }


def read(folder: str, name: str) -> Run:
  """Reads a run's folder, or a folder with the runs of single tasks.

  Args:
    folder: is MODEL_DIR.
    name: is the run's name in the report.

  Raises:
    UserError: if the folder is not that of a run, or a file in it cannot be read.
  """
  parts = run_folder.parts_of(folder)
  composed = static.Configuration()
  composed.add_file(str(parts[0] / run_folder.CONFIG_FILE))
  by_part = {
    part.name: reporting.read_metrics(epath.Path(part) / reporting.METRICS_FILE)
    for part in parts
  }
  records = by_part[parts[0].name] if len(parts) == 1 else summary.merge(by_part)
  scores = scores_by_step(records)
  step = best_step(scores, AVERAGE)
  step = max(scores, default=None) if step is None else step
  data: dict[str, Any] = {}
  predictions: dict[str, Sequence[Prediction]] = {}
  for part in parts:
    data |= _read_json(part / 'data.json') or {}
    predictions |= _predictions(part / PREDICTIONS_FOLDER, step)
  return Run(name, folder, composed.shown(), records, predictions, step, data)


def names(folders: Sequence[str]) -> list[str]:
  """Returns a name for each folder: its last part, or all of it where two are alike."""
  last = [pathlib.PurePath(folder).name for folder in folders]
  return [
    name if last.count(name) == 1 else folder
    for name, folder in zip(last, folders, strict=True)
  ]


def peek(run: Run) -> str:
  """Returns the page that `hyperprompt peek` wrote for the latest step in a run's folder.

  Raises:
    UserError: if there is none.
  """
  pages = [
    page
    for page in epath.Path(run.folder).glob('peek/*/peek.html')
    if page.parent.name.isdigit()
  ]
  if not pages:
    raise UserError(
      f'{run.folder} has no pictures of peek: run hyperprompt peek '
      f'--model_dir={run.folder} first'
    )
  return max(pages, key=lambda page: int(page.parent.name)).read_text()


def _read_json(path: pathlib.Path) -> Any:
  """Returns the contents of a JSON file; None if it is not there.

  Raises:
    UserError: if it cannot be read.
  """
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f'{path} is no JSON ({error}): remove it') from error


def _predictions(folder: pathlib.Path, step: int | None) -> dict[str, Sequence[Prediction]]:
  """Returns the answers of a step, by SeqIO task, those that are wrong first."""
  if step is None or not folder.exists():
    return {}
  result: dict[str, Sequence[Prediction]] = {}
  for file in sorted(folder.glob(f'*-{step:06}.jsonl')):
    task = file.name.removesuffix(f'-{step:06}.jsonl')
    answers = []
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, 1):
      try:
        answers.append(_prediction(json.loads(line)))
      except (ValueError, TypeError, AttributeError, KeyError) as error:
        if number == len(lines):  # a kill has cut it short
          break
        raise UserError(f'{file}, line {number} is no prediction: remove it') from error
    result[task] = sorted(answers, key=lambda answer: -answer.error)
  return result


def _prediction(record: Mapping[str, Any]) -> Prediction:
  features = record['input']
  text = features.get('inputs_pretokenized', features.get('inputs', ''))
  return Prediction(str(text), record['target'], record['prediction'])
