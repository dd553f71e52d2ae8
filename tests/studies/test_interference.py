"""The interference study: tasks, runs, statistics, and that its page is true."""

import dataclasses

import jax
import numpy as np
import pytest

from hyperprompt_jax.evaluation import intervals
from studies.interference import claims, design, experiment, report, results, tasks
from studies.interference.experiment import Experiment


def test_the_page_is_what_the_results_say():
  found = results.Results(results.read())
  written = (report.DOCS / report.PAGE).read_text(encoding='utf-8')
  assert written == report.page(found), 'run `make study-report`'
  for name in report.draw(found):
    assert f'(study/{name}.png)' in written
    assert (report.DOCS / 'study' / f'{name}.png').is_file()


def test_what_is_run_is_what_is_planned():
  run = [Experiment(**record['experiment']) for record in results.read()]
  planned = report.planned()
  assert len(run) == len(set(run)) and len(planned) == len(set(planned))
  assert set(run) == set(planned), 'run `make study`'
  assert {one.seed for one in planned} == set(range(5))


def test_tasks_read_the_same_and_say_different_things():
  x = tasks.strings(3, np.random.default_rng(0))
  of = tasks.batch(3, range(16), np.tile(x, (16, 1)))
  inputs, targets = (of[f'{name}_tokens'] for name in ('encoder_input', 'decoder_target'))
  # The task, the string, EOS.
  assert (inputs[:, 0] == np.repeat(np.arange(16), 3) + tasks.FIRST_TASK).all()
  assert (inputs[:, 1:-1] == np.tile(x, (16, 1)) + tasks.FIRST_SYMBOL).all()
  assert (inputs[:, -1] == tasks.EOS).all() and inputs.max() < tasks.VOCAB_SIZE
  assert (of['task_ids'][:, 0] == np.repeat(np.arange(16), 3)).all()
  assert len({row.tobytes() for row in targets[::3]}) == 16
  # By hand: the task of the second arrangement and the first map.
  task = tasks.NAMES.index('arrange_1_map_0')
  wanted = [
    tasks.MAPS[0][x[0, place]] + tasks.FIRST_SYMBOL for place in tasks.ARRANGEMENTS[1]
  ]
  assert targets[3 * task].tolist() == [*wanted, tasks.EOS]
  # Of few tasks, too, there are as many arrangements as maps.
  for few in (2, 4, 8):
    arrangements, maps = zip(
      *(name.split('_map_') for name in tasks.NAMES[:few]), strict=True
    )
    assert len(set(arrangements)) == len(set(maps))


def test_controls_have_as_much_as_hyperprompt():
  prompted = dataclasses.replace(design.BASE, method='global')
  controls = design.controls()
  for name, measure in (
    ('MTL, as many parameters', design.parameters),
    ('MTL, as many FLOP', design.flops),
  ):
    assert 1 <= measure(controls[name]) / measure(prompted) < 1.01


def test_a_run_with_frozen_prompts(monkeypatch):
  of = Experiment('global', num_tasks=2, steps=16, frozen_prompts=True, width=16)
  trained = experiment.train(of, [0, 1])
  drawn = jax.jit(of.model().init)(jax.random.key(0))
  same = lambda a, b: jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))
  assert same(drawn['method'], trained['params']['method'])
  assert not same(drawn['encoder'], trained['params']['encoder'])
  monkeypatch.setattr(experiment, 'train', lambda *_: trained)
  record = experiment.run(of)
  assert Experiment(**record['experiment']) == of
  assert len(record['exact_match']) == len(record['token_accuracy']) == 2
  assert len(record['steps']) == len(record['token_accuracy_curve']) == 16
  assert all(0 < mass < 1 for mass in record['prompt_mass'])
  assert np.mean(record['token_accuracy']) == pytest.approx(
    np.mean(trained['right'][-1]), abs=1e-5
  )


def record(seed, score, **fields):
  of = dataclasses.asdict(Experiment('mtl', seed=seed, **fields))
  return {'experiment': of, 'token_accuracy': [score]}


def test_differences_are_paired_by_seed():
  found = results.Results([
    *(record(seed, score) for seed, score in ((2, 0.3), (0, 0.1), (1, 0.2))),
    *(record(seed, score, width=16) for seed, score in ((0, 0.0), (2, 0.1))),
  ])  # fmt: skip
  one, other = Experiment('mtl'), Experiment('mtl', width=16)
  assert found.differences(one, other, claims.TOKENS) == pytest.approx([10.0, 20.0])
  assert found.values(one, claims.TOKENS) == pytest.approx([10.0, 20.0, 30.0])
  assert not len(found.values(Experiment('mtl', width=8), claims.TOKENS))


def test_a_claim_holds_where_the_interval_lies_above_zero():
  values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
  low, high = intervals.bounds(values)
  assert results.half_width(values) == pytest.approx((high - low) / 2)
  assert results.verdict(values) == 'yes'
  assert results.verdict(-values) == 'the opposite'
  assert results.verdict(values - 2) == results.verdict(values[:1]) == 'open'


def test_a_line_that_was_cut_off_is_run_again(tmp_path):
  path = tmp_path / 'results.jsonl'
  results.mend(path)
  assert results.read(path) == [] and not path.exists()
  path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
  assert results.read(path) == [{'a': 1}, {'a': 2}]
  results.mend(path)
  assert path.read_text() == '{"a": 1}\n{"a": 2}\n'
