"""The studies: their tasks, sizes, statistics and plans, and that the page is true."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.demonstration import comparison, conflict, side_by_side
from studies import analysis, networks, records, report, tables
from studies.depth import experiment as depth
from studies.language import data
from studies.language import design as language_design
from studies.language import experiment as language
from studies.synthetic import design, experiment

SHAPE = (experiment.NUM_TASKS, experiment.LENGTH, experiment.ALPHABET)


def test_the_page_is_what_the_results_say():
  assert report.PAGE.read_text(encoding='utf-8') == report.page(), 'run `make study-report`'


@pytest.mark.parametrize(
  ('study', 'plan'), [('synthetic', design), ('language', language_design)]
)
def test_no_run_is_recorded_that_was_not_planned(study, plan):
  known = records.read(records.path(study))
  run = [plan.Experiment(**record['experiment']) for record in known]
  assert len(run) == len(set(run))
  assert set(run) <= set(plan.planned(known))


def test_the_demonstration_has_the_networks_and_rates_of_study_a():
  known = records.read(records.path('synthetic'))
  task_list = tuple(map(str, range(SHAPE[0])))
  names = {'hyperprompt_global': 'global'}
  for name, contestant in comparison.CONTESTANTS.items():
    method = names.get(name, name)
    vocab_size = conflict.vocabulary_size(experiment.ALPHABET, experiment.NUM_TASKS)
    theirs = networks.model(
      experiment.SIZE, vocab_size, task_list, method, networks.MATCHED
    )
    ours = contestant.model()
    assert (ours.config, ours.method) == (theirs.config, theirs.method)
    assert contestant.rate == design.tuned_rate(known, method)
  assert comparison.SHAPE == SHAPE


@pytest.mark.parametrize('plan', [design, language_design])
def test_tuning_has_seeds_of_its_own(plan):
  assert not {*plan.TUNING_SEEDS} & {*plan.SEEDS}


@pytest.mark.parametrize('plan', [design, language_design])
def test_the_plan_waits_for_the_rates_and_takes_the_best(plan):
  tuning = [one for name in plan.METHODS for one in plan.tuning(name)]
  assert plan.planned([]) == tuning
  scores = dict(zip(plan.RATES, (1.0, 3.0, 2.0, 0.0), strict=False))
  record = lambda one: {'experiment': vars(one), plan.ENDPOINT: scores[one.rate]}
  known = [record(one) for one in plan.tuning('mtl')]
  later = [one for one in plan.planned(known) if one not in tuning]
  assert {one.method for one in later} == {'mtl'}
  assert {one.rate for one in later} == {plan.RATES[1]}
  planned = plan.planned([record(one) for one in tuning])
  assert len(planned) == len(set(planned)) == plan.count()


@pytest.mark.parametrize(
  ('size', 'names', 'num_tasks'),
  [
    pytest.param(experiment.SIZE, networks.NAMES, SHAPE[0], marks=pytest.mark.slow),
    (depth.SIZE, depth.METHODS, depth.SHAPE[0]),
    pytest.param(
      language.SIZE, language_design.METHODS, len(data.TASKS), marks=pytest.mark.slow
    ),
  ],
)
def test_methods_add_as_many_parameters_as_each_other(size, names, num_tasks):
  plain = size.config(50)
  task_list = tuple(map(str, range(num_tasks)))
  for name in names:
    model = networks.model(size, 50, task_list, name, networks.MATCHED)
    added = networks.parameters(model)['added']
    if name == 'wide_mtl':
      layers = plain.num_encoder_layers + plain.num_decoder_layers
      added = layers * 2 * plain.emb_dim * (model.config.mlp_dim - plain.mlp_dim)
    if name not in ('mtl', 'single_task'):
      assert added == pytest.approx(size.extra_parameters, rel=0.02), name


def test_tasks_read_the_same_strings_and_disagree():
  rows = conflict.rows((3, 4, 5), rows_per_task=7, seed=0)
  arrangements, replacements = conflict.functions(3, 4, 5)
  for inputs, targets, task in zip(
    rows['encoder_input_tokens'],
    rows['decoder_target_tokens'],
    rows['task_ids'][:, 0],
    strict=True,
  ):
    assert inputs[0] == conflict.FIRST_SYMBOL + 5 + task and inputs[-1] == conflict.EOS
    symbols = inputs[1:-1] - conflict.FIRST_SYMBOL
    wanted = [replacements[task][symbols[place]] for place in arrangements[task]]
    assert (targets - conflict.FIRST_SYMBOL)[:-1].tolist() == wanted
  other = conflict.rows((3, 4, 5), rows_per_task=7, seed=0, family=1)
  names = (set(x['encoder_input_tokens'][:, 0]) for x in (rows, other))
  assert not set.intersection(*names)
  assert not np.array_equal(rows['decoder_target_tokens'], other['decoder_target_tokens'])


def test_every_epoch_holds_every_row_once():
  recipe = side_by_side.Recipe(rate=1.0, steps=6, batch_size=4)
  order = side_by_side.epochs(np.arange(10, 22), recipe, seed=0)
  assert order.shape == (6, 4)
  first, second = order.ravel()[:12], order.ravel()[12:]
  assert sorted(first) == sorted(second) == [*range(10, 22)]
  assert first.tolist() != second.tolist()


def test_replicas_learn_apart_and_only_what_is_tuned():
  size = networks.Size(8, 1, 1, extra_parameters=300)
  model = networks.model(size, 20, ('a', 'b'), 'global', networks.DEFAULT)
  rows = conflict.rows((2, 3, 4), rows_per_task=4, seed=0)
  keys = jax.random.split(jax.random.key(0), 2)
  start = jax.jit(jax.vmap(model.init))(keys)
  recipes = [
    side_by_side.Recipe(0.01, 4, 2, tuned='method'),
    side_by_side.Recipe(0.01, 4, 2, method_rate=0.0),
  ]
  order = np.stack(
    [side_by_side.epochs(np.arange(8), recipe, seed=0) for recipe in recipes]
  )
  rates = np.stack([recipe.rates() for recipe in recipes])
  looked = []
  end = side_by_side.train(
    model,
    start,
    {name: np.stack([value] * 2) for name, value in rows.items()},
    order,
    rates,
    lambda step, _: looked.append(step),
    looks=2,
  )
  assert looked == [2, 4]
  changed = jax.tree.map(lambda a, b: jnp.any(a != b, axis=range(1, a.ndim)), start, end)
  for name, part in changed.items():
    any_moved = np.any(jax.tree.leaves(part), axis=0)
    assert any_moved.tolist() == ([True, False] if name == 'method' else [False, True])


def test_sign_flips_are_counted_exactly():
  values = [3.0, -1.0, 2.0, 5.0, 0.5]
  sums = [
    abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=len(values))
  ]
  assert analysis.sign_flip(values) == np.mean(np.array(sums) >= 9.5)
  assert analysis.sign_flip([1.0] * 5) == 2 / 32
  assert analysis.sign_flip([1.0] * 30) < 1e-4


def test_holm_multiplies_by_the_hypotheses_that_are_left():
  adjusted = analysis.holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': float('nan')})
  assert adjusted['a'] == pytest.approx(0.03)
  assert adjusted['b'] == adjusted['c'] == pytest.approx(0.06)
  assert np.isnan(adjusted['d'])


def test_verdicts():
  random = np.random.default_rng(0)
  noise = random.normal(0, 0.1, 20)
  for shift, scale, wanted in (
    (1.0, 1.0, 'yes'),
    (-1.0, 1.0, 'the opposite'),
    (0.0, 1.0, 'no difference that matters'),
    (0.0, 100.0, 'cannot be told here'),
  ):
    differences = shift + scale * (noise - noise.mean())
    effect = analysis.effect(differences, bound=0.2)
    assert analysis.verdict(effect, effect.p, planned=20) == wanted
  assert analysis.verdict(effect, effect.p, planned=21).startswith('not yet run')


def test_the_summary_puts_every_claim_under_its_verdict():
  row = lambda name, verdict: [name, f'claim {name}', 'ours', '+1.0', '', '', '', verdict]
  text = tables.in_short(
    [
      *(row('A1', 'yes'), row('A2', 'the opposite'), row('A3', tables.WAITS)),
      *(row('A4', 'not yet run: 1 of 2 pairs'), row('A5', 'yes')),
    ]
  )
  assert text == (
    '- **Holds here**\n'
    '  - claim A1 (A1: +1.0)\n'
    '  - claim A5 (A5: +1.0)\n'
    '- **The opposite holds here**\n'
    '  - claim A2 (A2: +1.0)\n'
    '- **Measured, but decided only when all runs of the study are done**\n'
    '  - claim A3 (A3: +1.0)\n'
    '- **Not all runs are done**\n'
    '  - claim A4 (A4)\n'
  )


def test_a_line_that_was_cut_off_is_done_again(tmp_path):
  path = tmp_path / 'results.jsonl'
  records.add(path, [{'a': 1}])
  with path.open('a') as file:
    file.write('{"a": 2')
  assert records.read(path) == [{'a': 1}]
  records.add(path, [{'a': 3}])
  assert records.read(path) == [{'a': 1}, {'a': 3}]


def test_no_training_text_is_validated_on(tmp_path, monkeypatch):
  for name in data.TASKS:
    (tmp_path / name).mkdir()
    for split, text in (('train', f'{name} only.'), ('validation', f'held {name}')):
      rows = [{'inputs': f'{name} sentence: {text}', 'targets': 'x'}]
      if (name, split) == ('sst5', 'train'):
        rows.append({'inputs': 'sst5 sentence: Held SST2 .', 'targets': 'y'})
      lines = ''.join(json.dumps(row) + '\n' for row in rows)
      (tmp_path / name / f'{split}.jsonl').write_text(lines)
  monkeypatch.setenv('STUDY_TEXT_DIR', str(tmp_path))
  data.tasks.cache_clear()
  loaded = data.tasks()
  data.tasks.cache_clear()
  assert {name: task.removed for name, task in loaded.items() if task.removed} == {
    'sst5': 1
  }
  assert loaded['sst5'].train == [('sst5 sentence: sst5 only.', 'x')]


def test_the_detectable_difference_is_that_of_the_power_calculation():
  # The pre-registration's: 20 seeds at a deviation of 5.9 detect about 4.9 points.
  random = np.random.default_rng(0).normal(size=20)
  values = 5.9 * (random - random.mean()) / random.std(ddof=1)
  effect = analysis.effect(values, bound=2.0)
  assert effect.deviation == pytest.approx(5.9)
  assert effect.detectable(pairs=20, tests=10) == pytest.approx(4.9, abs=0.6)
