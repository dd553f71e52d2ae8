"""The files of SuperGLUE's and GLUE's servers."""

import dataclasses
import json

import pytest
import seqio

from hyperprompt_tasks import errors, submissions

SUPER_GLUE, GLUE = 'hp_super_glue_v102_proportional', 'hp_glue_v002_proportional'


def answered(benchmark, name, pairs):
  """The contents of one file, of a test split of so many examples."""
  (file,) = [file for file in submissions.files(benchmark) if file.name == name]
  file = dataclasses.replace(file, rows=len(pairs))
  return submissions.contents(file, pairs)


def lines(name, pairs):
  text, strange = answered(SUPER_GLUE, name, pairs)
  assert text.endswith('\n')
  return [json.loads(line) for line in text.splitlines()], strange


@pytest.mark.parametrize(
  ('name', 'texts', 'labels'),
  [
    ('BoolQ.jsonl', ('True', 'False'), ('true', 'false')),
    ('CB.jsonl', ('neutral', 'contradiction'), ('neutral', 'contradiction')),
    ('COPA.jsonl', ('choice2', 'choice1'), (1, 0)),
    ('RTE.jsonl', ('not_entailment', 'entailment'), ('not_entailment', 'entailment')),
    ('WiC.jsonl', ('True', 'False'), ('true', 'false')),
    ('AX-b.jsonl', ('entailment', 'not_entailment'), ('entailment', 'not_entailment')),
    ('AX-g.jsonl', ('entailment', 'not_entailment'), ('entailment', 'not_entailment')),
  ],
)
def test_labels_as_the_server_has_them(name, texts, labels):
  pairs = [({'idx': 1 - n}, text) for n, text in enumerate(texts)]
  result, strange = lines(name, pairs)
  # In the order of the official file; TFDS has another.
  assert result == [{'idx': 0, 'label': labels[1]}, {'idx': 1, 'label': labels[0]}]
  assert strange == 0


def test_what_is_no_label_is_counted_and_written_as_the_first():
  pairs = [({'idx': 0}, 'true'), ({'idx': 1}, 'True'), ({'idx': 2}, '')]
  result, strange = lines('BoolQ.jsonl', pairs)
  assert [line['label'] for line in result] == ['false', 'true', 'false']
  assert strange == 2


def test_wsc_is_whether_the_referent_is_named():
  example = {'targets_pretokenized': b'the old man', 'label': -1}
  pairs = [({**example, 'idx': n}, text) for n, text in enumerate(('old man', 'it', 'the'))]
  result, strange = lines('WSC.jsonl', pairs)
  assert [line['label'] for line in result] == ['True', 'False', 'False']
  assert strange == 1


def test_multirc_is_nested():
  at = lambda p, q, a: {'idx/paragraph': p, 'idx/question': q, 'idx/answer': a}
  pairs = [(at(1, 3, 7), 'True'), (at(0, 2, 5), 'False'), (at(0, 1, 4), 'True')]
  pairs += [(at(0, 1, 3), 'False')]
  result, strange = lines('MultiRC.jsonl', pairs)
  assert result == [
    {
      'idx': 0,
      'passage': {
        'questions': [
          {'idx': 1, 'answers': [{'idx': 3, 'label': 0}, {'idx': 4, 'label': 1}]},
          {'idx': 2, 'answers': [{'idx': 5, 'label': 0}]},
        ]
      },
    },
    {'idx': 1, 'passage': {'questions': [{'idx': 3, 'answers': [{'idx': 7, 'label': 1}]}]}},
  ]
  assert strange == 0


def test_record_is_the_text_of_each_query():
  at = lambda query: {'idx/passage': 0, 'idx/query': query}
  result, _ = lines('ReCoRD.jsonl', [(at(2), 'Éva'), (at(1), 'Rossi')])
  assert result == [{'idx': 1, 'label': 'Rossi'}, {'idx': 2, 'label': 'Éva'}]


def test_the_number_of_rows_is_the_servers():
  wanted = {'BoolQ': 3_245, 'CB': 250, 'COPA': 500, 'MultiRC': 9_693, 'ReCoRD': 10_000}
  wanted |= {'RTE': 3_000, 'WiC': 1_400, 'WSC': 146, 'AX-b': 1_104, 'AX-g': 356}
  files = submissions.files(SUPER_GLUE)
  assert {file.name.removesuffix('.jsonl'): file.rows for file in files} == wanted
  message = (
    'has 2 examples; the server expects 250 in CB.jsonl: use the official test split'
  )
  with pytest.raises(errors.DataError, match=message):
    submissions.contents(files[1], [({'idx': n}, 'neutral') for n in range(2)])


def test_every_file_is_of_a_task_of_the_mixture():
  for benchmark in (SUPER_GLUE, GLUE):
    members = {task.name for task in seqio.MixtureRegistry.get(benchmark).tasks}
    assert {file.task for file in submissions.files(benchmark)} <= members
  with pytest.raises(errors.TaskError, match='hp_builtin is no benchmark with a server'):
    submissions.files('hp_builtin')


@pytest.mark.parametrize(
  ('name', 'texts', 'column'),
  [
    ('CoLA.tsv', ('acceptable', 'unacceptable'), ('1', '0')),
    ('SST-2.tsv', ('positive', 'negative'), ('1', '0')),
    ('MRPC.tsv', ('equivalent', 'not_equivalent'), ('1', '0')),
    ('QQP.tsv', ('duplicate', 'not_duplicate'), ('1', '0')),
    ('STS-B.tsv', ('4.6', 'much'), ('4.600', '-1.000')),
    ('MNLI-m.tsv', ('neutral', 'contradiction'), ('neutral', 'contradiction')),
    ('MNLI-mm.tsv', ('neutral', 'entailment'), ('neutral', 'entailment')),
    ('QNLI.tsv', ('not_entailment', 'entailment'), ('not_entailment', 'entailment')),
    ('RTE.tsv', ('not_entailment', 'entailment'), ('not_entailment', 'entailment')),
    ('AX.tsv', ('neutral', 'contradiction'), ('neutral', 'contradiction')),
  ],
)
def test_glues_tables(name, texts, column):
  pairs = [({'idx': n}, text) for n, text in enumerate(texts)]
  text, _ = answered(GLUE, name, pairs)
  assert text == f'index\tprediction\n0\t{column[0]}\n1\t{column[1]}\n'
