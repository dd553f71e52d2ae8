import collections
import functools

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import builtin

ALPHABET = 'abcdefgh'

# Each function once more, letter by letter.
EXPECTED = {
  'first': lambda letters: [letters[0]],
  'last': lambda letters: [letters[5]],
  'max': lambda letters: [max(letters, key=ALPHABET.index)],
  'copy': lambda letters: letters,
  'reverse': lambda letters: list(reversed(letters)),
  'rotate': lambda letters: [letters[(i + 1) % 6] for i in range(6)],
  'successor': lambda letters: [
    ALPHABET[(ALPHABET.index(letter) + 1) % 8] for letter in letters
  ],
  'sort': lambda letters: [
    letter for letter in ALPHABET for _ in range(letters.count(letter))
  ],
}


@functools.cache
def pairs(name, split='validation'):
  dataset = seqio.TaskRegistry.get(f'hp_builtin_{name}').get_dataset(
    None, split, shuffle=False
  )
  return [
    (ex['inputs_pretokenized'].decode(), ex['targets_pretokenized'].decode())
    for ex in dataset.as_numpy_iterator()
  ]


def test_there_are_at_least_eight_tasks_with_equal_rates():
  mixture = seqio.MixtureRegistry.get('hp_builtin')
  assert len(mixture.tasks) >= 8
  assert len({mixture.get_rate(task) for task in mixture.tasks}) == 1
  assert set(EXPECTED) == set(hyperprompt_tasks.task_list('hp_builtin'))


@pytest.mark.parametrize('name', EXPECTED)
def test_targets_are_the_named_function_of_the_inputs(name):
  for inputs, targets in pairs(name):
    prefix, text = inputs.split(' ')
    assert prefix == f'{name}:'
    assert len(text) == 6 and set(text) <= set(ALPHABET)
    assert list(targets) == EXPECTED[name](list(text))


def test_all_tasks_share_their_strings_and_disagree_on_the_outputs():
  validation = {name: pairs(name) for name in EXPECTED}
  strings = {
    name: [inputs.removeprefix(f'{name}: ') for inputs, _ in rows]
    for name, rows in validation.items()
  }
  assert all(texts == strings['copy'] for texts in strings.values())
  for i in range(len(strings['copy'])):
    # No two tasks agree by more than chance: most outputs for one string differ.
    assert len({rows[i][1] for rows in validation.values()}) >= 4


def test_validation_strings_are_distinct_and_not_in_train():
  columns = builtin.BuiltinSource('copy').columns('train')
  train = [inputs.decode() for inputs in columns['inputs'].numpy()]
  validation = [inputs for inputs, _ in pairs('copy')]
  assert len(train) == len(set(train)) == 8192
  assert len(validation) == len(set(validation)) == 128
  assert not set(train) & set(validation)


def test_strings_are_the_same_in_every_process():
  # From a fixed seed; a change here makes earlier results on this mixture void.
  assert [text for text, _ in pairs('copy')[:3]] == [
    'copy: hcahaa',
    'copy: dhceeg',
    'copy: afbhbh',
  ]


def test_examples_are_short_in_bytes():
  mixture = seqio.MixtureRegistry.get('hp_builtin')
  dataset = mixture.get_dataset(None, 'train', shuffle=False, num_epochs=1)
  for example in dataset.take(500).as_numpy_iterator():
    assert example['inputs'].size <= 24
    assert example['targets'].size <= 10
    assert example['inputs'][-1] == example['targets'][-1] == 1


@pytest.mark.parametrize('name', ['max', 'hp_builtin_max', 'reverse'])
def test_chance_is_the_best_constant_answer(name):
  rows = pairs(name.removeprefix('hp_builtin_'))
  best = max(collections.Counter(targets for _, targets in rows).values())
  assert hyperprompt_tasks.chance(name) == pytest.approx(100 * best / 128)


def test_chance_grows_easier_for_single_letters_only():
  assert hyperprompt_tasks.chance('max') > hyperprompt_tasks.chance('first') > 5
  assert hyperprompt_tasks.chance('sort') < 5


def test_the_source_counts_its_rows_without_making_them():
  source = builtin.BuiltinSource('copy')
  assert source.num_input_examples('train') == 8192
  assert source.num_input_examples('validation') == 128
