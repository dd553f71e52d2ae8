import numpy as np
import pytest

from hyperprompt_tasks import postprocessors

CLASSES = ('entailment', 'contradiction', 'neutral')


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('entailment', 0),
    ('neutral', 2),
    ('Neutral', -1),
    ('neutral ', -1),
    ('', -1),
    ('<unk>', -1),
  ],
)
def test_class_id_is_exact_and_minus_one_otherwise(text, expected):
  result = postprocessors.class_id(text, classes=CLASSES, example={}, is_target=False)
  assert result == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('3.4', 3.4),
    (' 3.4 ', 3.4),
    ('1e1', 10.0),
    ('1_0', 10.0),
    ('7.5', 7.5),
    ('inf', float('inf')),
    ('3,4', -1.0),
    ('3.4.', -1.0),
    ('', -1.0),
    ('<unk>', -1.0),
  ],
)
def test_number_is_what_python_reads_and_minus_one_otherwise(text, expected):
  for is_target in (True, False):
    assert postprocessors.number(text, example={}, is_target=is_target) == expected


def test_multirc_groups_by_question():
  example = {'idx/question': np.int32(11), 'idx/paragraph': np.int32(2)}
  for is_target in (True, False):
    assert postprocessors.multirc(
      'True', classes=('False', 'True'), example=example, is_target=is_target
    ) == {'value': 1, 'group': 11}


def test_record_target_is_every_answer_and_prediction_is_the_text():
  example = {
    'idx/passage': np.int32(5),
    'idx/query': np.int32(8),
    'answers': np.array(['Éva'.encode(), b'Holm'], dtype=object),
  }
  target = postprocessors.record('Holm', example=example, is_target=True)
  predicted = postprocessors.record('Rossi', example=example, is_target=False)
  assert target == {'value': ['Éva', 'Holm'], 'group': (5, 8)}
  assert predicted == {'value': 'Rossi', 'group': (5, 8)}


@pytest.mark.parametrize(
  ('referent', 'predicted', 'expected'),
  [
    ('The city councilmen', 'the councilmen', 1),
    ('councilmen', 'The City Councilmen', 1),
    ('my father', 'his father', 1),
    ('councilmen', 'councilmen.', 0),
    ('Bob', "Bob's hat", 0),
    ("Bob's hat", "bob's", 1),
    ('Bob', 'Ann', 0),
    ('the city', 'the', -1),
    ('the city', '', -1),
  ],
)
def test_wsc_accepts_a_phrase_for_the_same_referent(referent, predicted, expected):
  example = {'targets_pretokenized': referent.encode(), 'label': np.int64(0)}
  assert postprocessors.wsc(predicted, example=example, is_target=False) == expected


def test_wsc_target_is_the_label():
  example = {'targets_pretokenized': b'Bob', 'label': np.int64(1)}
  assert postprocessors.wsc('Bob', example=example, is_target=True) == 1
