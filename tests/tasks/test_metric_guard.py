"""Metrics and postprocessors that raise are named, and the others give their values."""

import functools
import json

import numpy as np
import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import metric_guard, task_lists
from tests.tasks.test_mixtures import Converter


def broken(targets, predictions):
  shares = [len(set(p.split())) / len(p.split()) for p in predictions]
  return {'share': sum(shares) / len(shares)}


def listy(targets, predictions):
  return {'confusion': [[1, 2], [3, 4]]}


def nothing(targets, predictions):
  return None


def array(targets, predictions):
  return {'array': np.float32(3), 'text': seqio.metrics.Text('t')}


def task(folder, name, metrics):
  path = folder / f'{name}.jsonl'
  rows = [{'inputs': f'x {i}', 'targets': f'y {i}'} for i in range(3)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  files = {'t': {'train': str(path), 'validation': str(path)}}
  hyperprompt_tasks.from_files(name, files, metric_fns=metrics)
  return f'{name}.t'


def evaluate(name, answer):
  """The metrics that SeqIO's guarded evaluator computes, and the failures."""
  evaluator = seqio.Evaluator(name, Converter(pack=False), sequence_length=None)
  names = task_lists.short_names(name, 'validation')
  failures = metric_guard.guard(evaluator, names)
  predict = lambda dataset, *_: [
    (int(i), [3 + byte for byte in answer.encode()]) for i, _ in dataset.as_numpy_iterator()
  ]
  for step in (0, 1):  # the targets of the first evaluation are kept for the second
    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, step=step)
    values, errors = metrics.result()[name], failures.take()
  return values, [str(error) for error in errors]


def test_a_metric_that_fails_is_named_and_the_others_count(tmp_path):
  name = task(tmp_path, 'guard_metrics', [broken, 'accuracy', listy, nothing, array])
  metrics, messages = evaluate(name, '')
  assert metrics['accuracy'] == 0.0 and metrics['array'] == 3.0
  assert not {'share', 'confusion'} & metrics.keys()
  assert messages == [
    'task t: broken fails: ZeroDivisionError: division by zero',
    "task t: listy returns '[[1, 2], [3, 4]]' as confusion; expected a number",
    "task t: nothing returns 'None'; expected a dict such as {'accuracy': 50.0}",
  ]


def picky(text, *, odd, is_target=False, **_):
  if text == odd:
    raise LookupError(f'no {text}\nand more')
  return text


@pytest.mark.parametrize('odd', ['y 1', 'a prediction'])
def test_a_postprocessor_that_fails_leaves_its_task_without_metrics(tmp_path, odd):
  name = task(tmp_path, f'guard_picky_{len(odd)}', ['accuracy'])
  copy = seqio.TaskRegistry.get(name).replace(
    name=f'{name}_copy', postprocess_fn=functools.partial(picky, odd=odd)
  )
  seqio.TaskRegistry.add_provider(copy.name, copy)
  metrics, messages = evaluate(copy.name, 'a prediction')
  assert metrics == {}
  expected = f"task {copy.name}: picky fails at '{odd}': LookupError: no {odd}"
  # SeqIO does not postprocess targets again, but the failure is still reported.
  assert messages == [expected]


def test_metrics_are_rehearsed_before_training(tmp_path):
  task(tmp_path, 'guard_rehearsed', [broken, 'accuracy'])
  (error,) = metric_guard.rehearse('guard_rehearsed')
  assert isinstance(error, hyperprompt_tasks.UserMistake)
  assert str(error).startswith('task t: broken fails: ZeroDivisionError')
  task(tmp_path, 'guard_well', ['accuracy', 'rouge', 'bleu'])
  assert metric_guard.rehearse('guard_well') == []
  assert metric_guard.rehearse('hp_builtin') == []


def test_metrics_of_this_package_are_not_rehearsed(tmp_path, monkeypatch):
  task(tmp_path, 'guard_needless', ['accuracy', 'f1'])
  monkeypatch.setattr(seqio.Task, 'get_dataset', None)  # nothing is read
  assert metric_guard.rehearse('guard_needless') == []
