"""Trackers get a run's metrics, and never end it. Small modules stand in for theirs."""

import json
import sys
import types

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import reporting, trackers

SCALARS = {'loss/mood#1': 0.5, 'accuracy': 2}


class StandIn(types.ModuleType):
  """A package of a tracker, which records its calls."""

  def __init__(self, name):
    super().__init__(name)
    self.__spec__ = types.SimpleNamespace(name=name)
    self.calls, self.info = [], types.SimpleNamespace(run_id='id-of-mlflow')

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)

    def call(*args, **kwargs):
      self.calls.append((name, args, kwargs))
      return self

    return call


@pytest.fixture
def package(monkeypatch, request):
  stand_in = StandIn(request.param)
  monkeypatch.setitem(sys.modules, request.param, stand_in)
  return stand_in


def write(folder, name, step=4):
  writer = trackers.TrackerWriter(name, 'a project', str(folder))
  writer.write_scalars(step, SCALARS)
  writer.close()
  return json.loads((folder / trackers.FILE).read_text())['run']


@pytest.mark.parametrize('package', ['wandb'], indirect=True)
def test_weights_and_biases_resumes_its_run(package, tmp_path):
  run = write(tmp_path, 'wandb')
  started = {'project': 'a project', 'name': tmp_path.name, 'id': run, 'resume': 'allow'}
  assert package.calls == [
    ('init', (), started),
    ('define_metric', ('*',), {'step_metric': 'step'}),
    ('log', ({'step': 4, 'loss/mood#1': 0.5, 'accuracy': 2.0},), {}),
    ('finish', (), {}),
  ]
  assert write(tmp_path, 'wandb') == run and package.calls[4] == package.calls[0]


@pytest.mark.parametrize('package', ['mlflow'], indirect=True)
def test_mlflow_resumes_its_run_and_gets_names_that_it_takes(package, tmp_path):
  assert write(tmp_path, 'mlflow') == 'id-of-mlflow'
  assert package.calls == [
    ('set_experiment', ('a project',), {}),
    ('start_run', (), {'run_name': tmp_path.name}),
    ('log_metrics', ({'loss/mood_1': 0.5, 'accuracy': 2.0},), {'step': 4}),
    ('end_run', (), {}),
  ]
  write(tmp_path, 'mlflow')
  assert package.calls[5] == ('start_run', (), {'run_id': 'id-of-mlflow'})


@pytest.mark.parametrize('package', ['trackio'], indirect=True)
def test_trackio_resumes_its_run(package, tmp_path):
  run = write(tmp_path, 'trackio')
  started = ('init', (), {'project': 'a project', 'name': run, 'resume': 'allow'})
  logged = ('log', ({'loss/mood#1': 0.5, 'accuracy': 2.0},), {'step': 4})
  assert package.calls == [started, logged, ('finish', (), {})]
  assert run.startswith(tmp_path.name)
  assert write(tmp_path, 'trackio') == run


@pytest.mark.parametrize('package', ['wandb'], indirect=True)
def test_a_run_writes_to_its_tracker_too(package, tmp_path):
  metrics = reporting.Metrics(str(tmp_path), 0, 'wandb', 'a project')
  metrics.write(3, 'train', {'loss': 1.0})
  metrics.close()
  assert ('log', ({'step': 3, 'train/loss': 1.0},), {}) in package.calls
  assert metrics.read() == [{'step': 3, 'train/loss': 1.0}]


@pytest.mark.parametrize('package', ['wandb'], indirect=True)
def test_a_tracker_that_fails_is_told_once_and_training_goes_on(package, tmp_path, capsys):
  def fail(*args, **kwargs):
    raise ConnectionError('no network')

  writer = trackers.TrackerWriter('wandb', 'a project', str(tmp_path))
  package.log = package.finish = fail
  for step in (1, 2):
    writer.write_scalars(step, SCALARS)
  writer.close()
  err = capsys.readouterr().err
  assert err.count("WARNING: TRACKER='wandb' fails: no network; training goes on") == 1
  package.init = fail
  with pytest.raises(UserError, match="TRACKER='wandb' does not start: no network"):
    trackers.TrackerWriter('wandb', 'a project', str(tmp_path))


def test_a_missing_package_is_one_line(monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  trackers.check(None)
  with pytest.raises(UserError, match=r"needs the package wandb: pip install 'hyperprompt"):
    trackers.check('wandb')
