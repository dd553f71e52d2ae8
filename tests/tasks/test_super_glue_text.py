"""The worked examples of the specification, for every SuperGLUE task."""

import pytest
import tensorflow as tf

BOOLQ = {
  'passage': 'Otter -- River otters sleep in dens on the bank. Sea otters sleep afloat.',
  'question': 'do otters sleep on land',
  'label': 1,
  'idx': 3,
}
CB = {
  'premise': 'A: Is Ann in? B: I doubt that she has left.',
  'hypothesis': 'Ann has left',
  'label': 1,
  'idx': 3,
}
COPA = {
  'premise': 'The pond froze.',
  'choice1': 'Children skated on it.',
  'choice2': 'The ducks laid eggs.',
  'question': 'effect',
  'label': 0,
  'idx': 3,
}
RTE = {
  'premise': 'The mayor opened the bridge on Monday.',
  'hypothesis': 'The bridge is open.',
  'label': 0,
  'idx': 3,
}
WIC = {
  'sentence1': 'The pitch was too wet to play.',
  'sentence2': 'Her sales pitch was short.',
  'word': 'pitch',
  'start1': 4,
  'end1': 9,
  'start2': 10,
  'end2': 15,
  'label': 0,
  'idx': 3,
}
AXB = {
  'sentence1': 'No guest arrived late.',
  'sentence2': 'Some guest arrived late.',
  'label': 1,
  'idx': 3,
}
AXG = {
  'premise': 'The pilot called the nurse because she was ill.',
  'hypothesis': 'The nurse was ill.',
  'label': 0,
  'idx': 3,
}
MULTIRC = {
  'paragraph': '<b>Sent 1: </b>Ida baked bread.<br><b>Sent 2: </b>Rolf ate it.',
  'question': 'Who baked?',
  'answer': 'Ida',
  'label': 1,
  'idx': {'paragraph': 2, 'question': 11, 'answer': 40},
}
RECORD = {
  'passage': 'Eva Holm won in Turin\n@highlight\nHolm beat Rossi.\n@highlight\nRain fell',
  'query': 'After the match @placeholder thanked the crowd.',
  'entities': ['Eva Holm', 'Holm', 'Rossi', 'Turin'],
  'answers': ['Eva Holm', 'Holm'],
  'idx': {'passage': 5, 'query': 8},
}
WSC = {
  'text': 'Vera lent Paul a rake because he had lost his own .',
  'span1_text': 'Vera',
  'span1_index': 0,
  'span2_text': 'he',
  'span2_index': 6,
  'label': 0,
  'idx': 3,
}
DPR = {
  'sentence': 'The bus passed the tram because it was late, and it stopped.',
  'pronoun': 'it',
  'candidates': ['The bus', 'the tram'],
  'label': 0,
}


@pytest.mark.parametrize(
  ('task', 'row', 'inputs', 'targets'),
  [
    (
      'boolq',
      BOOLQ,
      'boolq passage: Otter -- River otters sleep in dens on the bank. Sea otters '
      'sleep afloat. question: do otters sleep on land',
      'True',
    ),
    (
      'cb',
      CB,
      'cb hypothesis: Ann has left premise: A: Is Ann in? B: I doubt that she has left.',
      'contradiction',
    ),
    (
      'copa',
      COPA,
      'copa choice1: Children skated on it. choice2: The ducks laid eggs. premise: The '
      'pond froze. question: effect',
      'choice1',
    ),
    (
      'rte',
      RTE,
      'rte hypothesis: The bridge is open. premise: The mayor opened the bridge on Monday.',
      'entailment',
    ),
    (
      'wic',
      WIC,
      'wic sentence1: The pitch was too wet to play. sentence2: Her sales pitch was '
      'short. word: pitch',
      'False',
    ),
    (
      'axb',
      AXB,
      'rte hypothesis: Some guest arrived late. premise: No guest arrived late.',
      'not_entailment',
    ),
    (
      'axg',
      AXG,
      'rte hypothesis: The nurse was ill. premise: The pilot called the nurse because '
      'she was ill.',
      'entailment',
    ),
  ],
)
def test_classification_tasks_have_t5s_text(text_of, task, row, inputs, targets):
  examples = text_of(f'hp_super_glue_{task}_v102', row)
  assert examples == [{'inputs': inputs, 'targets': targets, 'idx': 3}]


def test_values_enter_the_text_byte_for_byte(text_of):
  row = {**BOOLQ, 'passage': '  Tab\there.\nLine é ', 'question': ''}
  [example] = text_of('hp_super_glue_boolq_v102', row)
  assert example['inputs'] == 'boolq passage:   Tab\there.\nLine é  question: '


def test_a_row_without_label_has_the_target_unk(text_of):
  for task, row in (('boolq', BOOLQ), ('cb', CB), ('multirc', MULTIRC)):
    [example] = text_of(f'hp_super_glue_{task}_v102', {**row, 'label': -1})
    assert example['targets'] == '<unk>'


def test_multirc_drops_its_tags_and_keeps_flat_ids(text_of):
  assert text_of('hp_super_glue_multirc_v102', MULTIRC) == [
    {
      'inputs': 'multirc question: Who baked? answer: Ida paragraph: Sent 1: Ida baked '
      'bread. Sent 2: Rolf ate it.',
      'targets': 'True',
      'idx/paragraph': 2,
      'idx/question': 11,
      'idx/answer': 40,
    }
  ]


def test_multirc_leaves_other_tags_alone(text_of):
  row = {**MULTIRC, 'paragraph': '<BR>a<br/>b<i>c  ', 'answer': 'x<br>y'}
  [example] = text_of('hp_super_glue_multirc_v102', row)
  assert example['inputs'] == (
    'multirc question: Who baked? answer: x y paragraph: <BR>a<br/>b<i>c  '
  )


def test_record_has_one_example_per_answer(text_of):
  inputs = (
    'record query: After the match @placeholder thanked the crowd. entities: Eva Holm, '
    'Holm, Rossi, Turin passage: Eva Holm won in Turin. Holm beat Rossi. Rain fell'
  )
  common = {
    'inputs': inputs,
    'answers': ['Eva Holm', 'Holm'],
    'idx/passage': 5,
    'idx/query': 8,
  }
  assert text_of('hp_super_glue_record_v102', RECORD) == [
    {**common, 'targets': 'Eva Holm'},
    {**common, 'targets': 'Holm'},
  ]


def test_record_without_answers_is_one_example(text_of):
  row = {**RECORD, 'answers': [], 'entities': []}
  [example] = text_of('hp_super_glue_record_v102', row)
  assert example['targets'] == '<unk>'
  assert example['answers'] == []
  assert ' entities:  passage: ' in example['inputs']


@pytest.mark.parametrize(
  ('passage', 'expected'),
  [
    ('Won?\n@highlight\nYes', 'Won? Yes'),
    ("'so'\n@highlight\nYes", "'so' Yes"),
    ('So”\n@highlight\nYes', 'So”. Yes'),
    ('So. \n@highlight\nYes', 'So. . Yes'),
    ('A\n@highlight\n@highlight\nB', 'A. @highlight\nB'),
    ('A\nB @highlight C', 'A\nB @highlight C'),
  ],
)
def test_record_ends_sentences_before_highlights(text_of, passage, expected):
  example = text_of('hp_super_glue_record_v102', {**RECORD, 'passage': passage})[0]
  assert example['inputs'].endswith(f' passage: {expected}')


def test_wsc_marks_the_pronoun_and_targets_the_referent(text_of):
  assert text_of('hp_super_glue_wsc_v102_simple_eval', WSC) == [
    {
      'inputs': 'wsc: Vera lent Paul a rake because *he* had lost his own .',
      'targets': 'Vera',
      'label': 0,
      'idx': 3,
    }
  ]


def test_wsc_trains_on_right_referents_alone(text_of):
  assert text_of('hp_super_glue_wsc_v102_simple_train', WSC) == []
  [example] = text_of('hp_super_glue_wsc_v102_simple_train', {**WSC, 'label': 1})
  assert example['targets'] == 'Vera'


@pytest.mark.parametrize(
  ('text', 'index', 'pronoun', 'inputs'),
  [
    # Two spaces make an empty word, which counts.
    ('The  cat ran as it saw me.', 5, 'it', 'The  cat ran as *it* saw me.'),
    # A separate X is replaced, too.
    (
      'Planet X is far and it is cold.',
      5,
      'it',
      'Planet *it* is far and *it* is cold.',
    ),
    ('Ann left when told by him', 5, 'him', 'Ann left when told by *him*'),
    # T5 corrects these two texts of SuperGLUE.
    (
      'John laughed out. "Good for him," he said. ',
      5,
      'him',
      'John laughed out. "Good for *him* ," he said.',
    ),
    (
      'Some day they might want to use it , but not now.',
      6,
      'it',
      'Some day they might want to use *it* , but not now.',
    ),
  ],
)
def test_wsc_finds_the_pronoun_by_its_index(text_of, text, index, pronoun, inputs):
  row = {**WSC, 'text': text, 'span2_index': index, 'span2_text': pronoun}
  [example] = text_of('hp_super_glue_wsc_v102_simple_eval', row)
  assert example['inputs'] == f'wsc: {inputs}'


@pytest.mark.parametrize('index', [0, 5, 12])
def test_wsc_fails_where_the_index_leads_elsewhere(text_of, index):
  with pytest.raises(tf.errors.InvalidArgumentError):
    text_of('hp_super_glue_wsc_v102_simple_eval', {**WSC, 'span2_index': index})


@pytest.mark.parametrize(
  ('sentence', 'inputs'),
  [
    (DPR['sentence'], 'The bus passed the tram because *it* was late, and it stopped.'),
    ('Tell us of it, now.', 'Tell us of *it*, now.'),
    ('Tell us of it.', 'Tell us of *it*.'),
    ("It is late; it's so late. Is it?", "It is late; it's so late. Is it?"),
  ],
)
def test_dpr_marks_the_first_free_standing_pronoun(text_of, sentence, inputs):
  examples = text_of('hp_dpr_v001_simple', {**DPR, 'sentence': sentence})
  assert examples == [{'inputs': f'wsc: {inputs}', 'targets': 'The bus'}]
