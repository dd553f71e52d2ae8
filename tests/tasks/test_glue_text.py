"""The worked examples of the specification, for every GLUE task."""

import pytest
import tensorflow as tf

from hyperprompt_tasks import wnli


@pytest.mark.parametrize(
  ('task', 'row', 'inputs', 'targets'),
  [
    (
      'cola',
      {'sentence': 'Cat the sat.', 'label': 0},
      'cola sentence: Cat the sat.',
      'unacceptable',
    ),
    (
      'sst2',
      {'sentence': 'a warm , funny film', 'label': 1},
      'sst2 sentence: a warm , funny film',
      'positive',
    ),
    (
      'mrpc',
      {'sentence1': 'Sales rose 3 % .', 'sentence2': 'Sales were up 3 % .', 'label': 1},
      'mrpc sentence1: Sales rose 3 % . sentence2: Sales were up 3 % .',
      'equivalent',
    ),
    (
      'qqp',
      {
        'question1': 'How do I peel garlic?',
        'question2': 'Why is garlic white?',
        'label': 0,
      },
      'qqp question1: How do I peel garlic? question2: Why is garlic white?',
      'not_duplicate',
    ),
    (
      'mnli',
      {'premise': 'It never rains here.', 'hypothesis': 'It rained today.', 'label': 2},
      'mnli hypothesis: It rained today. premise: It never rains here.',
      'contradiction',
    ),
    (
      'mnli_matched',
      {'premise': 'P', 'hypothesis': 'H', 'label': 1},
      'mnli hypothesis: H premise: P',
      'neutral',
    ),
    (
      'mnli_mismatched',
      {'premise': 'P', 'hypothesis': 'H', 'label': 0},
      'mnli hypothesis: H premise: P',
      'entailment',
    ),
    (
      'ax',
      {'premise': 'P', 'hypothesis': 'H', 'label': -1},
      'mnli hypothesis: H premise: P',
      '<unk>',
    ),
    (
      'qnli',
      {
        'question': 'Where is the mill?',
        'sentence': 'The mill stands by the weir.',
        'label': 0,
      },
      'qnli question: Where is the mill? sentence: The mill stands by the weir.',
      'entailment',
    ),
    (
      'rte',
      {'sentence1': 'Ola sings.', 'sentence2': 'Ola is mute.', 'label': 1},
      'rte sentence1: Ola sings. sentence2: Ola is mute.',
      'not_entailment',
    ),
    (
      'wnli',
      {
        'sentence1': 'Tea beats milk since it is hot.',
        'sentence2': 'Tea is hot.',
        'label': 1,
      },
      'wnli sentence1: Tea beats milk since it is hot. sentence2: Tea is hot.',
      'entailment',
    ),
  ],
)
def test_classification_tasks_have_t5s_text(text_of, task, row, inputs, targets):
  examples = text_of(f'hp_glue_{task}_v002', {**row, 'idx': 3})
  assert examples == [{'inputs': inputs, 'targets': targets, 'idx': 3}]


@pytest.mark.parametrize(
  ('score', 'targets'),
  [
    (4.5, '4.4'),
    (0.1, '0.0'),
    (0.3, '0.4'),
    (0.5, '0.4'),
    (0.7, '0.8'),
    (2.5, '2.4'),
    (3.5, '3.6'),
    (2.59, '2.6'),
    (5.0, '5.0'),
    (-1.0, '-1.0'),
  ],
)
def test_stsb_targets_are_scores_rounded_to_fifths(text_of, score, targets):
  row = {'sentence1': 'A man mows grass.', 'sentence2': 'B.', 'label': score, 'idx': 3}
  assert text_of('hp_glue_stsb_v002', row) == [
    {
      'inputs': 'stsb sentence1: A man mows grass. sentence2: B.',
      'targets': targets,
      'idx': 3,
    }
  ]


def test_wnli_for_evaluation_is_in_the_form_of_wsc(text_of):
  row = {
    'sentence1': 'Éva beats Ann since she is fast.',
    'sentence2': 'Éva is fast.',
    'label': 1,
    'idx': 3,
  }
  assert text_of('hp_glue_wnli_v002_simple_eval', row) == [
    {
      'inputs': 'wsc: Éva beats Ann since *she* is fast.',
      'targets': 'Éva',
      'premise': row['sentence1'],
      'hypothesis': row['sentence2'],
      'label': 1,
      'idx': 3,
    }
  ]


@pytest.mark.parametrize(
  ('premise', 'hypothesis', 'marked', 'noun'),
  [
    (
      'Tea beats milk since it is hot.',
      'Tea is hot.',
      'Tea beats milk since *it* is hot.',
      'Tea',
    ),
    # Words before and after the pronoun count alike, and a final mark moves outside.
    (
      'Tom dropped the jar onto the tray and broke it.',
      'Tom broke the jar.',
      'Tom dropped the jar onto the tray and broke *it* .',
      'the jar',
    ),
    # The pronoun with more of its neighbours in the hypothesis is chosen.
    (
      'He told Max that it rained on him all day.',
      'It rained on Max all day.',
      'He told Max that it rained on *him* all day.',
      'Max',
    ),
    # The first of two equal pronouns is chosen.
    ('It ran and it ran.', 'The dog ran.', '*It* ran and it ran.', 'The dog'),
    # The words before the last article are cut off.
    (
      'Ida saw that it was old.',
      'She thinks the mill of the lord was old.',
      'Ida saw that *it* was old.',
      'the mill of the lord',
    ),
    (
      'Ida saw that it was old.',
      'In a town the mill was old.',
      'Ida saw that *it* was old.',
      'the mill',
    ),
    # A possessive noun loses its ending.
    (
      'The boys said their car was red.',
      "The girls' car was red.",
      'The boys said *their* car was red.',
      'The girls',
    ),
    # Marks within the hypothesis belong to the noun, and spaces are kept.
    (
      'So  they , all, met him, they left.',
      'Max, Ann left.',
      'So  they , all, met him, *they* left.',
      'Max, Ann',
    ),
    # Without common words there is no noun.
    ('We saw it.', 'Yes.', 'We saw *it* .', ''),
  ],
)
def test_wnli_finds_the_pronoun_and_the_noun_in_its_place(
  premise, hypothesis, marked, noun
):
  assert wnli.recast(premise, hypothesis) == (marked, noun)


def test_wnli_fails_where_there_is_no_pronoun(text_of):
  with pytest.raises(ValueError, match='no pronoun'):
    wnli.recast('Tea is hot.', 'Tea is hot.')
  row = {'sentence1': 'Tea.', 'sentence2': 'Tea.', 'label': 1, 'idx': 3}
  with pytest.raises(tf.errors.InvalidArgumentError, match='no pronoun'):
    text_of('hp_glue_wnli_v002_simple_eval', row)


def test_wnli_fails_where_the_noun_is_not_as_it_was_written():
  # Words are compared with single spaces between them.
  with pytest.raises(ValueError, match='is not in'):
    wnli.recast('Ann said it was old.', 'The  mill was old.')
