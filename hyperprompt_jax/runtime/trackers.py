"""Weights & Biases, MLflow and Trackio behind the interface of clu's metric writers.

A tracker's package is imported only where a run asks for it. Each adapter starts or resumes
the tracker's run, and logs scalars.
"""

import importlib
import importlib.util
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath

from hyperprompt_jax.errors import UserError, reason_of
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.runtime.files import write_whole
from hyperprompt_jax.runtime.scalar_writer import ScalarWriter

# The tracker's name for this run, by which a run that resumes goes on there.
FILE = 'tracker.json'


class Tracker(Protocol):
  """A run of a tracker.

  Attributes:
    run_id: is the name by which the tracker finds the run again.
  """

  run_id: str

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs the scalars of a step."""

  def close(self) -> None:
    """Ends the run."""


class _WeightsAndBiases:
  def __init__(self, package: Any, project: str, name: str, run_id: str | None):
    self.run_id = run_id or uuid.uuid4().hex[:12]
    self._run = package.init(project=project, name=name, id=self.run_id, resume='allow')
    # Its own step must not decrease, and a run that resumes does some steps again.
    self._run.define_metric('*', step_metric='step')

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log({'step': step, **scalars})

  def close(self) -> None:
    self._run.finish()


class _MLflow:
  def __init__(self, package: Any, project: str, name: str, run_id: str | None):
    self._package = package
    package.set_experiment(project)
    started = package.start_run(**({'run_id': run_id} if run_id else {'run_name': name}))
    self.run_id = started.info.run_id

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    # It refuses names with other signs.
    named = {re.sub(r'[^\w\-. /:]', '_', name): x for name, x in scalars.items()}
    self._package.log_metrics(named, step=step)

  def close(self) -> None:
    self._package.end_run()


class _Trackio:
  def __init__(self, package: Any, project: str, name: str, run_id: str | None):
    self.run_id = run_id or f'{name}-{uuid.uuid4().hex[:8]}'
    self._run = package.init(project=project, name=self.run_id, resume='allow')

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log(dict(scalars), step=step)

  def close(self) -> None:
    self._run.finish()


_TRACKERS: Mapping[str, Any] = {
  'wandb': _WeightsAndBiases,
  'mlflow': _MLflow,
  'trackio': _Trackio,
}


def check(name: str | None) -> None:
  """Checks that the package of a tracker is installed.

  Args:
    name: is TRACKER; None for no tracker.

  Raises:
    UserError: if it is not.
  """
  if name is not None and importlib.util.find_spec(name) is None:
    raise UserError(
      f"TRACKER={name!r} needs the package {name}: pip install 'hyperprompt-jax[{name}]', "
      'or leave TRACKER out'
    )


class TrackerWriter(ScalarWriter):
  """Writes scalars to a tracker, whose failures do not end training.

  Args:
    name: is TRACKER.
    project: is the tracker's project or experiment.
    model_dir: names the run's folder, in which the tracker's name of the run is kept.

  Raises:
    UserError: if the package is missing or does not start a run.
  """

  def __init__(self, name: str, project: str, model_dir: str):
    check(name)
    self._name = name
    self._warned = False
    file = epath.Path(model_dir) / FILE
    known = _known_run(file, name)
    try:
      package = importlib.import_module(name)
      folder = epath.Path(model_dir).name
      self._tracker: Tracker = _TRACKERS[name](package, project, folder, known)
    except Exception as error:  # a tracker may raise anything
      raise UserError(
        f'TRACKER={name!r} does not start: {reason_of(error)}; see its documentation, or '
        'leave TRACKER out'
      ) from error
    write_whole(file, json.dumps({'tracker': name, 'run': self._tracker.run_id}) + '\n')

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Logs scalars; the first failure is told, and none is raised."""
    try:
      self._tracker.log(step, {name: float(x) for name, x in scalars.items()})
    except Exception as error:  # a tracker may raise anything
      self._warn(error)

  def close(self) -> None:
    """Ends the tracker's run."""
    try:
      self._tracker.close()
    except Exception as error:  # a tracker may raise anything
      self._warn(error)

  def _warn(self, error: Exception) -> None:
    if not self._warned:
      terminal.say(
        f'WARNING: TRACKER={self._name!r} fails: {reason_of(error)}; training goes on, and '
        'metrics.jsonl has all metrics'
      )
    self._warned = True


def _known_run(file: epath.Path, name: str) -> str | None:
  """Returns the tracker's name of this run, if this tracker has one."""
  try:
    known = json.loads(file.read_text())
  except (OSError, ValueError):
    return None
  is_known = isinstance(known, dict) and known.get('tracker') == name
  return known['run'] if is_known and isinstance(known.get('run'), str) else None
